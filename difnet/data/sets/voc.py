"""Pascal VOC 2012 (Everingham et al., IJCV 2015): 20 classes and background, 1,464 and 1,449 images.

Layout, numbers and colours: the development kit of the challenge, and the loaders of FCN
(shelhamer/fcn.berkeleyvision.org, voc_layers.py and data/pascal). The data set is not part of this package.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from difnet.data.errors import VOID, DataError
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.colours import voc_colours, voc_table
from difnet.data.items.dataset import FileDataset
from difnet.data.items.index import Numbering
from difnet.data.items.item import Item, Label
from difnet.data.items.pairs import find_by_name
from difnet.data.sets.published import (
    MaskLabel,
    check_count,
    first_folder,
    listed_files,
    read_names,
    required_folder,
)

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
COUNTS = {"train": 1464, "val": 1449}

NUMBERING = Numbering(
    {index: index for index in range(len(CLASSES))} | {VOID: VOID},
    "which VOC does not have (0 to 20 are its classes, 255 is void)",
    "take the file from the published archive again, or use --dataset folder for other classes",
)
TABLE = voc_table(CLASSES)


class Voc(FileDataset):
    """Pascal VOC 2012 with the publisher's splits.

    Labels are palette PNGs of numbers. Colour-coded copies of them (RGB) are read by VOC's colours, of which
    (224, 224, 192) is void.

    Args:
        root: the folder that holds VOCdevkit/VOC2012, or one of these two.
        split, transform, reading: see `FileDataset`.

    Raises:
        DataError: a list or folder is missing, a listed file is missing, or the number of images is not the
            published one and --subset is not given.
    """

    name = "voc"
    options: ClassVar[tuple[str, ...]] = ("subset",)
    layout = "a folder with VOCdevkit/VOC2012, or VOC2012 itself, with JPEGImages and SegmentationClass"

    def _open(self) -> None:
        base = self._describe()
        source = base / "ImageSets" / "Segmentation" / f"{self.split}.txt"
        names = read_names(source, self.layout, self.notes)
        check_count(len(names), COUNTS[self.split], self.split, str(source), self.reading.subset)
        folder = base / "SegmentationClass"
        labels = listed_files(names, found_files(folder, (".png",), self.layout), folder, str(source))
        by_name = {name: MaskLabel(path, NUMBERING, TABLE) for name, path in zip(names, labels, strict=True)}
        self.items = self._items(base, by_name, str(source))

    def _describe(self) -> Path:
        """Set what all of VOC shares, and return the folder VOC2012."""
        self.classes = list(CLASSES)
        self.palette = np.array(voc_colours(len(CLASSES)), np.uint8)
        candidates = ("", "VOC2012", "VOCdevkit/VOC2012", "VOCtrainval_11-May-2012/VOCdevkit/VOC2012")
        base = first_folder(self.root, candidates, "JPEGImages")
        if base is None:
            raise DataError(f"{self.root} holds no folder JPEGImages; the data are read from {self.layout}")
        return base

    def _items(self, base: Path, labels: Mapping[str, Label], source: str) -> list[Item]:
        """Join labels with their images, in the order of the names."""
        names = sorted(labels)
        folder = base / "JPEGImages"
        images = listed_files(names, found_files(folder, IMAGE_SUFFIXES, self.layout), folder, source)
        return [Item(name, image, labels[name]) for name, image in zip(names, images, strict=True)]


def found_files(folder: Path, suffixes: tuple[str, ...], layout: str) -> dict[str, str]:
    """Return the files of a folder by name.

    Raises:
        DataError: the folder is missing, or two files share a name.
    """
    return find_by_name(required_folder(folder, layout), suffixes).files
