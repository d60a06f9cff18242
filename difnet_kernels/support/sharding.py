"""Tensors that `torch.distributed.tensor` holds in parts: every process walks over its own images."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def is_distributed(value: object) -> bool:
    """Whether `value` is a DTensor. Their module is imported where there are some already."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def replicated(tensor: Tensor, like: Tensor) -> Tensor:
    """Make `tensor`, the same on every process, a DTensor of the mesh of `like` where that is a DTensor."""
    if not is_distributed(like) or is_distributed(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def over_images(
    function: Callable[..., list[Tensor]], tensors: Sequence[Any], axes: Sequence[int | None]
) -> list[Tensor]:
    """Call `function` on the local images of DTensors; on tensors as they are where none is a DTensor.

    Each process keeps its images of the first DTensor. Other tensors are redistributed to match. Splits along
    other axes are gathered.

    Args:
        function: takes the tensors and returns tensors whose axis 0 counts images. It is called with no image
            on processes that hold none.
        tensors: all of them DTensors of one mesh, or none of them; None is passed on.
        axes: the axis of each tensor that counts images, 0 for the first; None for what all images share.
    """
    if not is_distributed(tensors[0]):
        return function(*tensors)
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    mesh, batch = tensors[0].device_mesh, tensors[0].shape[0]
    split = [placement == Shard(0) for placement in tensors[0].placements]

    def local(tensor: Any, axis: int | None) -> Any:
        if tensor is None:
            return None
        here = Replicate() if axis is None else Shard(axis)
        # Each process knows its images' part of the gradient of what all images share.
        gradient = Partial() if axis is None else Shard(axis)
        placements, gradients = (
            [x if is_split else Replicate() for is_split in split] for x in (here, gradient)
        )
        return tensor.redistribute(mesh, placements).to_local(grad_placements=gradients)

    def whole(result: Tensor) -> Tensor:
        # Shape and strides are given because processes may hold different numbers of images.
        sizes = result.new_empty(batch, *result.shape[1:], device="meta")
        placements = [Shard(0) if is_split else Replicate() for is_split in split]
        return DTensor.from_local(
            result.contiguous(), mesh, placements, run_check=False, shape=sizes.shape, stride=sizes.stride()
        )

    results = function(*(local(tensor, axis) for tensor, axis in zip(tensors, axes, strict=True)))
    return [whole(result) for result in results]
