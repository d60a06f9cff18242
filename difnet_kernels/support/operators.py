"""Operators of PyTorch's dispatcher with their own derivative, in eager mode and in compiled graphs.

A `torch.autograd.Function` is not enough: torch.compile differentiates it only once (its second derivative is
zero, without an error) and cannot trace one that has rules for torch.func. `torch.library.custom_op` is not
enough either: its operators have no derivative in forward mode and fail inside of transforms.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from difnet_kernels.support.errors import ForwardModeError


class Derivative(torch.autograd.function._SingleLevelFunction):
    """Base of an operator's derivative, whose `forward` is the operator itself.

    Subclasses define `setup_context`, `backward` and `jvp` of a Function whose inputs are (operator, keys,
    *arguments of the operator). Without `jvp`, forward mode raises `ForwardModeError`.
    """

    @staticmethod
    def forward(operator: Any, keys: Any, *args: Any) -> Any:
        """Call the kernel, or the next transform if several are nested, which may record a derivative too."""
        with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), _set_fwd_grad_enabled(True):
            return operator.redispatch(keys & torch._C._after_autograd_keyset, *args)


def define(
    library: Any,
    name: str,
    schema: str,
    *,
    fake: Callable[..., Any],
    vmap: Callable[..., Any],
    derivative: type[Derivative],
    kernel: Callable[..., Any] | None = None,
) -> Any:
    """Define an operator.

    Args:
        library: the `torch.library.Library` of the operator's namespace.
        name: the operator's name, with the overload if it has one.
        schema: its arguments and results.
        fake: returns results of the right shapes, types and strides, given fake arguments.
        vmap: the rule of `torch.library.register_vmap`; its first argument is the operator.
        derivative: serves all kernels of the operator.
        kernel: serves every device. Without it, the caller registers a kernel for each device.

    Returns:
        The operator.
    """
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(getattr(torch.ops, library.ns), packet), overload or "default")
    torch.library.register_fake(f"{library.ns}::{name}", fake, lib=library)
    torch.library.register_vmap(f"{library.ns}::{name}", partial(vmap, operator), lib=library)
    library.impl(name, _autograd_kernel(operator, derivative), "Autograd", with_keyset=True)
    if kernel is not None:
        library.impl(name, kernel, "CompositeExplicitAutograd")
    return operator


def _autograd_kernel(operator: Any, derivative: type[Derivative]) -> Callable[..., Any]:
    """The operator's kernel for autograd's dispatch key; without it, forward mode would return zeros."""
    functorch = torch._C._functorch

    def call(keys: Any, *args: Any) -> Any:
        tensors = [x for x in args if isinstance(x, Tensor)]
        has_tangent = any(unpack_dual(x).tangent is not None for x in tensors)
        if has_tangent and "jvp" not in vars(derivative):
            raise ForwardModeError()
        if has_tangent or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            before = functorch.get_single_level_autograd_function_allowed()
            functorch.set_single_level_autograd_function_allowed(True)
            try:
                return derivative.apply(operator, keys, *args)  # type: ignore[attr-defined]
            finally:
                functorch.set_single_level_autograd_function_allowed(before)
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keys & torch._C._after_autograd_keyset, *args)

    return call
