"""The registered operators of one walk: schemas, fakes and kernels.

Two operators have one overload per backend, so that a backend is chosen by its name and never by a hidden
rule:

    walk_forward.<backend>   (feature, state, seed, mu, beta, node_bias, float32_precision)
                             -> (new_state, z, lse)
    walk_backward.<backend>  (grad, ..., float32_precision, output_mask) -> the six gradients

The forward computes equations (1) to (4) of docs/math.md, the backward (5) to (11).

What a kernel may rely on, because `functional` ensures it:

- `feature` (B, N, d) is float64, float32, bfloat16 or float16 and decides the matrix arithmetic;
- everything else is float64 if `feature` is, float32 otherwise; `mu` and `beta` are 0-d tensors on the
  inputs' device; strides are arbitrary; B, N, d, k >= 1;
- `float32_precision` is the precision of matrix products of float32 features, as
  torch.get_float32_matmul_precision names it: "highest", "high" or "medium". The forward reads the setting
  once, and the backward gets the same;
- `lse` is what the backend's forward saves of each row for its backward. The backend chooses the quantity:
  `native` saves the row sum, the others save L of (2), with the scores of centred features (12).

Results are contiguous whatever the inputs' strides are; the fakes promise this to compilers. A gradient
whose entry in `output_mask` (feature, state, seed, mu, beta, node_bias) is False is an empty tensor. Only
first derivatives exist: a second derivative raises `DoubleBackwardError`.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from difnet_kernels import blockwise
from difnet_kernels.support import counting
from difnet_kernels.support.autocast import without_autocast
from difnet_kernels.support.errors import DoubleBackwardError
from difnet_kernels.support.layout import in_layout, layout_of
from difnet_kernels.support.operators import Derivative, define
from difnet_kernels.support.precision import matmul_precision
from difnet_kernels.support.saved import SavedWalk

NAMESPACE = "difnet_kernels"
OVERLOADS = ("native", "triton", "blockwise")

_FORWARD = (
    "(Tensor feature, Tensor state, Tensor seed, Tensor mu, Tensor beta, Tensor? node_bias,"
    " str float32_precision) -> (Tensor new_state, Tensor z, Tensor lse)"
)
_BACKWARD = (
    "(Tensor grad, Tensor feature, Tensor state, Tensor seed, Tensor z, Tensor lse, Tensor mu, Tensor beta,"
    " Tensor? node_bias, str float32_precision, bool[6] output_mask)"
    " -> (Tensor grad_feature, Tensor grad_state, Tensor grad_seed, Tensor grad_mu, Tensor grad_beta,"
    " Tensor grad_node_bias)"
)

_library = torch.library.Library(NAMESPACE, "DEF")


def walk_forward(backend: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The forward operator of one backend."""
    return getattr(torch.ops.difnet_kernels.walk_forward, backend)


def walk_backward(backend: str) -> Callable[..., tuple[Tensor, ...]]:
    """The backward operator of one backend."""
    return getattr(torch.ops.difnet_kernels.walk_backward, backend)


