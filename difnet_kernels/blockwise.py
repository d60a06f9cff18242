r"""The random walk in PyTorch operations over blocks of P: any device, memory O(N (d + k)) and a few tiles.

Equations are those of docs/math.md. Three things make it more than a loop:

- features are centred first (math.md, section 3), so that low-precision matrix products keep their digits;
  all arithmetic is float32, or float64 where the inputs are;
- the forward sweeps the columns of a row block with an online softmax, so no row of P is ever whole;
- the backward walks over pairs of blocks (I, J) with I <= J: S is symmetric, so the scores of (I, J) and
  (J, I), and the factor dS + dS^T that gives the gradient of the features, are computed once for both.

Everything runs in a fixed order without atomics: the same inputs give the same bits.
"""

import itertools

import torch
from torch import Tensor

from difnet_kernels.support.autocast import product

# Edge of a square tile of P by device type. On the CPU the few tiles alive at once stay in the caches;
# elsewhere they are large enough to hide the launches.
_TILE_EDGE = {"cpu": 512}
_TILE_EDGE_ELSEWHERE = 4096

# Weights below the first number are set to 0. They change nothing beside a row sum of at least 1, and exp and
# products on subnormal numbers are up to 30 times slower on CPUs. The second is the logarithm of a bit less.
_UNDERFLOW = {torch.float32: (2e-38, -87.0), torch.float64: (4e-308, -708.0)}

# Matrix products of odd widths leave the fast path of most libraries.
_WIDTH_MULTIPLE = 8


