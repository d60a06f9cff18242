"""A data set in a folder: images, labels and classes.txt, or what an annotation tool exported."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from difnet.data.base import Split, Transform, distinct_palette
from difnet.data.errors import VOID, DataError, listed
from difnet.data.exports.export import divided
from difnet.data.exports.formats import format_of, read_export
from difnet.data.files.disk import IMAGE_SUFFIXES, list_files
from difnet.data.items.class_list import read_class_list
from difnet.data.items.dataset import FileDataset
from difnet.data.items.item import Item
from difnet.data.items.masks import MaskReader
from difnet.data.items.pairs import find_by_name, pair
from difnet.data.options import UnusedOption

CONVERTED = ".converted"
"""A file in a folder that `difnet.data convert` wrote, whose labels need no option."""

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation")}
"""Names of the folders of each split."""

KINDS = {"image": ("images",), "label": ("labels", "masks")}
"""Names of the folders of images and of labels."""

LAYOUT = "a root with images/train, images/val, labels/train, labels/val and classes.txt"


class Folder(FileDataset):
    """Images and labels of the same relative names, or an export.

    Args:
        root: folder that holds ``images/SPLIT/**/NAME.jpg`` (or another of `IMAGE_SUFFIXES`),
            ``labels/SPLIT/**/NAME.png`` and ``classes.txt`` (one class name per line, in index order) or a
            colour table (see `difnet.data.items.tables`). ``masks`` instead of ``labels``, and
            ``SPLIT/images`` instead of ``images/SPLIT``, will do too. Labels are grey or palette PNGs of
            class indices, or colour-coded masks. Links to folders are followed, names that begin with a dot
            are ignored. Or the folder of an export; see `difnet.data.exports.formats`.
        split, transform, reading: see `FileDataset`.

    Attributes:
        splits: the images of all splits of an export, which may have "test" too; empty for a plain folder.

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
    splits: Mapping[str, list[Item]] = MappingProxyType({})

    def _open(self) -> None:
        if is_plain(self.root):
            self._open_plain()
        else:
            self._open_export()

    def other(self, split: Split, transform: Transform | None = None) -> FileDataset:
        """See `FileDataset.other`; an export, which may take long to read, is not read again."""
        if not self.splits:
            return super().other(split, transform)
        dataset = copy.copy(self)
        dataset.split, dataset.transform, dataset.items = split, transform, self.splits[split]
        return dataset

    def _open_export(self) -> None:
        export = read_export(self.root, self.reading)
        share = 0.2 if self.reading.val_share is None else self.reading.val_share
        if not 0.0 < share < 1.0:
            raise ValueError(f"--val-share must lie between 0 and 1, got {share:g}")
        splits, notes = divided(export, share)
        if not 2 <= len(export.classes) <= VOID:
            raise DataError(
                f"{self.root} ({export.tool}) has {len(export.classes)} class(es), {listed(export.classes)}; "
                f"a training needs 2 to {VOID}"
            )
        self.classes, self.void_text = export.classes, export.void_text
        self.splits = splits
        self.items = splits[self.split]
        self.palette = distinct_palette(len(self.classes)) if export.palette is None else export.palette
        self.notes += [f"{self.root} is read as {export.tool}", *notes, *export.notes]

    def _open_plain(self) -> None:
        class_list = self.root / "classes.txt"
        for option in ("unannotated", "unlabelled", "val_share"):
            if getattr(self.reading, option) is not None:
                raise UnusedOption(option, f"a folder of masks in two splits ({self.root})")
        offset = self.reading.label_offset or 0
        named = read_class_list(class_list, offset) if class_list.exists() else None
        masks = MaskReader(self.root, class_list, named, self.reading)
        pairs = self._pair(masks.suffixes)
        masks.look_at(pairs[0][2], self._mask_of_the_other_split(masks.suffixes))
        self.classes, self.palette = masks.classes, masks.palette
        self.void_text, self.label_offset = masks.void_text, masks.label_offset
        self.items = [Item(name, image, masks.label(mask)) for name, image, mask in pairs]

    def _mask_of_the_other_split(self, suffixes: Sequence[str]) -> Path | None:
        """A mask of the other split, if there is one: both are read by the same rule."""
        other = "val" if self.split == "train" else "train"
        folder = split_folder(self.root, "label", other, suffixes)
        if not folder.is_dir():
            return None
        first = min(list_files(folder, suffixes)[0], default=None)
        return None if first is None else Path(first)

    def _pair(self, label_suffixes: Sequence[str]) -> list[tuple[str, str, str]]:
        """Find name, image and label of each item."""
        image_folder, label_folder = (
            split_folder(self.root, kind, self.split, IMAGE_SUFFIXES) for kind in KINDS
        )
        for folder in (image_folder, label_folder):
            if not folder.is_dir():
                raise DataError(f"folder {folder} is missing; the data are read from {LAYOUT}")
        images = find_by_name(image_folder, IMAGE_SUFFIXES)
        labels = find_by_name(label_folder, label_suffixes)
        self.notes += images.notes + labels.notes
        return pair(images, labels, image_folder, label_folder, f"{self.name} {self.split} in {self.root}")


def split_folder(root: Path, kind: str, split: str, suffixes: Sequence[str]) -> Path:
    """Return the folder of a kind and split: KIND/SPLIT or SPLIT/KIND, by any of their names.

    Args:
        root: the folder of the data.
        kind: "image" or "label".
        split: "train" or "val".
        suffixes: endings of the files that are looked for; a folder without any gives way to one with some.

    Raises:
        DataError: several such folders hold files.
    """
    choices = _split_folders(root, kind, split)
    found = [folder for folder in choices if folder.is_dir()]
    filled = [it for it in found if list_files(it, suffixes)[0]] if len(found) > 1 else found
    if len(filled) > 1:
        raise DataError(f"{' and '.join(map(str, filled))} both hold {kind}s; keep one of them")
    return [*filled, *found, *choices][0]


def _split_folders(root: Path, kind: str, split: str) -> list[Path]:
    pairs = [(name, part) for part in SPLITS[split] for name in KINDS[kind]]
    return [root / folder for name, part in pairs for folder in (Path(name, part), Path(part, name))]


def is_plain(root: Path) -> bool:
    """Whether `root` has the layout of this package, or a part of it, and is no export."""

    def any_folder(kind: str) -> bool:
        return any(folder.is_dir() for split in SPLITS for folder in _split_folders(root, kind, split))

    if any_folder("label"):
        return True
    # An export may have a classes.txt, which orders its classes.
    return (any_folder("image") or (root / "classes.txt").exists()) and format_of(root) is None


def data_folders(root: Path) -> list[Path]:
    """Return the folders below `root` whose pictures are read as data: those of a plain folder, or `root`."""
    if not is_plain(root):
        return [root]
    names = [*KINDS["image"], *KINDS["label"], *(name for split in SPLITS for name in SPLITS[split])]
    return [root / name for name in names]
