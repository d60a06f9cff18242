"""A data set in a folder: images, labels and classes.txt, or what an annotation tool exported."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from PIL import Image

from difnet.data.base import distinct_palette
from difnet.data.errors import VOID, DataError, listed
from difnet.data.exports.export import divided
from difnet.data.exports.formats import format_of, read_export
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.class_list import read_class_list
from difnet.data.items.colours import ColourLabel
from difnet.data.items.dataset import FileDataset
from difnet.data.items.index import IndexLabel, Numbering
from difnet.data.items.item import Item, Label
from difnet.data.items.pairs import find_by_name, pair
from difnet.data.items.tables import chosen_table

SPLITS = ("train", "val")
LAYOUT = "a root with images/train, images/val, labels/train, labels/val and classes.txt"


class Folder(FileDataset):
    """Images and labels of the same relative names, or an export.

    Args:
        root: folder that holds ``images/SPLIT/**/NAME.jpg`` (or another of `IMAGE_SUFFIXES`),
            ``labels/SPLIT/**/NAME.png`` and ``classes.txt`` (one class name per line, in index order) or a
            colour table (see `difnet.data.items.tables`). Labels are grey or palette PNGs of class indices,
            or colour-coded masks. Links to folders are followed, names that begin with a dot are ignored. Or
            the folder of an export; see `difnet.data.exports.formats`.
        split, transform, reading: see `FileDataset`.

    Attributes:
        others: the images of other splits that an export has, such as "test".

    Raises:
        DataError: a folder or classes.txt is missing or empty, or images and labels do not pair up.
        ValueError: a void number is also that of a class, or out of range.
    """

    name = "folder"

    options: ClassVar[tuple[str, ...]] = (
        *("void_value", "label_offset", "colours", "snap_colours", "unannotated", "unlabelled"),
        "val_share",
    )
    layout = LAYOUT
    others: Mapping[str, list[Item]] = MappingProxyType({})

    def _open(self) -> None:
        if is_plain(self.root):
            self._open_plain()
        else:
            self._open_export()

    def _open_export(self) -> None:
        export = read_export(self.root, self.reading)
        share = 0.2 if self.reading.val_share is None else self.reading.val_share
        splits, notes = divided(export, share)
        if not 2 <= len(export.classes) <= VOID:
            raise DataError(
                f"{self.root} ({export.tool}) has {len(export.classes)} class(es), {listed(export.classes)}; "
                f"a training needs 2 to {VOID}"
            )
        self.classes, self.void_text = export.classes, export.void_text
        self.others = {split: items for split, items in splits.items() if split not in SPLITS}
        self.items = splits[self.split]
        self.palette = distinct_palette(len(self.classes)) if export.palette is None else export.palette
        self.notes += [f"{self.root} is read as {export.tool}", *notes, *export.notes]

    def _open_plain(self) -> None:
        void = (VOID,) if self.reading.void_value is None else self.reading.void_value
        self.label_offset = self.reading.label_offset or 0
        self.void_text = ", ".join(map(str, void)) or "no number"
        class_list = self.root / "classes.txt"
        named = read_class_list(class_list, self.label_offset) if class_list.exists() else None
        table = chosen_table(self.reading.colours, self.root, named)
        if named is None and table is None:
            raise DataError(
                f"{class_list} is missing; write one class name per line, in index order, as UTF-8, or put a "
                "colour table beside it if each colour of the labels means a class"
            )
        self.classes = table[0] if named is None and table is not None else named or []
        self._check_numbering(void)
        pairs = self._pair((".png",) if table is None else IMAGE_SUFFIXES)
        if table is not None and (self.reading.colours is not None or _is_coloured(pairs[0][2])):
            colours, snap = table[1], bool(self.reading.snap_colours)
            self.void_text = f"void in {colours.source}" if VOID in colours.indices else "no colour"
            known = dict(zip(colours.indices, colours.colours, strict=True))
            self.palette = np.array([known[index] for index in range(len(self.classes))], np.uint8)

            def label_of(path: Path) -> Label:
                return ColourLabel(path, colours, snap)
        else:
            numbering = Numbering.shifted(len(self.classes), void_value=void, label_offset=self.label_offset)
            self.palette = self._find_palette(pairs[0][2])

            def label_of(path: Path) -> Label:
                return IndexLabel(path, numbering)

        self.items = [Item(name, image, label_of(label)) for name, image, label in pairs]

    def _check_numbering(self, void: tuple[int, ...]) -> None:
        last = self.label_offset + len(self.classes) - 1
        for option, number in (
            ("--label-offset", self.label_offset),
            *(("--void-value", number) for number in void),
        ):
            if not 0 <= number < 2**16:
                raise ValueError(f"{option} must be a number that a PNG can hold, 0 to 65535, got {number}")
        for number in void:
            if self.label_offset <= number <= last:
                name = self.classes[number - self.label_offset]
                raise ValueError(
                    f"--void-value {number} is also the number of class {name!r} in the labels (classes are "
                    f"{self.label_offset} to {last}); set --label-offset to the number of the first class, "
                    "or remove the void class from classes.txt"
                )

    def _pair(self, label_suffixes: tuple[str, ...]) -> list[tuple[str, Path, Path]]:
        """Find name, image and label of each item."""
        image_folder, label_folder = (self.root / kind / self.split for kind in ("images", "labels"))
        for folder in (image_folder, label_folder):
            if not folder.is_dir():
                raise DataError(f"folder {folder} is missing; --data-root takes {LAYOUT}")
        images = find_by_name(image_folder, IMAGE_SUFFIXES)
        labels = find_by_name(label_folder, label_suffixes)
        self.notes += images.notes + labels.notes
        return pair(images, labels, image_folder, label_folder, f"{self.name} {self.split} in {self.root}")

    def _find_palette(self, label: Path) -> np.ndarray:
        """Take the colours of a label's palette, or generate colours if it has too few."""
        try:
            with Image.open(label) as file:
                colours = np.array(file.getpalette() or [], np.uint8).reshape(-1, 3)
                colours = colours[self.label_offset :][: len(self.classes)]
        except Exception:  # for damaged files, Pillow raises errors of nearly every type
            colours = np.zeros((0, 3), np.uint8)  # `check` will report the file with its reason
        enough = len(np.unique(colours, axis=0)) == len(self.classes)
        return colours if enough else distinct_palette(len(self.classes))


def is_plain(root: Path) -> bool:
    """Whether `root` has the layout of this package, or a part of it, and is no export."""
    if any((root / "labels" / split).is_dir() for split in SPLITS):
        return True
    partly = (root / "classes.txt").exists() or any((root / "images" / split).is_dir() for split in SPLITS)
    return partly and format_of(root) is None  # an export may have a classes.txt that orders its classes


def _is_coloured(label: Path) -> bool:
    """Whether a label is a colour picture: neither grey nor a palette picture."""
    try:
        with Image.open(label) as file:
            return file.mode not in ("1", "L", "P", "I;16")
    except Exception:  # `check` will report the file with its reason
        return False
