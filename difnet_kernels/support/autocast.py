"""Arithmetic in the types of the inputs under autocast, in the backward too."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from difnet_kernels.support.operators import Derivative, define


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations on the device compute in the types of their inputs."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # torch.autocast rejects some device types, such as meta


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, in the types of the inputs even under autocast, with derivatives of any order.

    Turning autocast off around `left @ right` is not enough: torch.compile runs the whole backward under the
    autocast of the forward, and a backward that is called under autocast runs under it. This operator's
    derivatives are products of the same kind. One case remains: if the forward runs outside of autocast and
    the backward under it, PyTorch rounds the derivatives, as it does for all its products.

    Args:
        left: (..., n, m).
        right: (..., m, p) of the same type; leading axes are broadcast.

    Returns:
        (..., n, p).
    """
    kind = left.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return _product(left, right)
    return left @ right


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    with without_autocast(left.device):
        return left @ right


def _vmap_rule(
    operator: Any, info: Any, in_dims: tuple[int | None, ...], *factors: Tensor
) -> tuple[Tensor, int]:
    """The rule of `torch.vmap`: the axis that counts calls becomes the first axis of both factors."""
    pairs = list(zip(factors, in_dims, strict=True))
    rank = max(x.ndim - (dim is not None) for x, dim in pairs)
    aligned = [
        x if dim is None else x.movedim(dim, 0).unflatten(0, (info.batch_size, *[1] * (rank + 1 - x.ndim)))
        for x, dim in pairs
    ]
    return operator(*aligned), 0


class _ProductDerivative(Derivative):
    """Derivatives of a product are products, computed by the same operator."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        _, _, need_left, need_right = ctx.needs_input_grad
        return (
            None,
            None,
            _product(grad, right.mT).sum_to_size(left.shape) if need_left and grad is not None else None,
            _product(left.mT, grad).sum_to_size(right.shape) if need_right and grad is not None else None,
        )

    @staticmethod
    def jvp(
        ctx: Any, operator: None, keys: None, left_tangent: Tensor | None, right_tangent: Tensor | None
    ) -> Tensor | None:
        left, right = ctx.saved_tensors
        terms = []
        if left_tangent is not None:
            terms.append(_product(left_tangent, right))
        if right_tangent is not None:
            terms.append(_product(left, right_tangent))
        return sum(terms[1:], terms[0])


_library = torch.library.Library("difnet_kernels", "FRAGMENT")
_product = define(
    _library,
    "product",
    "(Tensor left, Tensor right) -> Tensor",
    fake=_matmul,
    vmap=_vmap_rule,
    derivative=_ProductDerivative,
    kernel=_matmul,
)
