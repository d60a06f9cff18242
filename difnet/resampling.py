"""Pooling and upsampling whose gradients are bitwise reproducible on every device.

On CUDA the backward passes of `torch.nn.functional.adaptive_max_pool2d` and `interpolate(mode="bilinear")`
add with atomics: the order of the additions, and with it the last bits of the gradient, changes from run to
run. The functions here give the same values and add in a fixed order.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from difnet_kernels.autocast import without_autocast


def adaptive_max_pool2d(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Maximum over adaptive windows, with a reproducible gradient.

    Equivalent to `torch.nn.functional.adaptive_max_pool2d(image, size)`; a tie gives the gradient to the
    pixel that PyTorch names.

    Args:
        image: (B, C, H, W), floating point.
        size: (h, w) of the result.

    Returns:
        (B, C, h, w), in the type of `image`; `image` itself if it has that size.
    """
    if torch.jit.is_tracing():  # sizes are tensors then, which only PyTorch's own operators accept
        return F.adaptive_max_pool2d(image, size)
    if _same_size(image, size):
        return image
    return _pool(image, size)[0]


def _pool(image: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Apply `_AdaptiveMaxPool`. torch.compile traces no Function that defines `jvp`."""
    function = _AdaptiveMaxPool if torch.compiler.is_compiling() else _WithForwardMode
    return function.apply(image, size)


class _AdaptiveMaxPool(torch.autograd.Function):
    """(image, size) -> (maxima, their places)."""

    @staticmethod
    def forward(image: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return _maxima(image, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.size = inputs[0].shape[-2:]
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        # Grad mode is on in a backward only when its result may be differentiated again.
        scatter = _Scatter.apply if torch.is_grad_enabled() else _scatter
        return scatter(grad, *ctx.saved_tensors, ctx.size), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, image: Tensor, size: tuple[int, int]) -> Any:
        folded = image.movedim(in_dims[0], 0)
        results = _pool(folded.flatten(0, 1), size)
        return tuple(x.unflatten(0, folded.shape[:2]) for x in results), (0, 0)


class _WithForwardMode(_AdaptiveMaxPool):
    """The same with its derivative in forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None]:
        return _gather(tangent, *ctx.saved_tensors), None


class _Scatter(torch.autograd.Function):
    """(gradient of the maxima, their places, size of the image) -> gradient of the image."""

    @staticmethod
    def forward(grad: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
        return _scatter(grad, places, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, places, ctx.size = inputs
        ctx.save_for_backward(places)
        ctx.save_for_forward(places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _gather(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Scatter.apply(tangent, *ctx.saved_tensors, ctx.size)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        grad, places = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims[:2], strict=False)
        )
        result = _Scatter.apply(grad.flatten(0, 1), places.flatten(0, 1), inputs[2])
        return result.unflatten(0, grad.shape[:2]), 0


def _gather(image: Tensor, places: Tensor) -> Tensor:
    """The pixels of an image (B, C, H, W) at places (B, C, h, w)."""
    return image.flatten(-2).gather(-1, places.flatten(-2)).view_as(places)


# Operators of their own, because PyTorch's takes the size as a constant: compiled and exported programs would
# serve one size of images.
@torch.library.custom_op("difnet::adaptive_max_pool2d", mutates_args=())
def _maxima(image: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(maxima, their places): (B, C, h, w) both, a place being the index among the H * W pixels."""
    pooled, places = F.adaptive_max_pool2d(image, tuple(size), return_indices=True)
    return pooled.contiguous(), places.contiguous()


@_maxima.register_fake
def _(image: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    shape = (*image.shape[:2], *size)
    return image.new_empty(shape), image.new_empty(shape, dtype=torch.int64)


@torch.library.custom_op("difnet::adaptive_max_pool2d_backward", mutates_args=())
def _scatter(grad: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Gradient (B, C, H, W) of the image, of that `size`, from that of the maxima (B, C, h, w)."""
    height, width = size
    rows, columns = _disjoint_stride(height, grad.shape[-2]), _disjoint_stride(width, grad.shape[-1])
    grad_image = grad.new_zeros(*grad.shape[:-2], height * width)
    # Two windows can share a pixel, but never within one of these subsets: each scatter adds to distinct
    # places, and the order over the subsets is fixed.
    for row in range(rows):
        for column in range(columns):
            window = (..., slice(row, None, rows), slice(column, None, columns))
            grad_image.scatter_add_(-1, places[window].flatten(-2), grad[window].flatten(-2))
    return grad_image.unflatten(-1, (height, width))


@_scatter.register_fake
def _(grad: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    return grad.new_empty(*grad.shape[:2], *size)


def _disjoint_stride(input_size: int, output_size: int) -> int:
    """Return the smallest known c such that the adaptive windows i and i + c share no pixel, for any i.

    Window i is [floor(i n / m), ceil((i + 1) n / m)) for n pixels and m windows.
    """
    return 1 if input_size % output_size == 0 else 1 + -(-output_size // input_size)


def _same_size(image: Tensor, size: tuple[int, int]) -> bool:
    """Whether the image has that size; of symbolic sizes, whether every image that fits them has."""
    known = (statically_known_true(a == b) for a, b in zip(image.shape[-2:], size, strict=True))
    return not torch.jit.is_tracing() and all(known)


def bilinear_matrix(input_size: int, output_size: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Interpolation weights along one axis for `align_corners=False`, (output_size, input_size).

    Output pixel i lies at x = (i + 1/2) n / m - 1/2, clamped to [0, n - 1], and takes max(0, 1 - |x - j|) of
    input pixel j. All is integer in units of 1 / (2 m), so every weight is rounded once.
    """
    outputs = torch.arange(output_size, device=device)
    inputs = torch.arange(input_size, device=device)
    unit = 2 * output_size
    position = ((2 * outputs + 1) * input_size - output_size).clamp(0, unit * (input_size - 1))
    weight = (unit - (position[:, None] - unit * inputs).abs()).clamp(min=0)
    return weight.to(dtype) / unit


def upsample_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation to `size`, as two matrix products, with a reproducible gradient.

    Equivalent to `torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)`.
    float16 and bfloat16 are computed in float32, autocast or not, and rounded at the end. On CUDA, cuBLAS
    needs `CUBLAS_WORKSPACE_CONFIG=:4096:8` to be reproducible, as for every matrix product. Each value that
    is not finite spreads along its row and column.

    Args:
        image: (B, C, h, w), floating point.
        size: (H, W) of the result.

    Returns:
        (B, C, H, W), in the type of `image`; `image` itself if it has that size.
    """
    if _same_size(image, size):
        return image
    dtype = torch.promote_types(image.dtype, torch.float32)
    rows, columns = (
        bilinear_matrix(image.shape[axis], size[axis], dtype=dtype, device=image.device) for axis in (-2, -1)
    )
    with without_autocast(image.device):
        return (rows @ (image.to(dtype) @ columns.T)).to(image.dtype)
