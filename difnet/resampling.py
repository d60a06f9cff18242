"""Pooling and upsampling whose gradients are bitwise reproducible on every device.

On CUDA the backward passes of `torch.nn.functional.adaptive_max_pool2d` and `interpolate(mode="bilinear")`
add with atomics: the order of the additions, and with it the last bits of the gradient, changes from run to
run. The functions here give the same values and add in a fixed order.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _AdaptiveMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, size: tuple[int, int]) -> Tensor:
        pooled, indices = F.adaptive_max_pool2d(image, size, return_indices=True)
        ctx.save_for_backward(indices)
        ctx.input_size = image.shape[-2:]
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        height, width = ctx.input_size
        rows = _disjoint_stride(height, grad.shape[-2])
        columns = _disjoint_stride(width, grad.shape[-1])
        grad_image = grad.new_zeros(*grad.shape[:-2], height * width)
        # Two windows can share a pixel, but never within one of these subsets: each scatter adds to
        # distinct places, and the order over the subsets is fixed.
        for row in range(rows):
            for column in range(columns):
                window = (..., slice(row, None, rows), slice(column, None, columns))
                grad_image.scatter_add_(-1, indices[window].flatten(-2), grad[window].flatten(-2))
        return grad_image.unflatten(-1, (height, width)), None


def _disjoint_stride(input_size: int, output_size: int) -> int:
    """Return the smallest known c such that the adaptive windows i and i + c share no pixel, for any i.

    Window i is [floor(i n / m), ceil((i + 1) n / m)) for n pixels and m windows.
    """
    return 1 if input_size % output_size == 0 else 1 + -(-output_size // input_size)


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
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return _AdaptiveMaxPool.apply(image, size)


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
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    dtype = torch.promote_types(image.dtype, torch.float32)
    rows, columns = (
        bilinear_matrix(image.shape[axis], size[axis], dtype=dtype, device=image.device) for axis in (-2, -1)
    )
    with torch.autocast(image.device.type, enabled=False):
        return (rows @ (image.to(dtype) @ columns.T)).to(image.dtype)
