"""Operators of PyTorch's dispatcher that carry their own derivative, in eager mode and in compiled graphs.

A `torch.autograd.Function` alone does not do: torch.compile differentiates through it at most once, without a
word, and traces none that has rules for torch.func. An operator defined by `torch.library.custom_op` alone
does not either: it has no derivative in forward mode and fails inside of transforms.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from difnet_kernels.support.errors import ForwardModeError


class Derivative(torch.autograd.function._SingleLevelFunction):
    """Base of an operator's derivative: its `forward` is the operator itself.

    `setup_context`, `backward` and `jvp` are those of a Function whose inputs are (operator, keys, *arguments
    of the operator). Without `jvp`, forward mode raises `ForwardModeError`.
    """

    @staticmethod
    def forward(operator: Any, keys: Any, *args: Any) -> Any:
        """Call the operator's kernel, or the next of nested transforms, which may record as well."""
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
        library: `torch.library.Library` of its namespace.
        name: with the overload, if it has one.
        schema: arguments and results.
        fake: the results' shapes, types and strides, from fake arguments.
        vmap: the rule of `torch.library.register_vmap`, given the operator first.
        derivative: of all its kernels.
        kernel: for every device. Without it, kernels by device are the caller's to register.

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
    """What an operator does where derivatives are recorded. Without it, tangents would be lost in silence."""
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