def walk_forward(
    feature: Tensor, state: Tensor, seed: Tensor, mu: Tensor, beta: Tensor, node_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(new_state, z, lse); the contract is in `difnet_kernels.ops`."""
    centred, bias, _ = _centre(feature, node_bias)
    z, lse = torch.empty_like(state), torch.empty_like(bias)
    k = state.shape[-1]
    padded = _columns(state)
    batches, blocks = _tiling(feature)
    for batch, rows in itertools.product(batches, blocks):
        total = torch.zeros_like(padded[batch, rows])
        # Row sums are not a column of the product: matrix products add one term after the other, and beside a
        # weight of 1 the small ones would be lost.
        row_sum = torch.zeros_like(total[..., :1])
        top = torch.full_like(row_sum, -torch.inf)
        for columns in blocks:
            scores = torch.bmm(centred[batch, rows], centred[batch, columns].mT)
            scores += bias[batch, None, columns]
            new_top = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
            # A row may have only removed columns so far: -inf - -inf is not a number, -inf - 0 is -inf.
            shift = new_top.masked_fill(new_top == -torch.inf, 0)
            scale = torch.exp(top - shift)
            weights = _exp_(scores.sub_(shift))
            total.mul_(scale).baddbmm_(weights, padded[batch, columns])
            row_sum.mul_(scale).add_(weights.sum(dim=-1, keepdim=True))
            top = new_top
        z[batch, rows] = total[..., :k] / row_sum
        lse[batch, rows] = (top + row_sum.log()).squeeze(-1)
    # Nested lerps are the update of Eq. 4, exact where mu or beta is 0 or 1.
    return state.lerp(seed.lerp(z, mu), beta), z, lse


def walk_backward(
    grad: Tensor,
    feature: Tensor,
    state: Tensor,
    seed: Tensor,
    z: Tensor,
    lse: Tensor,
    mu: Tensor,
    beta: Tensor,
    node_bias: Tensor | None,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    """The six gradients; the contract is in `difnet_kernels.ops`."""
    need_feature, need_state, need_seed, need_mu, need_beta, need_bias = output_mask
    grad_feature, grad_state, grad_seed, grad_mu, grad_beta, grad_bias = (grad.new_empty(0) for _ in range(6))
    if need_feature or need_state or need_bias:
        of_feature, of_state, of_bias = _pair_gradients(
            (beta * mu) * grad, feature, state, z, lse, node_bias, need_feature or need_bias
        )
        grad_feature = of_feature.to(feature.dtype) if need_feature else grad_feature
        grad_state = of_state.add_((1 - beta) * grad) if need_state else grad_state
        grad_bias = of_bias if need_bias else grad_bias
    if need_seed:
        grad_seed = (beta * (1 - mu)) * grad
    if need_mu:
        grad_mu = beta * (grad * (z - seed)).sum()
    if need_beta:
        grad_beta = (grad * (seed.lerp(z, mu) - state)).sum()
    return grad_feature, grad_state, grad_seed, grad_mu, grad_beta, grad_bias


def _pair_gradients(
    a: Tensor,
    feature: Tensor,
    state: Tensor,
    z: Tensor,
    lse: Tensor,
    node_bias: Tensor | None,
    need_scores: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The parts that need every pair of nodes: (dF, P^T a, dc); dF and dc only with `need_scores`.

    With dS_ij = P_ij (a_i . y_j - delta_i) and G the centred features,

        dF_i = sum_j (dS_ij + dS_ji) g_j + dc_i centre,    dc_j = sum_i dS_ij,

    the last term because rows of dS sum to zero.
    """
    centred, bias, centre = _centre(feature, node_bias)
    grad_centred, grad_state, grad_bias = (torch.zeros_like(x) for x in (centred, state, bias))
    delta = (a * z).sum(dim=-1, keepdim=True)
    # a_i . y_j - delta_i as one product
    left, right = _columns(a, -delta), _columns(state, torch.ones_like(delta))

    batches, blocks = _tiling(feature)
    for batch in batches:
        for rows, columns in itertools.combinations_with_replacement(blocks, 2):
            I, J = (batch, rows), (batch, columns)  # noqa: E741
            scores = torch.bmm(centred[I], centred[J].mT)
            # The bias first, as in the forward, so that exponents are rounded as they were there.
            p_ij = _exp_((scores + bias[J][:, None]).sub_(lse[I][..., None]))
            grad_state[J].baddbmm_(p_ij.mT, a[I])
            if need_scores:
                ds_ij = p_ij.mul_(torch.bmm(left[I], right[J].mT))
                grad_bias[J] += ds_ij.sum(dim=1)
            if rows == columns:
                if need_scores:
                    grad_centred[I].baddbmm_(ds_ij + ds_ij.mT, centred[I])
                continue
            # The tile of (J, I), kept transposed so that it lies over the tile of (I, J).
            p_ji = _exp_(scores.add_(bias[I][..., None]).sub_(lse[J][:, None]))
            grad_state[I].baddbmm_(p_ji, a[J])
            if need_scores:
                ds_ji = p_ji.mul_(torch.bmm(right[I], left[J].mT))
                grad_bias[I] += ds_ji.sum(dim=2)
                both = ds_ij.add_(ds_ji)
                grad_centred[I].baddbmm_(both, centred[J])
                grad_centred[J].baddbmm_(both.mT, centred[I])
    return grad_centred.addcmul_(grad_bias[..., None], centre), grad_state, grad_bias


def transition_rows(feature: Tensor, nodes: Tensor, node_bias: Tensor | None) -> Tensor:
    """Rows `nodes` (B, n) of P, (B, n, N), from centred features; differentiable."""
    centred, bias, _ = _centre(feature, node_bias)
    rows = centred.gather(1, nodes[..., None].expand(-1, -1, centred.shape[-1]))
    return torch.softmax(product(rows, centred.mT) + bias[:, None], dim=-1)


def _centre(feature: Tensor, node_bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """G = F - centre (B, N, d), the bias centre . g_j + c_j (B, N), and the centre (B, 1, d).

    Softmax rows of G G^T + 1 bias^T are those of F F^T + 1 c^T: what was dropped is constant along a row.
    That holds for any centre. It is the mean row of an image where that makes its features shorter on
    average, else zero: a mean that a few huge rows have pulled away would cost the others their digits.
    """
    feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
    mean = feature.mean(dim=1, keepdim=True)
    lengths, centred_lengths = (x.norm(dim=-1).mean(dim=1)[:, None, None] for x in (feature, feature - mean))
    # Not "centred < plain": a feature that is not a number must stay one.
    centre = mean.masked_fill(centred_lengths > lengths, 0)
    centred = feature - centre
    bias = (centred * centre).sum(dim=-1)
    return centred, bias if node_bias is None else bias + node_bias, centre


def _exp_(exponents: Tensor) -> Tensor:
    """exp in place, with subnormal results, and those of -inf, set to zero; NaN stays NaN."""
    smallest, lowest = _UNDERFLOW[exponents.dtype]
    return torch.threshold_(exponents.clamp_(min=lowest).exp_(), smallest, 0.0)


def _columns(*parts: Tensor) -> Tensor:
    """The parts side by side, with columns of zeros up to a width that matrix products like."""
    width = sum(part.shape[-1] for part in parts)
    padding = parts[0].new_zeros(*parts[0].shape[:-1], -width % _WIDTH_MULTIPLE)
    return torch.cat((*parts, padding), dim=-1)


def _tiling(feature: Tensor) -> tuple[list[slice], list[slice]]:
    """Slices of the batch and of the nodes; the tiles of all images in a slice are no larger than one."""
    batch, count, _ = feature.shape
    edge = _TILE_EDGE.get(feature.device.type, _TILE_EDGE_ELSEWHERE)
    images = max(1, edge * edge // min(count, edge) ** 2)
    return _slices(batch, images), _slices(count, edge)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
