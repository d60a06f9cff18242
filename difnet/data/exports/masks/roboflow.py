"""Reads Roboflow's "Semantic Segmentation Masks": in each split, NAME.jpg, NAME_mask.png and _classes.csv.

The masks are grey PNGs of class numbers, which _classes.csv names; there is no void. Roboflow's export for
classification has a file of the same name with other columns.
"""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from difnet.data.errors import VOID, DataError, listed, raise_all
from difnet.data.exports.export import Export, refuse_unused, split_name
from difnet.data.exports.masks.listing import Background, Masked, labelled, read_lines
from difnet.data.files.disk import IMAGE_SUFFIXES, list_files
from difnet.data.items.class_list import appearance
from difnet.data.items.index import IndexLabel, Numbering
from difnet.data.options import Reading

_TOOL = "Roboflow semantic segmentation masks"
_LIST = "_classes.csv"
_END = "_mask"


def recognise(root: Path) -> bool:
    """Whether `root` holds such an export, or the classification export of the same tool."""
    return bool(_folders(root))


def read(root: Path, reading: Reading) -> Export:
    """Read the lists of classes, and pair images and masks by their names.

    Raises:
        DataError: the export cannot be used; the message names file, value and remedy.
        ValueError: an option is given that such an export has no place for.
    """
    refuse_unused(reading, ("unlabelled",), _TOOL)
    folders = _folders(root)
    classes = _read_classes(folders[0] / _LIST)
    for folder in folders[1:]:
        if (other := _read_classes(folder / _LIST)) != classes:
            raise DataError(
                f"{folder / _LIST} names {listed(other)}, and {folders[0] / _LIST} names {listed(classes)}; "
                "all splits need the same classes in the same order: export them as one version"
            )
    numbering = Numbering(
        {index: index for index in range(len(classes))},
        f"outside the {len(classes)} classes of {folders[0] / _LIST} (0 to {len(classes) - 1})",
        "correct the mask or add the class to each _classes.csv",
    )
    splits: dict[str, list[Masked]] = {}
    notes: list[str] = []
    for folder in folders:
        files, others = list_files(folder, IMAGE_SUFFIXES)
        splits.setdefault(split_name(folder.name), []).extend(_pairs(folder, files))
        if strange := sorted(name for path in others if (name := os.path.basename(path)) != _LIST):
            notes.append(f"not read in {folder}: {listed(strange)}")
    items, blank_notes = labelled(
        splits,
        lambda mask: IndexLabel(mask, numbering),
        reading,
        _background(classes, folders[0] / _LIST),
        f"{_TOOL} in {root}",
    )
    return Export(_TOOL, classes, items, notes=[*blank_notes, *notes])


def _folders(root: Path) -> list[Path]:
    """The folders of the splits that have a list of classes."""
    return [folder for name in ("train", "valid", "test") if ((folder := root / name) / _LIST).is_file()]


def _read_classes(path: Path) -> list[str]:
    """Read the class names in the order of their numbers.

    Raises:
        DataError: the file is that of another export, or its numbers do not count up from 0.
    """
    try:
        rows = list(csv.reader(read_lines(path), skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read ({error}); export again") from error
    rows = [[cell.strip() for cell in row] for row in rows]
    header = [cell.lower() for cell in rows[0]] if rows else []
    if header != ["pixel value", "class"]:
        raise DataError(
            f"{path} has the columns {listed(rows[0] if rows else ['(none)'])}, as Roboflow's classification "
            "export has, in place of 'Pixel Value, Class'; export the data set as Semantic Segmentation Masks"
        )
    classes = []
    for index, row in enumerate(rows[1:]):
        if len(row) != 2 or row[0] != str(index) or not row[1]:
            raise DataError(
                f"{path} has the row {', '.join(row)!r} where '{index}, NAME' is expected; number the "
                "classes 0, 1, 2 and so on, one a row"
            )
        classes.append(row[1])
    looks = [appearance(name) for name in classes]
    if twice := sorted({name for name, look in zip(classes, looks, strict=True) if looks.count(look) > 1}):
        raise DataError(f"{path} names {listed(twice)} more than once; make the names distinct")
    if not 2 <= len(classes) <= VOID:
        raise DataError(f"{path} names {len(classes)} class(es); it must name 2 to {VOID}")
    return classes


def _background(classes: list[str], path: Path) -> Background:
    if classes[0].lower() == "background":
        return Background(0, f"class 0 of {path} is the background")
    return Background(None, f"class 0 of {path} is {classes[0]!r} and not background")


def _pairs(folder: Path, files: Iterable[str]) -> list[Masked]:
    """Find the mask of each image in a folder that holds both.

    The name of an image may end in "_mask" too. So the longest names are masks first: the image that such a
    mask belongs to is no mask itself.

    Raises:
        DataError: two images share a name, or a mask has no image.
    """
    by_name: dict[str, list[str]] = {}  # names below the folder, with / between folders, without an ending
    start = len(os.path.join(folder, ""))
    for path in sorted(files):
        by_name.setdefault(os.path.splitext(path[start:])[0].replace(os.sep, "/"), []).append(path)
    masks: dict[str, str] = {}  # by image
    taken: set[str] = set()
    errors = []
    for name in sorted(by_name, key=len, reverse=True):
        mask = next((path for path in by_name[name] if _is_png(path)), None)
        if not name.endswith(_END) or mask is None or mask in masks:
            continue
        owners = by_name.get(name.removesuffix(_END), [])
        if not owners:
            errors.append(f"mask {mask} has no image; add it there or remove the mask")
            continue
        # Of an image and a PNG of the same name, which end in "_mask" too, the PNG is a mask.
        masks[min(owners, key=_is_png)] = mask
        taken.add(mask)
    pairs = []
    for name, paths in by_name.items():
        images = [path for path in paths if path not in taken]
        if len(images) > 1:
            errors.append(f"{images[0]} and {images[1]} share the name {name!r}; keep one of them")
        for path in images:
            mask = masks.get(path)
            pairs.append(Masked(name, Path(path), None if mask is None else Path(mask)))
    raise_all(errors, f"{_TOOL} in {folder}")
    return pairs


def _is_png(path: str) -> bool:
    return path.lower().endswith(".png")
