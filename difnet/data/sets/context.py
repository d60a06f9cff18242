"""Pascal Context (Mottaghi et al., CVPR 2014): 59 classes and background, 4,998 and 5,105 images of VOC 2010.

Two orders of the classes are in use, under the same numbers 0 to 59 (0 is background):

- the authors', in 59_labels.txt beside their archive 59_context_labels: VOC's classes first. Source:
  shelhamer/fcn.berkeleyvision.org (data/pascal-context/classes-59.txt).
- that of the annotation PASCAL in Detail, which is alphabetical. Source: open-mmlab/mmsegmentation
  (tools/dataset_converters/pascal_context.py, and mmseg/datasets/pascal_context.py, whose early version names
  the authors' order).

The labels do not show which order they have, so a list of the classes must say it. Both splits of VOC 2010
for detection (ImageSets/Main) and the lists of PASCAL in Detail have these numbers of images. The data set is
not part of this package.
"""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from difnet.data.errors import DataError, listed
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.class_list import read_class_list
from difnet.data.items.colours import voc_colours
from difnet.data.items.dataset import FileDataset
from difnet.data.items.index import Numbering
from difnet.data.items.item import Item
from difnet.data.sets.published import MaskLabel, check_count, first_folder, listed_files, read_names
from difnet.data.sets.voc import found_files

COUNTS = {"train": 4998, "val": 5105}
ORDERS = {
    "the authors'": Path(__file__).parent / "names" / "context_authors.txt",
    "that of PASCAL in Detail": Path(__file__).parent / "names" / "context_detail.txt",
}
"""The files with the two orders; the first is the order of this package."""

CLASS_LISTS = (
    *("59_labels.txt", "59-labels.txt", "classes-59.txt", "classes_59.txt", "classes.txt"),
    *("context_authors.txt", "context_detail.txt"),
)
"""Names of class lists that are looked for, in this order."""

LABEL_FOLDERS = ("SegmentationClassContext", "59_context_labels")
LIST_FOLDERS = ("ImageSets/SegmentationContext", ".", "ImageSets/Main")
_SAME = {"diningtable": "table", "clothes": "cloth", "bedcloth": "bedclothes"}


class Context(FileDataset):
    """Pascal Context with 60 classes, in the authors' order whatever order the label files have.

    Args:
        root: the folder that holds VOCdevkit/VOC2010, or one of these two. JPEGImages are VOC 2010's. The
            labels are in one of `LABEL_FOLDERS`, and the lists train.txt and val.txt in one of
            `LIST_FOLDERS`, in VOC2010 or in `root`. A class list is --class-list, or one of `CLASS_LISTS` in
            one of these folders.
        split, transform, reading: see `FileDataset`.

    Raises:
        DataError: there is no class list, or it has neither order; a list or folder is missing; a listed file
            is missing; or the number of images is not the published one and --subset is not given.
    """

    name = "context"
    options: ClassVar[tuple[str, ...]] = ("class_list", "subset")
    layout = (
        "a folder with VOCdevkit/VOC2010, or VOC2010 itself, with JPEGImages, "
        "SegmentationClassContext (or 59_context_labels) and ImageSets/SegmentationContext"
    )
    void_text = "no number"
    order: str

    def _open(self) -> None:
        candidates = ("", "VOC2010", "VOCdevkit/VOC2010")
        base = first_folder(self.root, candidates, "JPEGImages")
        if base is None:
            raise DataError(f"{self.root} holds no folder JPEGImages; the data are read from {self.layout}")
        starts = list(dict.fromkeys((base, self.root)))
        folder = next((it / name for it in starts for name in LABEL_FOLDERS if (it / name).is_dir()), None)
        if folder is None:
            raise DataError(
                f"{base} holds no folder {' or '.join(LABEL_FOLDERS)}; the data are read from {self.layout}"
            )
        self.classes = canonical_classes()
        self.palette = np.array(voc_colours(len(self.classes)), np.uint8)
        numbering = self._numbering([*starts, folder, base.parent], folder)
        places = [it / name / f"{self.split}.txt" for name in LIST_FOLDERS for it in starts]
        source = next((place for place in places if place.is_file()), places[0])
        names = sorted(read_names(source, self.layout, self.notes))
        check_count(len(names), COUNTS[self.split], self.split, str(source), self.reading.subset)
        labels = listed_files(names, found_files(folder, (".png",), self.layout), folder, str(source))
        shown = base / "JPEGImages"
        images = listed_files(names, found_files(shown, IMAGE_SUFFIXES, self.layout), shown, str(source))
        self.items = [
            Item(name, image, MaskLabel(label, numbering))
            for name, image, label in zip(names, images, labels, strict=True)
        ]

    def reading_key(self) -> str:
        """Name the order too: a class list may change while its path and the label files stay."""
        return f"{super().reading_key()}\n{self.order}"

    def _numbering(self, folders: list[Path], labels: Path) -> Numbering:
        """Find the class list, and return the class of each number in the labels."""
        given = self.reading.class_list
        found = [it / name for it in dict.fromkeys(folders) for name in CLASS_LISTS if (it / name).is_file()]
        lists = [given] if given is not None else found
        if not lists:
            raise DataError(
                f"{labels} can be numbered in two ways, which the labels do not show: {_orders()}; give "
                "--class-list with the file that has the order of your labels, or put 59_labels.txt beside "
                "them"
            )
        orders = {path: order_of(path) for path in lists}
        if len({*orders.values()}) > 1:
            told = "; ".join(f"{path} has {order}" for path, order in orders.items())
            raise DataError(
                f"the class lists have different orders ({told}); give --class-list with the right one"
            )
        path, self.order = next(iter(orders.items()))
        self.notes.append(f"the labels are numbered in {self.order} order, as {path} lists the classes")
        stored = [_comparable(name) for name in _read(ORDERS[self.order])]
        here = [_comparable(name) for name in self.classes]
        return Numbering(
            {number: here.index(name) for number, name in enumerate(stored)},
            "which the 60 classes of Pascal Context do not have (0 is background, 1 to 59 are the others)",
            "take labels whose background is 0 and not 255, or use --dataset folder for other classes",
        )


