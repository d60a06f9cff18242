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
from difnet_kernels.errors import DoubleBackwardError, ForwardModeError


class CascadedRandomWalk(torch.autograd.Function):
    """(backend, seed, mu, beta, state, node_bias, *features) -> (y_1 .. y_T, z_1 .. z_T, lse_1 .. lse_T).

    `node_bias` is (T, B, N) or None. The states are differentiable, the rest is there to be saved.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        """T walks, each from the state of the one before."""
        # Where no input needs a gradient, torch.compile passes a context as an extra first argument. It
        # leaves the context out only if the number of arguments equals the number of parameters.
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
        ctx.layouts = layout_of(seed), layout_of(state), [layout_of(feature) for feature in features]
        ctx.save_for_backward(seed, mu, beta, node_bias, *features, state, *states[:-1], *saved)
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """The walks in reverse; `grads` are those of `forward`'s outputs, None where unused."""
        walks = ctx.walks
        seed_layout, state_layout, feature_layouts = ctx.layouts
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
                grad_features[t] = in_layout(feature_layouts[t], of_feature)
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
            None if grad_seed is None else in_layout(seed_layout, grad_seed),
            torch.stack(grad_mu) if need_mu else None,
            torch.stack(grad_beta) if need_beta else None,
            in_layout(state_layout, grad) if need_state and grad is not None else None,
            torch.stack(grad_bias) if need_bias else None,
            *grad_features,
        )


class _EagerCascade(CascadedRandomWalk):
    """The cascade with rules for transforms of functions; torch.compile traces no Function that has one."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        """Raise `ForwardModeError`."""
        raise ForwardModeError()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], backend: str, *tensors: Tensor | None) -> Any:
        """Walk over the images of all calls in one cascade, or call by call where mu or beta differ."""
        count, dims = info.batch_size, in_dims[1:]
        calls: list[tuple[Tensor, ...]]
        if dims[1] is not None or dims[2] is not None:
            calls = [cascade(backend, *ops.slices(tensors, dims, n)) for n in range(count)]
            return tuple(torch.stack(results) for results in zip(*calls, strict=True)), 0
        # The axis of each tensor that counts images.
        images = (0, None, None, 0, 1, *(0 for _ in tensors[5:]))
        folded = [ops.fold(x, dim, count, axis) for x, dim, axis in zip(tensors, dims, images, strict=True)]
        return tuple(x.unflatten(0, (count, -1)) for x in cascade(backend, *folded)), 0


def cascade(backend: str, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Apply `CascadedRandomWalk`."""
    function = CascadedRandomWalk if torch.compiler.is_compiling() else _EagerCascade
    return function.apply(backend, *tensors)


def layout_of(tensor: Tensor) -> str | None:
    """How a tensor (B, N, d) lies in memory: by "nodes", as an "image" (B, d, H, W), or neither way.

    The gradient of a tensor has to lie as the tensor does. Strides of a single image leave its layout open,
    and batch norm's backward on CPUs (seen in PyTorch 2.13 and 2.14) is wrong, by more than the gradient
    itself, where its input lies one way and the gradient the other. The layout is noted in the forward: hooks
    on saved tensors may give back copies in another one.
    """
    if tensor.is_contiguous():
        return "nodes"
    return "image" if tensor.mT.is_contiguous() else None


def in_layout(layout: str | None, grad: Tensor) -> Tensor:
    """The gradient of a tensor of that layout, lying as the tensor does."""
    if layout == "nodes":
        return grad.contiguous()
    return grad.mT.contiguous().mT if layout == "image" else grad


class SameLayout(torch.autograd.Function):
    """A copy of a tensor, whose gradient `in_layout` lays out; for derivatives of any order and mode."""

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        """Copy the tensor: PyTorch has no forward-mode derivative of a view under vmap."""
        return tensor.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Note the layout."""
        ctx.layout = layout_of(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The gradient in the tensor's layout."""
        return in_layout(ctx.layout, grad)


class _EagerSameLayout(SameLayout):
    """The same with rules for transforms of functions."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        """Copy the tangent."""
        return tangent.clone()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], tensor: Tensor) -> tuple[Tensor, int | None]:
        """Copy the tensors of all calls."""
        return same_layout(tensor), in_dims[0]


def same_layout(tensor: Tensor) -> Tensor:
    """Apply `SameLayout`."""
    function = SameLayout if torch.compiler.is_compiling() else _EagerSameLayout
    return function.apply(tensor)


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
        raise DoubleBackwardError()


def _walk_backward(backend: str, mask: list[bool], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    return ops.walk_backward(backend)(*tensors, mask)


def _add(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    if total is None or term is None:
        return term if total is None else total
    return total + term
