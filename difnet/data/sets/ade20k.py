"""ADE20K of the scene parsing challenge (Zhou et al., CVPR 2017): 150 classes, 20,210 and 2,000 images.

Names: the first of the words in CSAILVision/sceneparsing (objectInfo150.txt). Colours: its color150.mat.
Numbers and numbers of images: its README, where 0 is what belongs to no class. The data set is not part of
this package.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np

from difnet.data.errors import VOID, DataError
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.dataset import FileDataset
from difnet.data.items.index import Numbering
from difnet.data.items.item import FilePath, Item
from difnet.data.items.pairs import find_by_name, pair
from difnet.data.items.tables import read_table
from difnet.data.sets.published import MaskLabel, check_count, first_folder, required_folder
from difnet.utils.files import read_text

COUNTS = {"train": 20210, "val": 2000}
FOLDERS = {"train": "training", "val": "validation"}
TABLE = Path(__file__).parent / "names" / "ade20k.txt"
"""Colour and name of each class, in the order of the numbers 1 to 150."""

NUMBERING = Numbering(
    {0: VOID, VOID: VOID} | {index + 1: index for index in range(150)},
    "which ADE20K's scene parsing labels do not have (1 to 150 are the classes, 0 and 255 are void)",
    "take the file from the published archive again, or use --dataset folder for other classes",
)


class Ade20k(FileDataset):
    """The scene parsing part of ADE20K.

    A number n of 1 to 150 is class n - 1. 0 is void, and so is 255, which some copies hold. Road and
    skyscraper have the same published colour.

    Args:
        root: the folder ADEChallengeData2016, or the one that holds it.
        split, transform, reading: see `FileDataset`.

    Raises:
        DataError: a folder is missing, images and labels do not pair up, the files are the full ADE20K or
            have other classes, or the number of images is not the published one and --subset is not given.
    """

    name = "ade20k"
    options: ClassVar[tuple[str, ...]] = ("subset",)
    layout = (
        "ADEChallengeData2016, or the folder that holds it, with images/training and annotations/training"
    )
    void_text = "0, 255"
    label_offset = 1

    def _open(self) -> None:
        base = first_folder(self.root, ("", "ADEChallengeData2016"), "annotations") or self.root
        part = FOLDERS[self.split]
        folders = [base / kind / part for kind in ("images", "annotations")]
        if not folders[1].is_dir() and (stray := _full_label(self.root)) is not None:
            raise _full_data(stray)
        for folder in folders:
            required_folder(folder, self.layout)
        entries = read_table(TABLE)
        self.classes = [entry.name for entry in entries]
        self.palette = np.array([entry.colour for entry in entries], np.uint8)
        _compare_names(base / "objectInfo150.txt", self.classes)
        images, labels = find_by_name(folders[0], IMAGE_SUFFIXES), find_by_name(folders[1], (".png",))
        for files in (images.files, labels.files):
            if full := next((path for name, path in files.items() if name.endswith("_seg")), None):
                raise _full_data(full)
        self.notes += images.notes + labels.notes
        pairs = pair(images, labels, folders[0], folders[1], f"{self.name} {self.split} in {self.root}")
        check_count(len(pairs), COUNTS[self.split], self.split, str(folders[0]), self.reading.subset)
        self.items = [Item(name, image, MaskLabel(label, NUMBERING)) for name, image, label in pairs]


def _full_label(root: Path) -> Path | None:
    """Find a label of the full ADE20K, in the layouts of 2016 and 2021."""
    images = [f"{outer}images/{inner}training" for outer in ("", "ADE20K*/") for inner in ("", "ADE/")]
    patterns = [f"{folder}/{depth}*_seg.png" for folder in images for depth in ("*/", "*/*/")]
    return next((path for pattern in patterns for path in root.glob(pattern)), None)


def _full_data(label: FilePath) -> DataError:
    return DataError(
        f"{label} belongs to the full ADE20K, whose labels code thousands of classes in two colour channels; "
        "take the scene parsing archive ADEChallengeData2016, which has the 150 classes"
    )


def _compare_names(path: Path, classes: list[str]) -> None:
    """Refuse a list objectInfo150.txt that names other classes; there need not be one.

    Its lines hold a number, counts, and words for the class, between tabs.
    """
    if not path.is_file():
        return
    try:
        rows = [line.split("\t") for line in read_text(path).splitlines()]
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); take it from the published archive again"
        ) from error
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    found = {int(row[0]): row[-1].split(",")[0].strip() for row in cells if row and row[0].isdecimal()}
    for number, name in enumerate(classes, start=1):
        if found.get(number) != name:
            raise DataError(
                f"{path} names class {number} {found.get(number, 'nothing')!r}, and it is {name!r} in "
                "ADE20K's scene parsing; use --dataset folder for other classes, or take the file from the "
                "archive again"
            )
