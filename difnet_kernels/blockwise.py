"""The random walk in PyTorch operations over blocks of P: any device, memory O(B N (d + k)) and a few tiles.

Numbers in parentheses are equations of docs/math.md. `walk_forward` computes (1) to (4) and `walk_backward`
(5) to (11), each noted at its line. The paper's Eq. 5 is (4) here, and (5) to (11) are its derivative. The
file differs from a plain loop over blocks in three ways:

- `_centre` first subtracts a common vector from the features, (12), so that low-precision matrix products
  keep their digits. The gradient of the features is then (13). All arithmetic is float32, or float64 if the
  inputs are float64;
- the forward sweeps the columns of a row block with an online softmax, so no whole row of P is ever stored;
- the backward walks over pairs of blocks (I, J) with I <= J. S is symmetric, so the scores of (I, J) and
  (J, I), and the factor dS + dS^T of (11), are computed once for both.

Everything runs in a fixed order without atomics: the same inputs give the same bits.
"""

import itertools

import torch
from torch import Tensor

from difnet_kernels.support.autocast import product
from difnet_kernels.support.saved import SavedWalk

# Edge of a square tile of P by device type. On the CPU the few tiles that exist at once stay in the caches.
# Elsewhere tiles are large, so that the time of a kernel exceeds the time of its launch.
_TILE_EDGE = {"cpu": 512}
_TILE_EDGE_ELSEWHERE = 4096

# Weights below the first number are set to 0. They are far below the rounding error of their row's sum, which
# is at least 1, and exp and products of subnormal numbers are up to 30 times slower on CPUs. Exponents are
# clamped at the second number, which is slightly below the logarithm of the first.
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
    padded = _side_by_side(state)
    batches, blocks = _tiling(feature)
    for batch, rows in itertools.product(batches, blocks):
        accumulator = torch.zeros_like(padded[batch, rows])
        # Row sums are not a column of the product: a matrix product adds its terms one by one, and beside a
        # weight of 1 small terms would be lost.
        row_sum = torch.zeros_like(accumulator[..., :1])
        row_max = torch.full_like(row_sum, -torch.inf)
        for columns in blocks:
            scores = torch.bmm(centred[batch, rows], centred[batch, columns].mT)
            scores += bias[batch, None, columns]  # (1), centred as in (12)
            new_max = torch.maximum(row_max, scores.amax(dim=-1, keepdim=True))
            # All columns of a row so far may be masked: -inf - -inf would be NaN, while -inf - 0 is -inf.
            shift = new_max.masked_fill(new_max == -torch.inf, 0)
            rescale = torch.exp(row_max - shift)
            weights = _exp_(scores.sub_(shift))
            accumulator.mul_(rescale).baddbmm_(weights, padded[batch, columns])
            row_sum.mul_(rescale).add_(weights.sum(dim=-1, keepdim=True))
            row_max = new_max
        z[batch, rows] = accumulator[..., :k] / row_sum  # (3)
        lse[batch, rows] = (row_max + row_sum.log()).squeeze(-1)  # L of (2)
    return state.lerp(seed.lerp(z, mu), beta), z, lse  # (4); lerp is exact where mu or beta is 0 or 1


def walk_backward(grad: Tensor, walk: SavedWalk, output_mask: list[bool]) -> tuple[Tensor, ...]:
    """The six gradients; the contract is in `difnet_kernels.ops`."""
    feature, state, seed, z, _, mu, beta, _ = walk
    need_feature, need_state, need_seed, need_mu, need_beta, need_bias = output_mask
    grad_feature, grad_state, grad_seed, grad_mu, grad_beta, grad_bias = (grad.new_empty(0) for _ in range(6))
    if need_feature or need_state or need_bias:
        a = (beta * mu) * grad  # a of docs/math.md, section 2
        df, p_transposed_a, dc = _pair_gradients(a, walk, need_feature or need_bias)
        grad_feature = df.to(feature.dtype) if need_feature else grad_feature
        grad_state = p_transposed_a.add_((1 - beta) * grad) if need_state else grad_state  # (8)
        grad_bias = dc if need_bias else grad_bias
    if need_seed:
        grad_seed = (beta * (1 - mu)) * grad  # (5)
    if need_mu:
        grad_mu = beta * (grad * (z - seed)).sum()  # (6)
    if need_beta:
        grad_beta = (grad * (seed.lerp(z, mu) - state)).sum()  # (7)
    return grad_feature, grad_state, grad_seed, grad_mu, grad_beta, grad_bias


