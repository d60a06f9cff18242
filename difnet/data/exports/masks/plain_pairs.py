"""Reads a folder of images and a folder of masks that nobody divided into splits, with a list of classes.

labelme's labelme2voc.py writes such folders: JPEGImages/, SegmentationClass/ or SegmentationClassPNG/, and
class_names.txt. Other names are images/ and masks/ or labels/, with classes.txt or a colour table.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from difnet.data.errors import DataError
from difnet.data.exports.export import UNDIVIDED, Export, refuse_unused, split_name
from difnet.data.exports.masks import cvat_masks
from difnet.data.exports.masks.listing import Background, Masked, labelled
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.class_list import read_class_list
from difnet.data.items.masks import MaskReader
from difnet.data.items.pairs import find_by_name, pair
from difnet.data.items.tables import find_table
from difnet.data.options import Reading

_TOOL = "images and masks in two folders"
_IMAGES = ("images", "JPEGImages")
_MASKS = ("masks", "labels", "SegmentationClassPNG", "SegmentationClass")
_LISTS = ("classes.txt", "class_names.txt", "labels.txt")
_USED = ("void_value", "label_offset", "colours", "snap_colours", "unlabelled")
_BACKGROUND = ("background", "_background_", "__background__")


def recognise(root: Path) -> bool:
    """Whether `root` holds images and masks, not divided, and says what the masks mean."""
    if cvat_masks.recognise(root) or (_class_list(root) is None and find_table(root) is None):
        return False
    return bool(list(_picture_folders(root, _IMAGES)) and list(_picture_folders(root, _MASKS)))


def read(root: Path, reading: Reading) -> Export:
    """Read the list of classes, and pair images and masks by their names.

    Raises:
        DataError: the folders cannot be used; the message names file, value and remedy.
        ValueError: an option is given that such folders have no place for, or contradicts another.
    """
    refuse_unused(reading, _USED, _TOOL)
    image_folder, mask_folder = _only(root, _IMAGES), _only(root, _MASKS)
    class_list = _class_list(root)
    named = None if class_list is None else _read_names(class_list, reading.label_offset or 0)
    masks = MaskReader(root, class_list or root / _LISTS[0], named, reading)
    images, labels = find_by_name(image_folder, IMAGE_SUFFIXES), find_by_name(mask_folder, masks.suffixes)
    blank: set[str] = set()
    if reading.unlabelled in ("background", "skip"):
        blank = images.files.keys() - labels.files.keys()
    paired = images._replace(files={name: it for name, it in images.files.items() if name not in blank})
    where = f"{_TOOL} in {root}"
    pairs = [Masked(*it) for it in pair(paired, labels, image_folder, mask_folder, where)]
    masks.look_at(pairs[0].mask or mask_folder)
    everything = sorted([*pairs, *(Masked(name, images.files[name], None) for name in blank)])
    items, notes = labelled({UNDIVIDED: everything}, masks.label, reading, _background(masks.classes), where)
    notes += [*images.notes, *labels.notes]
    return Export(_TOOL, masks.classes, items, masks.palette, masks.void_text, notes)


def _background(classes: Sequence[str]) -> Background:
    """The class of images without a mask, by its name."""
    index = next((index for index, name in enumerate(classes) if name.lower() in _BACKGROUND), None)
    return Background(index, "no class is called background" if index is None else "")


def _class_list(root: Path) -> Path | None:
    return next((path for name in _LISTS if (path := root / name).is_file()), None)


def _read_names(path: Path, first: int) -> list[str]:
    """Read the class names; labelme's list may begin with __ignore__, which is void and has no number.

    Raises:
        DataError: the list cannot be used.
    """
    names = read_class_list(path, first)
    return names[1:] if names[0] == "__ignore__" else names


def _picture_folders(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Those of the folders `names` in `root` that hold pictures and are not divided into splits."""
    for name in names:
        folder = root / name
        if folder.is_dir() and _undivided(folder):
            yield folder


def _undivided(folder: Path) -> bool:
    for parent, folders, files in os.walk(folder):
        if parent == str(folder) and any(split_name(name) != UNDIVIDED for name in folders):
            return False
        if any(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
            return True
    return False


def _only(root: Path, names: Sequence[str]) -> Path:
    folders = list(_picture_folders(root, names))
    if len(folders) > 1:
        raise DataError(
            f"{folders[0]} and {folders[1]} both hold pictures, so it is not clear which to read; move one "
            "of them out of the folder"
        )
    return folders[0]
