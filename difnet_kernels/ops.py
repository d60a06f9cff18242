"""The registered operators of one walk: schemas, fakes and kernels, each written once.

Two operators with one overload per backend, so that a backend is chosen by its name and never by
a hidden rule:

    walk_forward.<backend>   (feature, state, seed, mu, beta, node_bias) -> (new_state, z, lse)
    walk_backward.<backend>  (grad, ..., output_mask) -> the six gradients

What a kernel may rely on (`functional` sees to it):

- `feature` (B, N, d) is float64, float32, bfloat16 or float16 and decides the matrix arithmetic;
- everything else is float64 when `feature` is, float32 otherwise; `mu` and `beta` are 0-d tensors on
  the inputs' device; strides are arbitrary; B, N, d, k >= 1;
- `lse` is the kernel's own: forward and backward of one backend must agree on the row constant in it.

A gradient whose entry in `output_mask` (feature, state, seed, mu, beta, node_bias) is False is
returned as an empty tensor. This is the only file that names the operator namespace.
"""

import os
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from difnet_kernels import blockwise

NAMESPACE = "difnet_kernels"
OVERLOADS = ("native", "triton", "blockwise")

_FORWARD = (
    "(Tensor feature, Tensor state, Tensor seed, Tensor mu, Tensor beta, Tensor? node_bias)"
    " -> (Tensor new_state, Tensor z, Tensor lse)"
)
_BACKWARD = (
    "(Tensor grad, Tensor feature, Tensor state, Tensor seed, Tensor z, Tensor lse, Tensor mu, Tensor beta,"
    " Tensor? node_bias, bool[6] output_mask)"
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


def _fake_forward(
    feature: Tensor, state: Tensor, seed: Tensor, mu: Tensor, beta: Tensor, node_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return state.new_empty(state.shape), state.new_empty(state.shape), state.new_empty(state.shape[:2])


def _fake_backward(
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
    bias_like = lse if node_bias is None else node_bias
    inputs = (feature, state, seed, mu, beta, bias_like)
    return tuple(
        x.new_empty(x.shape if wanted else (0,)) for x, wanted in zip(inputs, output_mask, strict=True)
    )


def _not_differentiable(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "the operators of one walk have no derivative of their own; "
        "call difnet_kernels.cascaded_random_walk, which has"
    )


def _without_autocast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast would otherwise reach the matrix products inside a kernel made of PyTorch operations."""

    @wraps(kernel)
    def call(first: Tensor, *args: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return kernel(first, *args)

    return call


def _define(name: str, schema: str, fake: Callable[..., Any]) -> None:
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    torch.library.register_autograd(f"{NAMESPACE}::{name}", _not_differentiable, lib=_library)


for _overload in OVERLOADS:
    _define(f"walk_forward.{_overload}", _FORWARD, _fake_forward)
    _define(f"walk_backward.{_overload}", _BACKWARD, _fake_backward)

_library.impl(
    "walk_forward.blockwise", _without_autocast(blockwise.walk_forward), "CompositeExplicitAutograd"
)
_library.impl(
    "walk_backward.blockwise", _without_autocast(blockwise.walk_backward), "CompositeExplicitAutograd"
)

# The compiled kernels register themselves; where they were not built, or do not load, the reason is kept.
native_error: ImportError | None = None
try:
    import difnet_kernels._native  # noqa: F401
except ImportError as _error:
    native_error = _error


def _when_called(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported at the first call, with all that it imports."""

    def call(*args: Any) -> Any:
        return getattr(import_module(module), function)(*args)

    return call


# ROCm devices have the dispatch key of CUDA. Triton's interpreter takes tensors on the CPU.
for _key in ("CUDA", "CPU") if os.environ.get("TRITON_INTERPRET") == "1" else ("CUDA",):
    for _name in ("walk_forward", "walk_backward"):
        _library.impl(f"{_name}.triton", _when_called("difnet_kernels.triton.launch", _name), _key)
