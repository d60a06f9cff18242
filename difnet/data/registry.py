"""Builds a data set by its name."""

from pathlib import Path
from typing import Literal, get_args

from difnet.data.base import SegmentationDataset, Split, Transform
from difnet.data.folder import Folder
from difnet.data.items.dataset import FileDataset
from difnet.data.options import Reading, UnusedOption
from difnet.data.sets.ade20k import Ade20k
from difnet.data.sets.camvid import Camvid
from difnet.data.sets.cityscapes import Cityscapes
from difnet.data.sets.context import Context
from difnet.data.sets.scenes import Scenes
from difnet.data.sets.voc import Voc
from difnet.data.sets.voc_aug import VocAug

DatasetName = Literal["scenes", "camvid", "folder", "voc", "voc-aug", "context", "cityscapes", "ade20k"]
DATASETS: tuple[str, ...] = get_args(DatasetName)

ON_DISK: dict[str, type[FileDataset]] = {
    it.name: it for it in (Camvid, Folder, Voc, VocAug, Context, Cityscapes, Ade20k)
}
"""The data sets that are read from a folder."""


def create_dataset(
    name: str,
    root: str | Path | None,
    split: Split,
    *,
    transform: Transform | None = None,
    reading: Reading | None = None,
) -> SegmentationDataset:
    """Build a data set by name.

    Args:
        name: "scenes" (drawn in memory), or one of `ON_DISK`.
        root: folder of the data; None for "scenes".
        split: "train" or "val".
        transform: maps (image (3, H, W) uint8, label (H, W) uint8) to the item; None returns them as read.
        reading: how the labels are read, by default as their publisher or tool writes them.

    Raises:
        ValueError: the name or split is unknown, the root is missing or not used by this data set, or an
            option of `reading` is not for this data set or contradicts another.
        DataError: the data on disk cannot be used.
    """
    reading = reading or Reading()
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r} is unknown; choose train or val")
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    _check_options(name, reading)
    if name == "scenes":
        if root is not None:
            raise ValueError(
                f"scenes are drawn in memory and take no data root, got {root}; leave --data-root out, or "
                "choose the data with --dataset, such as --dataset folder"
            )
        return Scenes(split, transform=transform)
    if root is None:
        raise ValueError(f"data set {name!r} needs a folder; give --data-root DIR")
    return ON_DISK[name](root, split, transform=transform, reading=reading)


def create_pair(
    name: str,
    root: str | Path | None,
    transforms: tuple[Transform | None, Transform | None] = (None, None),
    reading: Reading | None = None,
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Build the training and the validation split of a data set; see `create_dataset`.

    Args:
        name, root, reading: see `create_dataset`.
        transforms: those of the two splits.
    """
    train = create_dataset(name, root, "train", transform=transforms[0], reading=reading)
    if isinstance(train, FileDataset):
        return train, train.other("val", transforms[1])
    return train, create_dataset(name, root, "val", transform=transforms[1], reading=reading)


def _check_options(name: str, reading: Reading) -> None:
    """Check that each option that is given is one of the data set.

    Raises:
        ValueError: one is not; the message says which data sets take it.
    """
    allowed = ON_DISK[name].options if name in ON_DISK else ()
    for option in reading.given():
        if option not in allowed:
            takers = [taker for taker, kind in ON_DISK.items() if option in kind.options]
            raise UnusedOption(option, name, f"--dataset {' or '.join(takers)}")
