"""DTensors of `torch.distributed.tensor`: every process walks over its own images."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def is_distributed(value: object) -> bool:
    """Whether `value` is a DTensor. The module of DTensors is already loaded if any exists."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def replicated(tensor: Tensor, like: Tensor) -> Tensor:
    """If `like` is a DTensor, make `tensor`, which all processes have, a replicated DTensor of its mesh."""
    if not is_distributed(like) or is_distributed(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def over_images(
    function: Callable[..., list[Tensor]], tensors: Sequence[Any], axes: Sequence[int | None]
) -> list[Tensor]:
    """Call `function` on the local images of DTensors, or on plain tensors unchanged.

    Each process keeps its images of the first DTensor. The other tensors are redistributed to match. Shards
    along other axes are gathered.

    Args:
        function: takes the tensors and returns tensors whose axis 0 counts images. On a process that holds no
            image, it is called with empty tensors.
        tensors: DTensors of one mesh, or plain tensors. None is passed on.
        axes: the axis of each tensor that counts images, 0 for the first tensor; None for a tensor that all
            images share.
    """
    if not is_distributed(tensors[0]):
        return function(*tensors)
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    mesh, batch = tensors[0].device_mesh, tensors[0].shape[0]
    split = [x == Shard(0) for x in tensors[0].placements]

    def local(tensor: Any, axis: int | None) -> Any:
        if tensor is None:
            return None
        placement = Replicate() if axis is None else Shard(axis)
        # For a tensor that all images share, each process has the gradient of its own images: a partial sum.
        grad_placement = Partial() if axis is None else Shard(axis)
        placements, grad_placements = (
            [x if is_split else Replicate() for is_split in split] for x in (placement, grad_placement)
        )
        return tensor.redistribute(mesh, placements).to_local(grad_placements=grad_placements)

    def distributed(result: Tensor) -> Tensor:
        # from_local would assume that every process holds equally many images, so it gets shape and strides.
        sizes = result.new_empty(batch, *result.shape[1:], device="meta")
        placements = [Shard(0) if is_split else Replicate() for is_split in split]
        return DTensor.from_local(
            result.contiguous(), mesh, placements, run_check=False, shape=sizes.shape, stride=sizes.stride()
        )

    results = function(*(local(tensor, axis) for tensor, axis in zip(tensors, axes, strict=True)))
    return [distributed(result) for result in results]
