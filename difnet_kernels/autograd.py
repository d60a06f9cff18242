"""The cascade of T walks as one node of the autograd graph.

Saved for the backward are the features, the states y_0 .. y_{T-1}, z_t = P_t y_t and one number per row:
O(T B N (d + k)). P is computed again tile by tile. The backward visits the walks in reverse. Each walk passes
the gradient of its input state, (8) of docs/math.md, to the walk before it. The gradient of the seed, (5), is
summed over the walks. Features, mu, beta and node bias of each walk have gradients of their own: (11), (6),
(7) and (10).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from difnet_kernels import ops
from difnet_kernels.support.errors import ForwardModeError
from difnet_kernels.support.layout import in_layout, layout_of
from difnet_kernels.support.operators import Derivative, define
from difnet_kernels.support.precision import float32_precision
from difnet_kernels.support.saved import SavedWalk


class CascadedRandomWalk(torch.autograd.Function):
    """T walks with outputs y_1 .. y_T, z_1 .. z_T, lse_1 .. lse_T.

    `node_bias` is (T, B, N) or None. The states are differentiable. z and lse are outputs only because the
    backward needs them.
    """

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        """`_walk` of these inputs. Its operators need not record derivatives: this Function has its own."""
        with torch._C._AutoDispatchBelowAutograd():
            return _walk(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        backend, float32_precision, seed, mu, beta, state, node_bias, *features = inputs
        num_walks = len(features)
        states, zs_and_lses = output[:num_walks], output[num_walks:]
        ctx.backend, ctx.float32_precision = backend, float32_precision
        ctx.num_walks = num_walks
        ctx.layouts = layout_of(seed), layout_of(state), [layout_of(feature) for feature in features]
        ctx.save_for_backward(seed, mu, beta, node_bias, *features, state, *states[:-1], *zs_and_lses)
        ctx.mark_non_differentiable(*zs_and_lses)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Visit the walks in reverse; `grads` are those of `forward`'s outputs, None where unused."""
        num_walks = ctx.num_walks
        seed_layout, state_layout, feature_layouts = ctx.layouts
        seed, mu, beta, node_bias, *rest = ctx.saved_tensors
        features, states, zs, lses = (rest[n * num_walks : (n + 1) * num_walks] for n in range(4))
        _, _, need_seed, need_mu, need_beta, need_state, need_bias, *need_feature = ctx.needs_input_grad

        walk_backward = ops.walk_backward(ctx.backend)
        if not (torch.is_grad_enabled() or _forward_mode() or torch.compiler.is_compiling()):
            walk_backward = _below_autograd(walk_backward)  # no derivative of the backward can be asked for
        grad_features: list[Tensor | None] = [None] * num_walks
        grad_seed: Tensor | None = None
        mus, betas = mu.unbind(), beta.unbind()
        biases = (None,) * num_walks if node_bias is None else node_bias.unbind()
        # A walk that the loss does not depend on keeps None, which stands for zeros.
        grad_mu: list[Tensor | None] = [None] * num_walks
        grad_beta: list[Tensor | None] = [None] * num_walks
        grad_bias: list[Tensor | None] = [None] * num_walks
        grad: Tensor | None = None
        for t in reversed(range(num_walks)):
            grad = _add(grad, grads[t])
            if grad is None:
                continue
            # Gradients of earlier walks and of the initial state pass through this walk's input state.
            need_input_state = need_state
            if t > 0:
                earlier = need_seed or need_mu or need_beta or need_bias or any(need_feature[:t])
                need_input_state = need_state or earlier
            mask = [need_feature[t], need_input_state, need_seed, need_mu, need_beta, need_bias]
            walk = SavedWalk(features[t], states[t], seed, zs[t], lses[t], mus[t], betas[t], biases[t])
            d_feature, d_state, d_seed, d_mu, d_beta, d_bias = walk_backward(
                grad, *walk, ctx.float32_precision, mask
            )
            if need_feature[t]:
                grad_features[t] = in_layout(feature_layouts[t], d_feature)
            if need_seed:
                grad_seed = _add(grad_seed, d_seed)
            if need_mu:
                grad_mu[t] = d_mu
            if need_beta:
                grad_beta[t] = d_beta
            if need_bias:
                grad_bias[t] = d_bias
            grad = d_state if need_input_state else None

        return (
            None,
            None,
            None if grad_seed is None else in_layout(seed_layout, grad_seed),
            _stack(grad_mu, mus) if need_mu else None,
            _stack(grad_beta, betas) if need_beta else None,
            in_layout(state_layout, grad) if need_state and grad is not None else None,
            _stack(grad_bias, biases) if need_bias else None,
            *grad_features,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise ForwardModeError()

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        backend: str,
        float32_precision: str,
        *tensors: Tensor | None,
    ) -> Any:
        """Compute the images of all calls in one cascade. If mu or beta differ, run one for each call."""
        count, dims = info.batch_size, in_dims[2:]
        calls: list[tuple[Tensor, ...]]
        if dims[1] is not None or dims[2] is not None:
            calls = [_apply(backend, float32_precision, *ops.slices(tensors, dims, n)) for n in range(count)]
            return tuple(torch.stack(results) for results in zip(*calls, strict=True)), 0
        # The axis of each tensor that counts images: seed, mu, beta, state, node_bias, features.
        image_axes = (0, None, None, 0, 1, *(0 for _ in tensors[5:]))
        folded = [
            ops.fold(x, dim, count, axis) for x, dim, axis in zip(tensors, dims, image_axes, strict=True)
        ]
        outputs = _apply(backend, float32_precision, *folded)
        return tuple(x.unflatten(0, (count, -1)) for x in outputs), 0


