"""Reads COCO's JSON of instances or stuff, which CVAT, Roboflow, Label Studio and others write too.

A JSON file lists images, categories, and annotations with a category and a segmentation: polygons, or run
lengths (RLE) as numbers or as a string. These layouts are found:

    annotations/instances_train2017.json   with train2017/ or images/train2017/ (COCO; in CVAT "default")
    train/_annotations.coco.json           with the images beside it (Roboflow)
    result.json or labels.json             with images/ or data/ beside it (Label Studio, FiftyOne)

A pixel in several annotations belongs to the smallest of them, and to the later one of two equal ones. The
format has no drawing order: in COCO's own files, a tie comes before or after the person who wears it.

Annotations with ``iscrowd`` 1 are drawn like all others. The flag says that instances are not told apart,
which does not matter here, and CVAT gives it to every mask that was painted with a brush.

COCO-Stuff also has PNG files ("stuffthingmaps"), which hold the category's id less one, and 255 for void.
Their numbers are class indices: read them with ``--dataset folder`` and a classes.txt of 182 lines.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from difnet.data.errors import VOID, DataError
from difnet.data.exports.classes import blank_note, keep_blank_images
from difnet.data.exports.export import Export, refuse_unused
from difnet.data.exports.parsing.coco_files import (
    CocoFile,
    Id,
    class_numbers,
    find_json,
    id_of,
    merge_names,
    open_all,
)
from difnet.data.exports.shapes import FAR
from difnet.data.files.json_files import member, shown
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import Item, Label, LabelMap, Picture
from difnet.data.options import Reading

_TOOL = "COCO annotations"

_LONGEST = 12
"""Characters of one number in a string of run lengths; each holds 5 bits."""


def recognise(root: Path) -> bool:
    """Whether a JSON file of annotated shapes is found, and none of panoptic segments."""
    kinds = find_json(root).values()
    return "shapes" in kinds and "panoptic" not in kinds


def read(root: Path, reading: Reading) -> Export:
    """Read the JSON files of an export; segmentations are decoded when a label is read.

    Classes are the categories in the order of their ids. Pixels outside all annotations are a class
    "background", which comes first, or void (`Reading.unannotated`).

    Raises:
        DataError: a JSON file cannot be used, or images are missing.
        ValueError: an option is given that changes nothing here.
    """
    refuse_unused(reading, ("unannotated", "unlabelled"), _TOOL)
    files, notes = open_all(root, "shapes")
    names, more = _categories(files)
    notes += more
    drawn, blank = [], []
    for file in files:
        parts, boxes = _annotations(file, names)
        drawn.append(parts)
        blank += [str(image.path) for key, image in file.images.items() if key not in parts]
        if boxes:
            notes.append(
                f"{file.path}: {boxes} annotation(s) are boxes without a segmentation, and not drawn"
            )
    kept = keep_blank_images(blank, reading, str(files[0].path.parent))
    notes += blank_note(blank, kept)
    classes, index_of = class_numbers(names, reading, bool(blank), files[0].path)
    splits: dict[str, list[Item]] = {}
    for file, parts in zip(files, drawn, strict=True):
        items = splits.setdefault(file.split, [])
        for key, image in file.images.items():
            if key in parts:
                found = tuple(it._replace(class_index=index_of[it.class_index]) for it in parts[key])
                items.append(
                    Item(image.name, image.path, CocoLabel(file.path, image.size, found, classes.start))
                )
            elif kept:
                items.append(Item(image.name, image.path, ConstantLabel(classes.blank)))
    for items in splits.values():
        items.sort(key=lambda item: item.name)
    void_text = "what no annotation covers" if classes.start == VOID else "nothing"
    return Export(_TOOL, classes.names, splits, void_text=void_text, notes=notes)


class Runs(NamedTuple):
    """Lengths of alternate runs of pixels outside and inside, column by column, as numbers or as a string."""

    counts: "array[int] | str"
    size: tuple[int, int]


class Annotation(NamedTuple):
    """The part of an image that belongs to a class: polygons of x, y, x, y, ..., or runs."""

    id: Id
    class_index: int
    segmentation: "tuple[array[float], ...] | Runs"


@dataclass(frozen=True)
class CocoLabel(Label):
    """The annotations of one image.

    Attributes:
        source: the JSON file.
        size: (height, width) of the image, as the JSON file says.
        annotations: in the order of the file.
        fill: the class of pixels outside all annotations, or 255.
    """

    source: Path
    size: tuple[int, int]
    annotations: tuple[Annotation, ...]
    fill: int

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.source,)

    def read(self, picture: Picture) -> LabelMap:
        height, width = self.size
        runs = [(it.class_index, self._runs(it)) for it in self.annotations]
        runs.sort(key=lambda it: -int(it[1][1::2].sum()))  # the sort keeps the order of equal sizes
        label = np.full(height * width, self.fill, np.uint8)
        for index, lengths in runs:
            label[np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)] = index
        return LabelMap(np.ascontiguousarray(label.reshape(width, height).T))

    def _runs(self, annotation: Annotation) -> np.ndarray:
        """The run lengths (n,) of an annotation; those at odd places lie inside it."""
        segmentation = annotation.segmentation
        where = f"{self.source}: annotation {annotation.id}"
        if not isinstance(segmentation, Runs):
            for polygon in segmentation:
                self._check_polygon(polygon, where)
            parts = coco_mask.frPyObjects([polygon.tolist() for polygon in segmentation], *self.size)
            return run_lengths(coco_mask.merge(parts)["counts"], where)
        if segmentation.size != self.size:
            (height, width), (rows, columns) = self.size, segmentation.size
            raise DataError(
                f"{where} has run lengths for {columns}x{rows} pixels, and its image has {width}x{height}; "
                "correct the size of the image or of the mask, or export again"
            )
        counts = segmentation.counts
        lengths = run_lengths(counts, where) if isinstance(counts, str) else np.array(counts, np.int64)
        height, width = self.size
        if (lengths.size and lengths.min() < 0) or lengths.sum() != height * width:
            raise DataError(
                f"{where} has run lengths of {lengths.sum()} pixels in all, and its image has "
                f"{width}x{height} = {height * width}; the file is damaged: export again"
            )
        return lengths

    def _check_polygon(self, polygon: "array[float]", where: str) -> None:
        if len(polygon) < 6 or len(polygon) % 2:  # pycocotools would take four numbers for a box
            raise DataError(
                f"{where} has a polygon of {len(polygon)} numbers, and three points or more have two numbers "
                "each; correct or delete it in the annotation tool and export it again"
            )
        if not all(abs(number) <= FAR for number in polygon):  # NaN is not
            strange = next(number for number in polygon if not abs(number) <= FAR)
            raise DataError(
                f"{where} has a polygon with the coordinate {strange}; correct or delete it in the "
                "annotation tool and export it again"
            )


def run_lengths(text: str | bytes, where: str) -> np.ndarray:
    """Decode COCO's string of run lengths to int64 (n,).

    A number is stored in groups of 5 bits, the lowest first, one character each: 48 plus the bits, plus 32 if
    another group follows. The highest bit is the sign. From the fourth number on, the difference to the
    number two places before is stored.

    Raises:
        DataError: the text holds other characters, or ends within a number; the message starts with `where`.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    digits = np.diff(ends, prepend=-1)
    sound = codes.size and codes.min() >= 0 and codes.max() < 64 and codes[-1] & 32 == 0
    if not sound or digits.max() > _LONGEST:
        raise DataError(f"{where} has run lengths that cannot be decoded; the file is damaged: export again")
    places = np.arange(codes.size) - np.repeat(ends - digits + 1, digits)
    numbers = np.add.reduceat((codes & 31) << (5 * places), ends - digits + 1)
    numbers -= np.where(codes[ends] & 16, 1 << (5 * digits), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def _categories(files: Sequence[CocoFile]) -> tuple[dict[int, str], list[str]]:
    """Return the name of each category, sorted by id, and what the user should know about them.

    Roboflow puts a category first that no annotation has, and of which the others are kinds: it is left out.
    """
    names = merge_names(files)
    parents = {category.parent for file in files for category in file.categories.values()}
    used = (it.get("category_id") for file in files for it in file.annotations if isinstance(it, dict))
    if len(names) > 1 and names.get(0) in parents and 0 not in used:
        return names, [
            f"category 0 ({names.pop(0)}) groups the others and has no annotation, so it is no class"
        ]
    return names, []


def _annotations(file: CocoFile, names: Mapping[int, str]) -> tuple[dict[Id, list[Annotation]], int]:
    """Return the annotations of each image that has some, and the number of those without a segmentation.

    The class index of an annotation is still the id of its category.
    """
    drawn: dict[Id, list[Annotation]] = {}
    boxes = 0
    for number, entry in enumerate(file.annotations):
        where = f"{file.path}: annotation number {number}"
        if isinstance(entry, dict) and "id" in entry:
            where = f"{file.path}: annotation {entry['id']}"
        category, image = member(entry, "category_id", int, where), id_of(entry, "image_id", where)
        for what, known in (("image", image in file.images), ("category", category in names)):
            if not known:
                raise DataError(
                    f"{where} has {what}_id = {shown(entry[f'{what}_id'])}, which the file does not list; "
                    "export it again"
                )
        if not entry.get("segmentation"):
            boxes += 1
            continue
        key = id_of(entry, "id", where) if "id" in entry else number
        segmentation = _segmentation(entry["segmentation"], where)
        drawn.setdefault(image, []).append(Annotation(key, category, segmentation))
    if boxes and not drawn:
        raise DataError(
            f"{file.path}: its {boxes} annotation(s) are boxes without a segmentation; annotate polygons or "
            "masks, and export them"
        )
    return drawn, boxes


def _segmentation(stored: Any, where: str) -> "tuple[array[float], ...] | Runs":
    """Pack a segmentation: 32 bytes of memory a coordinate, as Python's numbers take, become 8.

    Raises:
        DataError: it has another form.
    """
    try:
        if isinstance(stored, list):
            return tuple(array("d", polygon) for polygon in stored)
        counts, (height, width) = stored["counts"], stored["size"]
        return Runs(counts if isinstance(counts, str) else array("q", counts), (height, width))
    except (TypeError, ValueError, KeyError, OverflowError):
        raise DataError(
            f"{where} has the segmentation {shown(stored)}, expected a list of polygons [x, y, x, y, ...], "
            "or counts and size of run lengths; export it again"
        ) from None