def canonical_classes() -> list[str]:
    """The 60 classes in the order of this package, background first."""
    return _read(next(iter(ORDERS.values())))


def order_of(path: Path) -> str:
    """Return the key of `ORDERS` whose order a class list has.

    The list may leave out background, number its lines, and use either spelling of table (diningtable), cloth
    (clothes) and bedclothes (bedcloth).

    Raises:
        DataError: the list cannot be read, or has neither order; the message names the first difference.
    """
    names = _read(path)
    found = [_comparable(name) for name in names]
    orders = {key: [_comparable(name) for name in _read(file)] for key, file in ORDERS.items()}
    for key, order in orders.items():
        if found == order:
            return key
    if len(found) != 60:
        raise DataError(
            f"{path} names {len(found)} classes with background, and Pascal Context has 60; give "
            f"--class-list with one of these orders: {_orders()}"
        )
    # The order that agrees longest is the one that was meant.
    agreed = {
        key: next(i for i, pair in enumerate(zip(found, order, strict=True)) if len({*pair}) > 1)
        for key, order in orders.items()
    }
    key, place = max(agreed.items(), key=lambda item: item[1])
    raise DataError(
        f"{path} has {names[place]!r} as class {place}, where {key} order has {orders[key][place]!r}; give "
        f"--class-list with one of these orders: {_orders()}"
    )


def _orders() -> str:
    """Name the two files, for messages."""
    return listed([f"{key} order, as in {path}" for key, path in ORDERS.items()])


def _comparable(name: str) -> str:
    """Return a name without blanks, in one spelling."""
    plain = re.sub(r"[\s_-]", "", name).lower()
    return _SAME.get(plain, plain)


def _read(path: Path) -> list[str]:
    """Read a class list, with or without background and numbers, as 60 names with background first.

    Raises:
        DataError: the list cannot be read, or its numbers are not those of the labels.
    """
    lines = read_class_list(path)
    matches = [re.fullmatch(r"(\d+)\s*[:.,;\s]\s*(.*\S)", line) for line in lines]
    names = [match[2] if match else line for match, line in zip(matches, lines, strict=True)]
    first = 0 if _comparable(names[0]) in ("background", "other", "others") else 1
    wrong = next(
        (i for i, match in enumerate(matches) if match is not None and int(match[1]) != i + first), None
    )
    if wrong is not None:
        raise DataError(
            f"{path} has {lines[wrong]!r} on line {wrong + 1}, and the labels of Pascal Context hold "
            f"{wrong + first} for that class, because 0 is background; correct the numbers"
        )
    return ["background", *names[1 - first :]]