class _EagerCascadedRandomWalk(CascadedRandomWalk):
    """The same Function, for calls outside of transforms such as `torch.vmap`.

    Transforms need `setup_context`. Where a Function has one, PyTorch binds all arguments to the signature of
    `forward` at each call, which takes longer than a walk over 64 nodes.
    """

    setup_context = torch.autograd.Function.setup_context

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        output = CascadedRandomWalk.forward(*args)
        CascadedRandomWalk.setup_context(ctx, args, output)
        return output


def cascade(backend: str, seed: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Apply `CascadedRandomWalk` at the current precision of float32 products.

    The backward uses the same precision, even if the setting changes before it runs.
    """
    return _apply(backend, float32_precision(seed.device), seed, *tensors)


def _apply(backend: str, precision: str, *tensors: Any) -> tuple[Tensor, ...]:
    """Compute the walks, and record their derivative if there is anything to differentiate.

    Compiled and traced graphs get the operators of the walks, which have derivatives of their own.
    torch.compile does not vectorise a Function, and differentiates it only once: its second derivative would
    be zero, without an error. A trace of torch.jit that holds a Function cannot be saved.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _walk(backend, precision, *tensors)
    if torch._C._are_functorch_transforms_active():
        return CascadedRandomWalk.apply(backend, precision, *tensors)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    if not (differentiable or _forward_mode()):
        return CascadedRandomWalk.forward(backend, precision, *tensors)
    return _EagerCascadedRandomWalk.apply(backend, precision, *tensors)


def _walk(
    backend: str,
    precision: str,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    state: Tensor,
    node_bias: Tensor | None,
    *features: Tensor,
) -> tuple[Tensor, ...]:
    """The operators of T walks, one after the other: y_1 .. y_T, z_1 .. z_T, lse_1 .. lse_T."""
    walk = ops.walk_forward(backend)
    biases = (None,) * len(features) if node_bias is None else node_bias.unbind()
    states, zs, lses = [], [], []
    for feature, mu_t, beta_t, bias in zip(features, mu.unbind(), beta.unbind(), biases, strict=True):
        state, z, lse = walk(feature, state, seed, mu_t, beta_t, bias, precision)
        states.append(state)
        zs.append(z)
        lses.append(lse)
    return (*states, *zs, *lses)


def _forward_mode() -> bool:
    """Whether tensors may have tangents of forward-mode differentiation."""
    return forward_ad._current_level >= 0


def _below_autograd(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator's kernel, without its derivative."""

    def call(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    return call


def _stack(grads: Sequence[Tensor | None], like: Sequence[Tensor | None]) -> Tensor:
    """The gradients of all walks in one tensor; None is zero."""
    return torch.stack(
        [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, like, strict=True)]  # type: ignore[arg-type]
    )


class _LayoutDerivative(Derivative):
    """Derivative of `same_layout`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layout = layout_of(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, in_layout(ctx.layout, grad)

    @staticmethod
    def jvp(ctx: Any, operator: None, keys: None, tangent: Tensor) -> Tensor:
        return tangent.clone()


def _layout_vmap(operator: Any, info: Any, in_dims: tuple[int], tensor: Tensor) -> tuple[Tensor, int]:
    return operator(tensor), in_dims[0]


_library = torch.library.Library("difnet_kernels", "FRAGMENT")
# Copies a tensor. The gradient of the original gets the original's layout in memory.
same_layout = define(
    _library,
    "same_layout",
    "(Tensor tensor) -> Tensor",
    fake=torch.clone,
    vmap=_layout_vmap,
    derivative=_LayoutDerivative,
    kernel=torch.clone,
)


def _add(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    if total is None or term is None:
        return term if total is None else total
    return total + term
