"""A data set of images and labels in files; its subclasses find the files."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torchvision import tv_tensors

from difnet.data.base import SegmentationDataset, Split, Transform
from difnet.data.checks.finding import Finding, examined
from difnet.data.errors import DataError
from difnet.data.files.disk import QUARTER_TURNS, read_pixels
from difnet.data.items.item import Item, Picture
from difnet.data.options import Reading


class FileDataset(SegmentationDataset):
    """Images with labels in files.

    Args:
        root: the folder of the data.
        split: "train" or "val".
        transform: see `SegmentationDataset`.
        reading: how the labels are read.

    Attributes:
        root: the folder of the data.
        items: the images of the split, in a fixed order.
        reading: how the labels are read.
        options: the fields of `Reading` that the data set takes.
        layout: what `root` must hold, for messages.
    """

    root: Path
    items: Sequence[Item]
    reading: Reading
    notes: list[str]
    options: ClassVar[tuple[str, ...]] = ()
    layout: ClassVar[str] = ""

    def __init__(
        self,
        root: str | Path,
        split: Split,
        *,
        transform: Transform | None = None,
        reading: Reading | None = None,
    ):
        self.root = Path(root)
        self.split = split
        self.transform = transform
        self.reading = reading or Reading()
        self.notes = []
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise DataError(f"data root {self.root} {what}; the data are read from {self.layout}")
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Find the items of the split, and set classes and palette.

        Raises:
            DataError: a file is missing or cannot be used.
        """

    def other(self, split: Split, transform: Transform | None = None) -> "FileDataset":
        """Return another split of the same data, read in the same way.

        Raises:
            DataError: as the constructor.
        """
        return type(self)(self.root, split, transform=transform, reading=self.reading)

    def __len__(self) -> int:
        return len(self.items)

    def item_name(self, index: int) -> str:
        """Return the name of the image's file below its folder, without its ending."""
        return self.items[index].name

    def read(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image, label, _ = read_arrays(self.items[index])
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return tv_tensors.Image(pixels), tv_tensors.Mask(torch.from_numpy(label))

    def examine(self, index: int) -> Finding:
        image, label, (turn, label_turn) = read_arrays(self.items[index])
        return examined(image, label, turn, label_turn)

    def stamp(self, index: int) -> bytes | None:
        """Return path, size and times of the item's files, and the label's key; None if a file is missing."""
        item = self.items[index]
        parts = []
        for path in (item.image, *item.label.files):
            try:
                status = os.stat(path)
            except OSError:
                return None  # `read` says what is wrong with it
            parts.append(f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}")
        parts.append(item.label.key)
        return "\n".join(parts).encode("utf-8", "surrogateescape")

    def reading_key(self) -> str:
        root = os.path.abspath(self.root)
        return "\n".join([self.name, self.split, root, repr(self.reading), *self.classes])


def read_arrays(item: Item) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Read an image, its label, and the values of their files' EXIF tags Orientation.

    Returns:
        (H, W, 3) uint8 RGB, (H, W) uint8 class indices, and the two tags.

    Raises:
        DataError: the item cannot be used; the message names file, value and remedy.
    """
    image, orientation = read_pixels(item.image)
    size = (image.shape[0], image.shape[1])
    label = item.label.read(Picture(item.image, size, orientation))
    if label.classes.shape != size:
        raise _other_size(item, size, orientation, label.classes.shape, label.orientation)
    return image, label.classes, (orientation, label.orientation)


def _other_size(
    item: Item, size: tuple[int, int], orientation: int, label_size: tuple[int, ...], label_orientation: int
) -> DataError:
    """Say what is wrong with an image and a label of different sizes."""
    remedy = "resize the label with nearest neighbour"
    if label_size == size[::-1]:
        remedy = "one of them lies on its side: turn the label until it matches the image"
        if orientation in QUARTER_TURNS and label_orientation not in QUARTER_TURNS:
            remedy = (
                "the label was drawn on the stored pixels, before the turn by the EXIF tag "
                f"(Orientation {orientation}): turn the label the same way, or remove the tag from the image"
            )
        elif label_orientation in QUARTER_TURNS and orientation not in QUARTER_TURNS:
            remedy = (
                f"the label was turned by its own EXIF tag (Orientation {label_orientation}), which its "
                "image lacks: remove the tag from the label, or turn the image the same way"
            )
    return DataError(
        f"{(item.label.files or (item.image,))[0]} is {label_size[1]}x{label_size[0]}, its image "
        f"{item.image} is {size[1]}x{size[0]} (each after EXIF rotation); {remedy}"
    )
