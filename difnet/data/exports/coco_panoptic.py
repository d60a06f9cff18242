"""Reads COCO panoptic: a PNG of segment numbers for each image, and a JSON file with the classes of segments.

The JSON file panoptic_NAME.json, in the root or in annotations/, has the PNGs in a folder panoptic_NAME
beside it; images are found as in `difnet.data.exports.coco`. The number of a pixel is R + 256 G + 65536 B,
and 0 is void. Classes are all categories, things and stuff, in the order of their ids.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from difnet.data.errors import VOID, DataError, listed
from difnet.data.exports.classes import blank_note, keep_blank_images, unread_list
from difnet.data.exports.export import Export, refuse_unused
from difnet.data.exports.parsing.coco_files import (
    CocoFile,
    Id,
    class_numbers,
    id_of,
    merge_names,
    open_all,
    short_name,
)
from difnet.data.exports.parsing.coco_search import find_json
from difnet.data.files.disk import read_colours
from difnet.data.files.json_files import member
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import Item, Label, LabelMap, Picture
from difnet.data.options import Reading

_TOOL = "COCO panoptic segments"


def recognise(root: Path) -> bool:
    """Whether a JSON file of panoptic segments is found."""
    return "panoptic" in find_json(root).values()


def read(root: Path, reading: Reading) -> Export:
    """Read the JSON files of segments; PNGs are opened when a label is read.

    Pixels of the number 0 are void, or with ``--unannotated background`` a class "background", which comes
    first.

    Raises:
        DataError: a JSON file cannot be used, or images or PNGs are missing.
        ValueError: an option is given that changes nothing here.
    """
    refuse_unused(reading, ("unannotated", "unlabelled"), _TOOL)
    reading = replace(reading, unannotated=reading.unannotated or "void")
    files, found, notes = open_all(root, "panoptic", _segments)
    names = merge_names(files)
    blank = [
        image.path
        for file, segments in zip(files, found, strict=True)
        for key, image in file.images.items()
        if key not in segments
    ]
    kept = keep_blank_images(blank, reading, str(files[0].path.parent))
    notes += blank_note(blank, kept)
    classes, index_of = class_numbers(names, reading, bool(blank), files[0].path)
    notes += unread_list(root, classes.names, "the ids of the categories")
    splits: dict[str, list[Item]] = {}
    for file, segments in zip(files, found, strict=True):
        for key, image in file.images.items():
            items = splits.setdefault(image.split, [])
            if key in segments:
                png, numbers = segments[key]
                known = tuple((number, index_of[category]) for number, category in numbers)
                items.append(
                    Item(image.name, image.path, PanopticLabel(png, file.path, known, classes.start))
                )
            elif kept:
                items.append(Item(image.name, image.path, ConstantLabel(classes.blank)))
    for items in splits.values():
        items.sort(key=lambda item: item.name)
    void_text = "number 0" if classes.start == VOID else "nothing"
    return Export(_TOOL, classes.names, splits, void_text=void_text, notes=notes)


@dataclass(frozen=True)
class PanopticLabel(Label):
    """A PNG of segment numbers.

    Attributes:
        path: the PNG.
        source: the JSON file.
        segments: number and class index of each segment.
        start: the class of pixels of the number 0, or 255.
    """

    path: Path
    source: Path
    segments: tuple[tuple[int, int], ...]
    start: int

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, self.source)

    def read(self, picture: Picture) -> LabelMap:
        pixels, orientation = read_colours(self.path)
        stored, places = np.unique(pixels @ np.array([1, 256, 65536], np.int32), return_inverse=True)
        classes = {0: self.start} | dict(self.segments)
        if unknown := [str(number) for number in stored.tolist() if number not in classes]:
            raise DataError(
                f"{self.path} has segment(s) {listed(unknown)}, which {self.source} does not list for this "
                "image; they are of different exports, or the PNG was saved with other colours: export both "
                "again"
            )
        index = np.array([classes[number] for number in stored.tolist()], np.uint8)
        return LabelMap(index[places].reshape(pixels.shape[:2]), orientation)


def _segments(file: CocoFile) -> dict[Id, tuple[Path, list[tuple[int, int]]]]:
    """Return the PNG of each image, and number and category of each of its segments.

    Raises:
        DataError: PNGs are missing, or a segment has no known category.
    """
    folder = file.path.with_suffix("")
    found: dict[Id, tuple[Path, list[tuple[int, int]]]] = {}
    missing = []
    for number, entry in enumerate(file.annotations):
        where = f"{file.path}: annotation number {number}"
        png = folder / member(entry, "file_name", str, where)
        image = id_of(entry, "image_id", where)
        if image not in file.images or image in found:
            what = "which has one already" if image in found else "which the file does not list"
            raise DataError(
                f"{where} ({short_name(png.name)}) belongs to image {image}, {what}; export it again"
            )
        segments = []
        for segment in member(entry, "segments_info", list, where):
            which, category = (member(segment, key, int, where) for key in ("id", "category_id"))
            if category not in file.categories:
                raise DataError(
                    f"{where} ({short_name(png.name)}) has a segment of category_id = {category}, which "
                    "the file does not list; export it again"
                )
            segments.append((which, category))
        if not os.path.isfile(png):
            missing.append(short_name(str(png)))
        if segments:
            found[image] = (png, segments)
    if missing:
        raise DataError(
            f"{file.path}: {len(missing)} of {len(file.annotations)} PNGs are missing ({listed(missing)}); "
            f"unpack them (in COCO's download they are in {folder.name}.zip), or move the JSON file away"
        )
    return found
