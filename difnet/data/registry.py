"""Builds a data set by its name."""

from pathlib import Path
from typing import Literal, get_args

from difnet.data.base import VOID, SegmentationDataset, Split, Transform
from difnet.data.camvid import Camvid
from difnet.data.folder import Folder
from difnet.data.scenes import Scenes

DatasetName = Literal["scenes", "camvid", "folder"]
DATASETS: tuple[str, ...] = get_args(DatasetName)


def create_dataset(
    name: str,
    root: str | Path | None,
    split: Split,
    *,
    transform: Transform | None = None,
    void_value: tuple[int, ...] = (VOID,),
    label_offset: int = 0,
) -> SegmentationDataset:
    """Build a data set by name.

    Args:
        name: "scenes" (drawn in memory), "camvid" or "folder".
        root: folder of the data; None for "scenes".
        split: "train" or "val".
        transform: maps (image (3, H, W) uint8, label (H, W) uint8) to the item; None returns them as read.
        void_value, label_offset: the numbering of the labels of "folder"; see `Folder`.

    Raises:
        ValueError: the name or split is unknown, the root is missing or not used by this data set, or the
            numbering contradicts itself or the data set.
        DataError: the data on disk cannot be used.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r} is unknown; choose train or val")
    if name != "folder" and (void_value, label_offset) != ((VOID,), 0):
        raise ValueError(
            f"--void-value and --label-offset are for --dataset folder; {name} numbers its classes from 0, "
            f"and {VOID} is void; leave them out"
        )
    if name == "scenes":
        if root is not None:
            raise ValueError(
                f"scenes are drawn in memory and take no data root, got {root}; leave --data-root out"
            )
        return Scenes(split, transform=transform)
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    if root is None:
        raise ValueError(f"data set {name!r} needs a folder; give --data-root DIR")
    if name == "camvid":
        return Camvid(root, split, transform=transform)
    return Folder(root, split, transform=transform, void_value=void_value, label_offset=label_offset)