def _fake_forward(feature: Tensor, state: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return state.new_empty(state.shape), state.new_empty(state.shape), state.new_empty(state.shape[:2])


def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *saved, _, output_mask = args
    walk = SavedWalk(*saved)
    bias_like = walk.lse if walk.node_bias is None else walk.node_bias
    inputs = (walk.feature, walk.state, walk.seed, walk.mu, walk.beta, bias_like)
    return tuple(
        x.new_empty(x.shape if wanted else (0,)) for x, wanted in zip(inputs, output_mask, strict=True)
    )


class _Walk(Derivative):
    """`walk_forward` with its derivative, `walk_backward` of the same backend."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operator, _, feature, state, seed, mu, beta, node_bias, ctx.float32_precision = inputs
        _, z, lse = output
        ctx.operator = walk_backward(operator._overloadname)
        ctx.layouts = [layout_of(x) for x in (feature, state, seed)]
        ctx.save_for_backward(*SavedWalk(feature, state, seed, z, lse, mu, beta, node_bias))
        ctx.mark_non_differentiable(z, lse)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        _, _, *mask, _ = ctx.needs_input_grad
        if grad is None:
            return (None,) * (3 + len(mask))
        grads = ctx.operator(grad, *ctx.saved_tensors, ctx.float32_precision, mask)
        layouts = (*ctx.layouts, None, None, None)
        return (
            None,
            None,
            *(
                in_layout(layout, x) if wanted else None
                for layout, x, wanted in zip(layouts, grads, mask, strict=True)
            ),
            None,
        )


class _WalkBackward(Derivative):
    """`walk_backward`, whose derivative raises `DoubleBackwardError`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise DoubleBackwardError()


def _vmap_rule(operator: Any, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
    """The rule of `torch.vmap`: one call of the operator computes the images of all calls.

    Calls with different mu or beta cannot share a call of the operator. Neither can calls whose gradients of
    mu and beta are requested, because these are sums over the images of one call. The operator then runs once
    for each call.
    """
    parameters = [argument.name for argument in operator._schema.arguments]
    shares = [parameters.index("mu"), parameters.index("beta")]
    count, dims = info.batch_size, list(in_dims)
    mask = args[-1] if isinstance(args[-1], (list, tuple)) else [False] * 6
    if mask[3] or mask[4] or any(dims[n] is not None for n in shares):
        calls = [operator(*slices(args, dims, n)) for n in range(count)]
        return tuple(torch.stack(results) for results in zip(*calls, strict=True)), (0,) * len(calls[0])
    folded = [
        fold(x, dim, count, None if n in shares else 0)
        for n, (x, dim) in enumerate(zip(args, dims, strict=True))
    ]
    results = [(x.unflatten(0, (count, -1)), 0) if x.ndim > 1 else (x, None) for x in operator(*folded)]
    return tuple(x for x, _ in results), tuple(dim for _, dim in results)


def slices(args: Sequence[Any], dims: Sequence[Any], n: int) -> list[Any]:
    """The arguments of call `n` under `torch.vmap`. `dims` are the axes that count calls."""
    return [x.select(dim, n) if isinstance(dim, int) else x for x, dim in zip(args, dims, strict=True)]


def fold(argument: Any, dim: int | None, count: int, axis: int | None) -> Any:
    """Join the images of `count` calls on one axis.

    Args:
        argument: a tensor of all calls; anything else is returned unchanged.
        dim: the axis that counts calls; None where all calls have the same tensor.
        count: number of calls.
        axis: the axis of a call's tensor that counts images; None where it has no such axis.
    """
    if not isinstance(argument, Tensor) or axis is None:
        return argument
    calls_first = argument.unsqueeze(axis) if dim is None else argument.movedim(dim, axis)
    sizes = list(calls_first.shape)
    sizes[axis] = count
    return calls_first.expand(sizes).flatten(axis, axis + 1)


# PyTorch's products obey autocast and the precision that the program has set. The operators compute in the
# inputs' types, at the precision that their argument names.
def _blockwise_forward(feature: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *walk, float32_precision = args
    with without_autocast(feature.device), matmul_precision(float32_precision):
        return tuple(x.contiguous() for x in blockwise.walk_forward(feature, *walk))


def _blockwise_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *saved, float32_precision, output_mask = args
    with without_autocast(grad.device), matmul_precision(float32_precision):
        return tuple(x.contiguous() for x in blockwise.walk_backward(grad, SavedWalk(*saved), output_mask))


for _overload in OVERLOADS:
    for _packet, _schema, _fake, _derivative, _blockwise in (
        ("walk_forward", _FORWARD, _fake_forward, _Walk, _blockwise_forward),
        ("walk_backward", _BACKWARD, _fake_backward, _WalkBackward, _blockwise_backward),
    ):
        define(
            _library,
            f"{_packet}.{_overload}",
            _schema,
            fake=_fake,
            vmap=_vmap_rule,
            derivative=_derivative,
            kernel=_blockwise if _overload == "blockwise" else None,
        )
counting.register_when_imported(
    {
        torch.ops.difnet_kernels.walk_forward: counting.forward_flops,
        torch.ops.difnet_kernels.walk_backward: counting.backward_flops,
        torch.ops.difnet_kernels.product: counting.product_flops,
    }
)

# The compiled kernels register themselves. If they were not built, or do not load, the reason is kept.
native_error: ImportError | None = None
try:
    import difnet_kernels._native  # noqa: F401
except ImportError as _error:
    native_error = _error


def _when_called(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported when the function is first called."""

    def call(*args: Any) -> Any:
        return getattr(import_module(module), function)(*args)

    return call


# The dispatch key of ROCm devices is CUDA. Triton's interpreter runs on CPU tensors.
for _key in ("CUDA", "CPU") if os.environ.get("TRITON_INTERPRET") == "1" else ("CUDA",):
    for _name in ("walk_forward", "walk_backward"):
        _library.impl(f"{_name}.triton", _when_called("difnet_kernels.triton.launch", _name), _key)
