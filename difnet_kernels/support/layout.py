"""Memory layouts: a gradient gets the layout of its tensor."""

from torch import Tensor


def layout_of(tensor: Tensor) -> str | None:
    """The layout of a tensor (B, N, d): "nodes" (contiguous), "image" (a view of (B, d, H, W)) or None.

    A gradient needs the layout of its tensor. For one image, strides do not determine the layout. Batch
    norm's backward on CPUs (seen in PyTorch 2.13 and 2.14) then returns wrong gradients, with relative errors
    above 100 %, if its input has one layout and the gradient the other. The forward records the layout,
    because hooks on saved tensors may return copies with another one.
    """
    if tensor.is_contiguous():
        return "nodes"
    return "image" if tensor.mT.is_contiguous() else None


def in_layout(layout: str | None, grad: Tensor) -> Tensor:
    """The gradient in the layout of its tensor, as `layout_of` named it."""
    if layout == "nodes":
        return grad.contiguous()
    return grad.mT.contiguous().mT if layout == "image" else grad
