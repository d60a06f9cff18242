"""The cascade of T walks as one node of the autograd graph.

What is kept for the backward: features, states y_0 .. y_{T-1}, z_t = P_t y_t and one number per row,
O(T B N (d + k)). P is recomputed tile by tile. Going back, each walk hands the gradient of its input
state to the walk before it; the gradients of seed, mu, beta and node bias are gathered on the way.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from difnet_kernels import ops
from difnet_kernels.errors import DoubleBackwardError


class CascadedRandomWalk(torch.autograd.Function):
    """(backend, seed, mu, beta, state, node_bias, *features) -> (y_1 .. y_T, z_1 .. z_T, lse_1 .. lse_T).

    `node_bias` is (T, B, N) or None. The states are differentiable, the rest is there to be saved.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        """T walks, each from the state of the one before."""
        # Where no input needs a gradient, torch.compile puts a context in front of the arguments unless there are
        # as many of them as parameters, and here their number varies.
        if not isinstance(arguments[0], str):
            arguments = arguments[1:]
        backend, seed, mu, beta, state, node_bias, *features = arguments
        walk = ops.walk_forward(backend)
        states, zs, lses = [], [], []
        for t, feature in enumerate(features):
            bias = None if node_bias is None else node_bias[t]
            state, z, lse = walk(feature, state, seed, mu[t], beta[t], bias)
            states.append(state)
            zs.append(z)
            lses.append(lse)
        return (*states, *zs, *lses)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the backward reads."""
        backend, seed, mu, beta, state, node_bias, *features = inputs
        walks = len(features)
        states, saved = output[:walks], output[walks:]
        ctx.backend = backend
        ctx.walks = walks
        ctx.save_for_backward(seed, mu, beta, node_bias, *features, state, *states[:-1], *saved)
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """The walks in reverse; `grads` are those of `forward`'s outputs, None where unused."""
        walks = ctx.walks
        seed, mu, beta, node_bias, *rest = ctx.saved_tensors
        features, states, zs, lses = (rest[n * walks : (n + 1) * walks] for n in range(4))
        _, need_seed, need_mu, need_beta, need_state, need_bias, *need_feature = ctx.needs_input_grad

        # Grad mode is on in a backward only when its result may be differentiated again.
        walk = partial(_WalkBackward.apply if torch.is_grad_enabled() else _walk_backward, ctx.backend)
        grad_features: list[Tensor | None] = [None] * walks
        grad_seed: Tensor | None = None
        grad_mu, grad_beta = list(torch.zeros_like(mu).unbind()), list(torch.zeros_like(beta).unbind())
        grad_bias = [] if node_bias is None else list(torch.zeros_like(node_bias).unbind())
        grad: Tensor | None = None
        for t in reversed(range(walks)):
            grad = _add(grad, grads[t])
            if grad is None:
                continue
            # Walks before t, and the initial state, are reached only through the state.
            goes_on = need_state or need_seed or need_mu or need_beta or need_bias or any(need_feature[:t])
            mask = [
                need_feature[t],
                need_state if t == 0 else goes_on,
                need_seed,
                need_mu,
                need_beta,
                need_bias,
            ]
            bias = None if node_bias is None else node_bias[t]
            of_feature, of_state, of_seed, of_mu, of_beta, of_bias = walk(
                mask, grad, features[t], states[t], seed, zs[t], lses[t], mu[t], beta[t], bias
            )
            if need_feature[t]:
                grad_features[t] = in_layout_of(features[t], of_feature)
            if need_seed:
                grad_seed = _add(grad_seed, of_seed)
            if need_mu:
                grad_mu[t] = of_mu
            if need_beta:
                grad_beta[t] = of_beta
            if need_bias:
                grad_bias[t] = of_bias
            grad = of_state if mask[1] else None

        return (
            None,
            None if grad_seed is None else in_layout_of(seed, grad_seed),
            torch.stack(grad_mu) if need_mu else None,
            torch.stack(grad_beta) if need_beta else None,
            in_layout_of(states[0], grad) if need_state and grad is not None else None,
            torch.stack(grad_bias) if need_bias else None,
            *grad_features,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], backend: str, *tensors: Tensor | None) -> Any:
        """The images of all calls in one cascade where mu and beta are common to all, else one call after another."""
        count, dims = info.batch_size, in_dims[1:]
        if any(dim is not None for dim in dims[1:3]):
            calls = [
                CascadedRandomWalk.apply(
                    backend,
                    *(
                        x if x is None or dim is None else x.select(dim, n)
                        for x, dim in zip(tensors, dims, strict=True)
                    ),
                )
                for n in range(count)
            ]
            return tuple(torch.stack(results) for results in zip(*calls, strict=True)), 0
        seed, mu, beta, state, node_bias, *features = tensors
        folded = [
            ops.fold(x, dim, count) for x, dim in zip((seed, state, *features), (dims[0], dims[3], *dims[5:]))
        ]
        bias = None if node_bias is None else ops.fold(node_bias, dims[4], count, axis=1)
        outputs = CascadedRandomWalk.apply(backend, folded[0], mu, beta, folded[1], bias, *folded[2:])
        return tuple(x.unflatten(0, (count, -1)) for x in outputs), 0


def in_layout_of(tensor: Tensor, grad: Tensor) -> Tensor:
    """The gradient of a tensor (B, N, d), in memory as an image (B, d, H, W) where that is a view of one.

    Strides of a single image leave open which way it lies in memory, and batch norm's backward on CPUs
    (PyTorch 2.14) is wrong, by more than the gradient itself, where its input lies one way and the gradient
    the other.
    """
    if tensor.is_contiguous():
        return grad.contiguous()
    return grad.mT.contiguous().mT if tensor.mT.is_contiguous() else grad


class SameLayout(torch.autograd.Function):
    """A tensor as it is, whose gradient `in_layout_of` lays out; for derivatives of any order and mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        """The tensor."""
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the tensor, which the walk keeps as well."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The gradient in the tensor's layout."""
        return in_layout_of(ctx.saved_tensors[0], grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        """The tangent as it is."""
        return tangent.view_as(tangent)


class _WalkBackward(torch.autograd.Function):
    """`_walk_backward` with a derivative that says there is none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        backend: str,
        mask: list[bool],
        grad: Tensor,
        feature: Tensor,
        state: Tensor,
        seed: Tensor,
        z: Tensor,
        lse: Tensor,
        mu: Tensor,
        beta: Tensor,
        node_bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        return _walk_backward(backend, mask, grad, feature, state, seed, z, lse, mu, beta, node_bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise DoubleBackwardError(
            "the random walk's hand-written backward cannot itself be differentiated; "
            'pass backend="reference", which supports derivatives of any order (and stores P, N x N)'
        )


def _walk_backward(backend: str, mask: list[bool], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    return ops.walk_backward(backend)(*tensors, mask)


def _add(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    if total is None or term is None:
        return term if total is None else total
    return total + term
