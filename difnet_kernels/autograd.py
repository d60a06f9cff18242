"""The cascade of T walks as one node of the autograd graph.

What is kept for the backward: features, states y_0 .. y_{T-1}, z_t = P_t y_t and one number per row,
O(T B N (d + k)). P is recomputed tile by tile. Going back, each walk hands the gradient of its input
state to the walk before it; the gradients of seed, mu, beta and node bias are gathered on the way.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from difnet_kernels import ops
from difnet_kernels.support.errors import ForwardModeError
from difnet_kernels.support.layout import in_layout, layout_of
from difnet_kernels.support.operators import Derivative, define


class CascadedRandomWalk(torch.autograd.Function):
    """T walks: outputs y_1 .. y_T, z_1 .. z_T, lse_1 .. lse_T.

    `node_bias` is (T, B, N) or None. The states are differentiable, the rest is there to be saved.
    """

    @staticmethod
    def forward(
        backend: str,
        float32_precision: str,
        seed: Tensor,
        mu: Tensor,
        beta: Tensor,
        state: Tensor,
        node_bias: Tensor | None,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        """T walks, each from the state of the one before."""
        walk = ops.walk_forward(backend)
        states, zs, lses = [], [], []
        for t, feature in enumerate(features):
            bias = None if node_bias is None else node_bias[t]
            state, z, lse = walk(feature, state, seed, mu[t], beta[t], bias, float32_precision)
            states.append(state)
            zs.append(z)
            lses.append(lse)
        return (*states, *zs, *lses)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the backward reads."""
        backend, float32_precision, seed, mu, beta, state, node_bias, *features = inputs
        walks = len(features)
        states, saved = output[:walks], output[walks:]
        ctx.backend, ctx.float32_precision = backend, float32_precision
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
        _, _, need_seed, need_mu, need_beta, need_state, need_bias, *need_feature = ctx.needs_input_grad

        walk = ops.walk_backward(ctx.backend)
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
                grad,
                features[t],
                states[t],
                seed,
                zs[t],
                lses[t],
                mu[t],
                beta[t],
                bias,
                ctx.float32_precision,
                mask,
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
            None,
            None if grad_seed is None else in_layout(seed_layout, grad_seed),
            torch.stack(grad_mu) if need_mu else None,
            torch.stack(grad_beta) if need_beta else None,
            in_layout(state_layout, grad) if need_state and grad is not None else None,
            torch.stack(grad_bias) if need_bias else None,
            *grad_features,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        """Raise `ForwardModeError`."""
        raise ForwardModeError()

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        backend: str,
        float32_precision: str,
        *tensors: Tensor | None,
    ) -> Any:
        """Walk over the images of all calls in one cascade, or call by call where mu or beta differ."""
        count, dims = info.batch_size, in_dims[2:]
        how = backend, float32_precision
        calls: list[tuple[Tensor, ...]]
        if dims[1] is not None or dims[2] is not None:
            calls = [_apply(*how, *ops.slices(tensors, dims, n)) for n in range(count)]
            return tuple(torch.stack(results) for results in zip(*calls, strict=True)), 0
        # The axis of each tensor that counts images.
        images = (0, None, None, 0, 1, *(0 for _ in tensors[5:]))
        folded = [ops.fold(x, dim, count, axis) for x, dim, axis in zip(tensors, dims, images, strict=True)]
        return tuple(x.unflatten(0, (count, -1)) for x in _apply(*how, *folded)), 0


def cascade(backend: str, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Apply `CascadedRandomWalk` at the precision that torch.get_float32_matmul_precision() names now.

    The backward takes the same precision, whatever the setting is by then.
    """
    return _apply(backend, _float32_precision(), *tensors)


def _float32_precision() -> str:
    return torch.get_float32_matmul_precision()


# A constant of compiled graphs (as torch.compiler.assume_constant_result makes it, without importing Dynamo).
# A compiled function is compiled again when the setting changes between "highest" and the other two, which
# PyTorch guards; it takes "high" and "medium" for the same.
_float32_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _apply(backend: str, float32_precision: str, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Apply `CascadedRandomWalk`; in a compiled graph the operators of its walks, which have derivatives too.

    torch.compile differentiates through a Function at most once, without a word, and vectorises none.
    """
    apply: Callable[..., tuple[Tensor, ...]] = (
        CascadedRandomWalk.forward if torch.compiler.is_compiling() else CascadedRandomWalk.apply
    )
    return apply(backend, float32_precision, *tensors)


class _OfSameLayout(Derivative):
    """The gradient in the tensor's layout."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layout = layout_of(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, in_layout(ctx.layout, grad)

    @staticmethod
    def jvp(ctx: Any, operator: None, keys: None, tangent: Tensor) -> Tensor:
        return tangent.clone()


def _of_all_calls(operator: Any, info: Any, in_dims: tuple[int], tensor: Tensor) -> tuple[Tensor, int]:
    return operator(tensor), in_dims[0]


_library = torch.library.Library("difnet_kernels", "FRAGMENT")
# A copy of a tensor, whose gradient `in_layout` lays out.
same_layout = define(
    _library,
    "same_layout",
    "(Tensor tensor) -> Tensor",
    fake=torch.clone,
    vmap=_of_all_calls,
    derivative=_OfSameLayout,
    kernel=torch.clone,
)


def _add(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    if total is None or term is None:
        return term if total is None else total
    return total + term
