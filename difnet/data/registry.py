"""Data sets by name."""

from pathlib import Path

from difnet.data.base import SegmentationDataset, Split, Transform
from difnet.data.camvid import Camvid
from difnet.data.folder import Folder
from difnet.data.scenes import Scenes

FOLDERS: dict[str, type[Folder]] = {"camvid": Camvid, "folder": Folder}
DATASETS = ("scenes", *FOLDERS)


def create_dataset(
    name: str, root: str | Path | None, split: Split, *, transform: Transform | None = None
) -> SegmentationDataset:
    """Build a data set by name.

    Args:
        name: "scenes" (drawn in memory), "camvid" or "folder".
        root: folder of the data; None for "scenes".
        split: "train" or "val".
        transform: (image (3, H, W) uint8, label (H, W) uint8) to what an item shall be; None leaves them.

    Raises:
        ValueError: unknown name or split, or a root where none is used or none where one is needed.
        DataError: the data on disk cannot be used.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r} is unknown; choose train or val")
    if name == "scenes":
        if root is not None:
            raise ValueError(
                f"scenes are drawn in memory and take no data root, got {root}; leave --data-root out"
            )
        return Scenes(split, transform=transform)
    if name not in FOLDERS:
        raise ValueError(f"data set {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    if root is None:
        raise ValueError(f"data set {name!r} needs a folder; give --data-root DIR")
    return FOLDERS[name](root, split, transform=transform)
