"""Reads a folder of images and a folder of masks that are not divided into folders, with a list of classes.

labelme's labelme2voc.py writes such folders: JPEGImages/, SegmentationClass/ or SegmentationClassPNG/, and
class_names.txt. Other names are images/ and masks/ or labels/, with classes.txt or a colour table.
Where lists are in ImageSets/Segmentation/, as in VOC's layout, they name the images and divide them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from difnet.data.errors import DataError, listed
from difnet.data.exports.export import UNDIVIDED, Export, refuse_unused, split_name
from difnet.data.exports.masks import cvat_masks
from difnet.data.exports.masks.listing import Background, Masked, divide, labelled, read_lines
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.files.walk import walk
from difnet.data.items.class_list import read_class_list
from difnet.data.items.masks import MaskReader
from difnet.data.items.pairs import Found, find_by_name, pair
from difnet.data.items.tables import find_table
from difnet.data.options import Reading

_TOOL = "images and masks in two folders"
_IMAGES = ("images", "JPEGImages")
_MASKS = ("masks", "labels", "SegmentationClassPNG", "SegmentationClass")
_SPLIT_LISTS = Path("ImageSets", "Segmentation")
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
    where = f"{_TOOL} in {root}"
    notes = [*images.notes, *labels.notes]
    splits = _lists(root)
    if splits:
        chosen = {name for names in splits.values() for name in names}
        images, labels, left = _only_listed(images, labels, chosen, root / _SPLIT_LISTS)
        notes += left
    blank: set[str] = set()
    if reading.unlabelled in ("background", "skip"):
        _check_any_pair(images, labels, image_folder, mask_folder)
        blank = images.files.keys() - labels.files.keys()
    paired = images._replace(files={name: it for name, it in images.files.items() if name not in blank})
    pairs = [Masked(*it) for it in pair(paired, labels, image_folder, mask_folder, where)]
    masks.look_at(pairs[0].mask or mask_folder)
    everything = {it.name: it for it in [*pairs, *(Masked(name, images.files[name], None) for name in blank)]}
    splits = splits or {UNDIVIDED: sorted(everything)}
    items, blank_notes = labelled(
        {split: [everything[name] for name in names] for split, names in splits.items()},
        masks.label,
        reading,
        _background(masks.classes),
        where,
    )
    notes = [*blank_notes, *notes]
    return Export(_TOOL, masks.classes, items, masks.palette, masks.void_text, notes)


def _lists(root: Path) -> dict[str, list[str]]:
    """The names of the images of each split by the lists that VOC's layout has; empty if there are none.

    Raises:
        DataError: a list cannot be read, or an image is in two splits.
    """
    lists = {path: read_lines(path) for path in sorted((root / _SPLIT_LISTS).glob("*.txt"))}
    return divide(lists) if any(lists.values()) else {}


def _only_listed(
    images: Found, labels: Found, names: set[str], folder: Path
) -> tuple[Found, Found, list[str]]:
    """Return the images and masks that the lists in `folder` name, and notes about the others.

    Raises:
        DataError: a list names an image that is not there.
    """
    if missing := sorted(names - images.files.keys()):
        raise DataError(
            f"{folder} lists {len(missing)} image(s) that are not there ({listed(missing)}); add them, or "
            "remove their lines"
        )
    kept, notes = [], []
    for found, kind in ((images, "image"), (labels, "mask")):
        if left := sorted(found.files.keys() - names):
            notes.append(f"{len(left)} {kind}(s) are in no list of {folder} and not used ({listed(left)})")
        kept.append(found._replace(files={name: it for name, it in found.files.items() if name in names}))
    return kept[0], kept[1], notes


def _check_any_pair(images: Found, labels: Found, image_folder: Path, mask_folder: Path) -> None:
    """Refuse masks of which none has the name of an image: all images would count as not annotated.

    Raises:
        DataError: there is no pair.
    """
    masks = labels.files or labels.others
    if images.files and not images.files.keys() & labels.files.keys():
        example = f"{min(images.files.values())} and {min(masks.values())}" if masks else "no mask is there"
        raise DataError(
            f"no image in {image_folder} has a mask of its name in {mask_folder} ({example}); name each mask "
            "like its image, and save it as PNG"
        )


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
    with os.scandir(folder) as entries:
        if any(split_name(it.name) != UNDIVIDED and it.is_dir() for it in entries):
            return False
    return any(name.lower().endswith(IMAGE_SUFFIXES) for _, names, _ in walk(folder) for name in names)


def _only(root: Path, names: Sequence[str]) -> Path:
    folders = list(_picture_folders(root, names))
    if len(folders) > 1:
        raise DataError(
            f"{folders[0]} and {folders[1]} both hold pictures, so it is not clear which to read; move one "
            "of them out of the folder"
        )
    return folders[0]