def _pair_gradients(a: Tensor, walk: SavedWalk, need_scores: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(dF, P^T a, dc), the sums over pairs of nodes. dF and dc are valid only with `need_scores`."""
    feature, state, _, z, lse, _, _, node_bias = walk
    centred, bias, centre = _centre(feature, node_bias)
    grad_centred, grad_state, grad_bias = (torch.zeros_like(x) for x in (centred, state, bias))
    delta = (a * z).sum(dim=-1, keepdim=True)  # delta of docs/math.md, section 2
    # The product left right^T has the entries a_i . y_j - delta_i.
    left, right = _side_by_side(a, -delta), _side_by_side(state, torch.ones_like(delta))

    batches, blocks = _tiling(feature)
    for batch in batches:
        for rows, columns in itertools.combinations_with_replacement(blocks, 2):
            I, J = (batch, rows), (batch, columns)  # noqa: E741
            scores = torch.bmm(centred[I], centred[J].mT)
            # The bias is added before the row's logarithm is subtracted, so that exponents are rounded as in
            # the forward.
            p_ij = _exp_((scores + bias[J][:, None]).sub_(lse[I][..., None]))  # (2)
            if len(blocks) == 1:
                # The whole row is here, so its sum corrects the rounding of L, a relative error of 2^-24 |L|.
                row_sum = p_ij.sum(dim=-1, keepdim=True)
                p_ij.div_(row_sum.masked_fill_(row_sum == 0, 1))
            grad_state[J].baddbmm_(p_ij.mT, a[I])  # P^T a of (8)
            if need_scores:
                ds_ij = p_ij.mul_(torch.bmm(left[I], right[J].mT))  # (9)
                grad_bias[J] += ds_ij.sum(dim=1)  # (10)
            if rows == columns:
                if need_scores:
                    grad_centred[I].baddbmm_(ds_ij + ds_ij.mT, centred[I])  # (11)
                continue
            # The tile of (J, I), stored transposed: P_ji is at the place that P_ij has in p_ij.
            p_ji = _exp_(scores.add_(bias[I][..., None]).sub_(lse[J][:, None]))  # (2)
            grad_state[I].baddbmm_(p_ji, a[J])  # P^T a of (8)
            if need_scores:
                ds_ji = p_ji.mul_(torch.bmm(right[I], left[J].mT))  # (9)
                grad_bias[I] += ds_ji.sum(dim=2)  # (10)
                symmetric = ds_ij.add_(ds_ji)
                grad_centred[I].baddbmm_(symmetric, centred[J])  # (11)
                grad_centred[J].baddbmm_(symmetric.mT, centred[I])  # (11)
    return grad_centred.addcmul_(grad_bias[..., None], centre), grad_state, grad_bias  # (13)


def transition_rows(feature: Tensor, nodes: Tensor, node_bias: Tensor | None) -> Tensor:
    """Rows `nodes` (B, n) of P, (B, n, N), from centred features; differentiable."""
    centred, bias, _ = _centre(feature, node_bias)
    rows = centred.gather(1, nodes[..., None].expand(-1, -1, centred.shape[-1]))
    return torch.softmax(product(rows, centred.mT) + bias[:, None], dim=-1)  # (1), (2)


def _centre(feature: Tensor, node_bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """G = F - centre (B, N, d), the bias c_j + centre . g_j (B, N), and the centre (B, 1, d), by (12).

    The softmax rows of G G^T + 1 bias^T are those of F F^T + 1 c^T for any centre. The centre is the mean
    row of an image if that makes the image's features shorter on average, and zero otherwise: if a few huge
    rows dominate the mean, subtracting it would cost all other rows their digits.
    """
    feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
    mean = feature.mean(dim=1, keepdim=True)
    lengths, centred_lengths = (x.norm(dim=-1).mean(dim=1)[:, None, None] for x in (feature, feature - mean))
    # The comparison is false where a length is NaN: the centre is then NaN too, and reaches the results.
    centre = mean.masked_fill(centred_lengths > lengths, 0)
    centred = feature - centre
    bias = (centred * centre).sum(dim=-1)
    return centred, bias if node_bias is None else bias + node_bias, centre


def _exp_(exponents: Tensor) -> Tensor:
    """exp in place. Results that would be subnormal, and those of -inf, are zero. NaN stays NaN."""
    smallest, lowest = _UNDERFLOW[exponents.dtype]
    return torch.threshold_(exponents.clamp_(min=lowest).exp_(), smallest, 0.0)


def _side_by_side(*parts: Tensor) -> Tensor:
    """The parts as columns of one tensor, padded with zeros to a multiple of `_WIDTH_MULTIPLE` columns."""
    width = sum(part.shape[-1] for part in parts)
    padding = parts[0].new_zeros(*parts[0].shape[:-1], -width % _WIDTH_MULTIPLE)
    return torch.cat((*parts, padding), dim=-1)


def _tiling(feature: Tensor) -> tuple[list[slice], list[slice]]:
    """Slices of the batch and of the nodes.

    Small images are computed several at a time, as long as their tiles together are no larger than one full
    tile.
    """
    batch, count, _ = feature.shape
    edge = _TILE_EDGE.get(feature.device.type, _TILE_EDGE_ELSEWHERE)
    images = max(1, edge * edge // min(count, edge) ** 2)
    return _slices(batch, images), _slices(count, edge)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
