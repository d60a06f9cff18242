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

from difnet_kernels.support.autocast import product
from difnet_kernels.support.operators import Derivative, define


def adaptive_max_pool2d(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Maximum over adaptive windows, with a reproducible gradient.

    Equivalent to `torch.nn.functional.adaptive_max_pool2d(image, size)`. In a tie, the pixel that PyTorch
    reports as the maximum gets the gradient.

    Args:
        image: (B, C, H, W), floating point.
        size: (h, w) of the result.

    Returns:
        (B, C, h, w), in the dtype of `image`; `image` itself if it has that size.
    """
    if torch.jit.is_tracing():  # sizes are then tensors, which only PyTorch's own operators accept
        return F.adaptive_max_pool2d(image, size)
    if _same_size(image, size):
        return image
    return torch.ops.difnet.adaptive_max_pool2d(image, size)[0]


def _gather(image: Tensor, places: Tensor) -> Tensor:
    """Take the pixels of an image (B, C, H, W) at places (B, C, h, w)."""
    return image.flatten(-2).gather(-1, places.flatten(-2)).view_as(places)


def _pool(image: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return maxima and their places, both (B, C, h, w); a place is an index among the H * W pixels."""
    pooled, places = F.adaptive_max_pool2d(image, tuple(size), return_indices=True)
    return pooled.contiguous(), places.contiguous()


def _fake_pool(image: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    shape = (*image.shape[:2], *size)
    return image.new_empty(shape), image.new_empty(shape, dtype=torch.int64)


def _scatter(grad: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Compute the gradient (B, C, H, W) of the image from that of the maxima (B, C, h, w)."""
    height, width = size
    rows, columns = _disjoint_stride(height, grad.shape[-2]), _disjoint_stride(width, grad.shape[-1])
    grad_image = grad.new_zeros(*grad.shape[:-2], height * width)
    # Two windows can share a pixel, but not within one of these subsets. So each scatter adds to distinct
    # places, and the order of the subsets is fixed.
    for row in range(rows):
        for column in range(columns):
            window = (..., slice(row, None, rows), slice(column, None, columns))
            grad_image.scatter_add_(-1, places[window].flatten(-2), grad[window].flatten(-2))
    return grad_image.unflatten(-1, (height, width))


def _fake_scatter(grad: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    return grad.new_empty(*grad.shape[:2], *size)


class _PoolDerivative(Derivative):
    """The gradient of each maximum goes to the pixel that it came from."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.size = inputs[2].shape[-2:]
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[None, None, Tensor, None]:
        return (
            None,
            None,
            torch.ops.difnet.adaptive_max_pool2d_backward(grad, *ctx.saved_tensors, ctx.size),
            None,
        )

    @staticmethod
    def jvp(ctx: Any, operator: None, keys: None, tangent: Tensor, _: None) -> tuple[Tensor, None]:
        return _gather(tangent, *ctx.saved_tensors), None


class _ScatterDerivative(Derivative):
    """Scattering is linear: its derivative gathers from the same places."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, _, places, ctx.size = inputs
        ctx.save_for_backward(places)
        ctx.save_for_forward(places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, _gather(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, operator: None, keys: None, tangent: Tensor, *_: None) -> Tensor:
        return torch.ops.difnet.adaptive_max_pool2d_backward(tangent, *ctx.saved_tensors, ctx.size)


def _vmapped(operator: Any, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
    """`torch.vmap` of either operator: one call with the images of all calls."""
    *tensors, size = inputs
    calls = [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims[:-1], strict=True)
    ]
    results = operator(*(x.flatten(0, 1) for x in calls), size)
    unfolded = (info.batch_size, calls[0].shape[1])
    if isinstance(results, Tensor):
        return results.unflatten(0, unfolded), 0
    return tuple(x.unflatten(0, unfolded) for x in results), (0, 0)


# These are separate operators because PyTorch's takes the size as a constant: a compiled or exported program
# would serve one image size.
_library = torch.library.Library("difnet", "DEF")
for _name, _schema, _kernel, _fake, _derivative in (
    (
        "adaptive_max_pool2d",
        "(Tensor image, SymInt[] size) -> (Tensor maxima, Tensor places)",
        _pool,
        _fake_pool,
        _PoolDerivative,
    ),
    (
        "adaptive_max_pool2d_backward",
        "(Tensor grad, Tensor places, SymInt[] size) -> Tensor",
        _scatter,
        _fake_scatter,
        _ScatterDerivative,
    ),
):
    define(_library, _name, _schema, fake=_fake, vmap=_vmapped, derivative=_derivative, kernel=_kernel)


def _disjoint_stride(input_size: int, output_size: int) -> int:
    """Return a small c such that the adaptive windows i and i + c share no pixel, for any i.

    Window i is [floor(i n / m), ceil((i + 1) n / m)) for n pixels and m windows.
    """
    return 1 if input_size % output_size == 0 else 1 + -(-output_size // input_size)


def _same_size(image: Tensor, size: tuple[int, int]) -> bool:
    """Whether the image has that size; for symbolic sizes, whether all images that fit them have it."""
    known = (statically_known_true(a == b) for a, b in zip(image.shape[-2:], size, strict=True))
    return not torch.jit.is_tracing() and all(known)


def bilinear_matrix(
    input_size: int,
    output_size: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    part: tuple[range, range] | None = None,
) -> Tensor:
    """Return the interpolation weights along one axis for `align_corners=False`, (output_size, input_size).

    Output pixel i lies at x = (i + 1/2) n / m - 1/2, clamped to [0, n - 1], and input pixel j has weight
    max(0, 1 - |x - j|) in it. All numbers are integers in units of 1 / (2 m), so each weight is rounded once.
    With `part`, return only the rows of some output pixels and the columns of some input pixels.
    """
    if part is None:
        outputs = torch.arange(output_size, device=device)
        inputs = torch.arange(input_size, device=device)
    else:
        outputs, inputs = (torch.arange(pixels.start, pixels.stop, device=device) for pixels in part)
    unit = 2 * output_size
    position = ((2 * outputs + 1) * input_size - output_size).clamp(0, unit * (input_size - 1))
    weight = (unit - (position[:, None] - unit * inputs).abs()).clamp(min=0)
    return weight.to(dtype) / unit


def upsample_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation to `size`, as two matrix products, with a reproducible gradient.

    Equivalent to `torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)`.
    float16 and bfloat16 are computed in float32, even under autocast, and rounded at the end. On CUDA, cuBLAS
    needs `CUBLAS_WORKSPACE_CONFIG=:4096:8` to be reproducible, as for every matrix product. A NaN or infinite
    value spreads along its row and column.

    Args:
        image: (B, C, h, w), floating point.
        size: (H, W) of the result.

    Returns:
        (B, C, H, W), in the dtype of `image`; `image` itself if it has that size.
    """
    if _same_size(image, size):
        return image
    dtype = torch.promote_types(image.dtype, torch.float32)
    rows, columns = (
        bilinear_matrix(image.shape[axis], size[axis], dtype=dtype, device=image.device) for axis in (-2, -1)
    )
    return product(rows, product(image.to(dtype), columns.T)).to(image.dtype)
