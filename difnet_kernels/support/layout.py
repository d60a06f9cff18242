"""How tensors lie in memory, and gradients as their tensors do."""

from torch import Tensor


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
