"""Reads Supervisely projects: meta.json with the classes, and in each data set a JSON file for every image.

The layout is

    meta.json                     classes with title and colour
    DATASET/img/NAME.jpg          a data set called train, val or test is that split
    DATASET/ann/NAME.jpg.json     size and objects

and a data set may hold others in a folder "datasets". Objects are drawn in the order of the file, so later
ones hide earlier ones. Masks (bitmaps), polygons with their holes, and rectangles are drawn. Of masks with
soft edges (alpha masks) those pixels are drawn that are opaque by more than half. Points, lines and graphs
cover no area, and figures of other kinds are not read. The format is described at developer.supervisely.com,
and by the publisher's own reader (supervisely/supervisely: supervisely/geometry).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difnet.data.errors import VOID, DataError, listed
from difnet.data.exports.classes import (
    blank_note,
    check_classes,
    keep_blank_images,
    unread_list,
    with_uncovered,
)
from difnet.data.exports.export import Export, refuse_unused, split_name
from difnet.data.exports.parsing.sizes import other_size
from difnet.data.exports.parsing.supervisely_shapes import DRAWN, WITHOUT_AREA, kind_of, shape_of
from difnet.data.exports.shapes import FAR, Shape, draw
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.files.json_files import ends_of, member, read_json
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import Item, Label, LabelMap, Picture
from difnet.data.items.pairs import find_by_name
from difnet.data.options import Reading

_TOOL = "a Supervisely project"


def recognise(root: Path) -> bool:
    """Whether meta.json lists classes with titles, and a folder holds annotations."""
    text = ends_of(root / "meta.json")
    return text.startswith("{") and '"classes"' in text and bool(_datasets(root))


def read(root: Path, reading: Reading) -> Export:
    """Read the classes and list the images; annotations are read once to see which images have some.

    Classes have the order of meta.json. Pixels outside all objects are a class "background", which comes
    first, or void (`Reading.unannotated`).

    Raises:
        DataError: a JSON file cannot be used, or images or annotations are missing.
        ValueError: an option is given that changes nothing here.
    """
    refuse_unused(reading, ("unannotated", "unlabelled"), _TOOL)
    titles, colours = _classes(root / "meta.json")
    datasets = _datasets(root)
    splits = {path: split_name(path.name) for path in datasets}
    blank: list[str] = []
    no_area: dict[str, list[str]] = {}
    skipped: Counter[str] = Counter()
    found: list[tuple[str, str, Path, Path]] = []
    bare: list[tuple[str, str, Path]] = []
    for path, split in splits.items():
        prefix = "" if list(splits.values()).count(split) == 1 else f"{path.relative_to(root).as_posix()}/"
        for name, image, annotation in _pairs(path):
            objects = _objects(read_json(annotation), annotation)
            kinds = [kind_of(it, f"{annotation}, object {number}") for number, it in objects]
            others = [kind for kind in kinds if kind not in DRAWN]
            skipped.update(others)
            if len(others) < len(kinds):
                found.append((split, prefix + name, image, annotation))
                continue
            bare.append((split, prefix + name, image))
            if others:
                no_area[str(image)] = others
            else:
                blank.append(str(image))
    figures = (
        f"figures of the kind {' or '.join(sorted({kind for kinds in no_area.values() for kind in kinds}))}"
    )
    kept = keep_blank_images(blank, reading, str(root), list(no_area), figures)
    classes = with_uncovered(titles, reading, bool(bare))
    check_classes(classes.names, root / "meta.json")
    first = len(classes.names) - len(titles)
    index_of = {title: first + place for place, title in enumerate(titles)}
    items: dict[str, list[Item]] = {}
    for split, name, image, annotation in found:
        label = SuperviselyLabel(annotation, index_of, classes.start)
        items.setdefault(split, []).append(Item(name, image, label))
    for split, name, image in bare if kept else []:
        items.setdefault(split, []).append(Item(name, image, ConstantLabel(classes.blank)))
    for them in items.values():
        them.sort(key=lambda item: item.name)
    notes = blank_note(blank, kept, list(no_area), figures) + _skipped_notes(skipped)
    notes += unread_list(root, classes.names, "meta.json")
    void_text = "what no object covers" if classes.start == VOID else "nothing"
    return Export(_TOOL, classes.names, items, _palette(colours, first), void_text, notes)


@dataclass(frozen=True)
class SuperviselyLabel(Label):
    """The objects of an image.

    Attributes:
        path: the JSON file.
        index_of: the class index of each title, for all images the same object.
        start: the class of pixels outside all objects, or 255.
    """

    path: Path
    index_of: Mapping[str, int]
    start: int

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self, picture: Picture) -> LabelMap:
        content = read_json(self.path)
        size = member(content, "size", dict, str(self.path))
        height, width = (member(size, key, int, f"{self.path}, size") for key in ("height", "width"))
        if not (0 < height < FAR and 0 < width < FAR):
            raise DataError(f"{self.path} has the size {width}x{height}; export it again")
        if (height, width) != picture.size:  # before anything is drawn: a wrong size may exceed the memory
            raise other_size(str(self.path), (height, width), picture)
        shapes: list[Shape] = []
        for number, it in _objects(content, self.path):
            where = f"{self.path}, object {number}"
            title = member(it, "classTitle", str, where)
            if title not in self.index_of:
                raise DataError(
                    f"{where} has the class {title!r}, which meta.json does not list; export it again"
                )
            if (kind := kind_of(it, where)) in DRAWN:
                shapes.append(shape_of(it, kind, self.index_of[title], (height, width), where))
        return LabelMap(draw(shapes, (height, width), self.start))


def _skipped_notes(skipped: Counter[str]) -> list[str]:
    """Say which objects are not drawn, by their kinds."""
    without = Counter({kind: count for kind, count in skipped.items() if kind in WITHOUT_AREA})
    notes = []
    for kinds, what in (
        (without, "cover no area and are not drawn"),
        (skipped - without, "are not drawn; if they belong to a class, make them polygons or masks"),
    ):
        if kinds:
            text = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
            notes.append(f"{kinds.total()} object(s) ({text}) {what}")
    return notes


def _datasets(root: Path) -> list[Path]:
    """The folders that hold annotations, with those in their folders "datasets"."""
    found: list[Path] = []
    folders = [root]
    while folders:
        for path in sorted(it for it in folders.pop(0).iterdir() if it.is_dir()):
            if (path / "ann").is_dir():
                found.append(path)
            if (path / "datasets").is_dir():
                folders.append(path / "datasets")
    return found


def _classes(meta: Path) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Return the titles of the classes, and their colours if each has its own.

    Raises:
        DataError: a class has no title.
    """
    titles, colours = [], []
    for number, entry in enumerate(member(read_json(meta), "classes", list, str(meta))):
        titles.append(member(entry, "title", str, f"{meta}, class {number}"))
        colour = entry.get("color")
        if isinstance(colour, str) and len(colour) in (7, 9):  # the latter with an alpha channel
            try:
                red, green, blue = bytes.fromhex(colour[1:7])
                colours.append((red, green, blue))
            except ValueError:
                pass
    return titles, colours if len(set(colours)) == len(titles) else []


def _palette(colours: list[tuple[int, int, int]], first: int) -> np.ndarray | None:
    """The colours of the classes; a background that was added is black. None if one would occur twice."""
    added = [(0, 0, 0)] * first
    return None if not colours or set(added) & set(colours) else np.array([*added, *colours], np.uint8)


def _pairs(dataset: Path) -> list[tuple[str, Path, Path]]:
    """Return name, image and annotation of each image of a data set.

    Raises:
        DataError: an image or an annotation is alone, or there is no image.
    """
    folder = dataset / "img"
    images = find_by_name(folder, IMAGE_SUFFIXES).files if folder.is_dir() else {}
    annotations = find_by_name(dataset / "ann", (".json",)).files
    # Annotations are called NAME.jpg.json, and in old projects NAME.json.
    full = {Path(image).relative_to(folder).as_posix(): name for name, image in images.items()}
    owners = {key: full.get(key, key if key in images else None) for key in annotations}
    alone = [str(annotations[key]) for key, name in owners.items() if name is None]
    if alone:
        raise DataError(
            f"{folder} lacks the images of {len(alone)} annotation(s) ({listed(alone)}); export the project "
            "with its images"
        )
    by_name = {name: annotations[key] for key, name in owners.items() if name is not None}
    if missing := [str(image) for name, image in images.items() if name not in by_name]:
        raise DataError(
            f"{dataset / 'ann'} lacks the annotations of {len(missing)} image(s) ({listed(missing)}); export "
            "the project again, or remove the images"
        )
    return [(name, Path(image), Path(by_name[name])) for name, image in sorted(images.items())]


def _objects(content: Any, path: Path) -> list[tuple[int, Any]]:
    return list(enumerate(member(content, "objects", list, str(path))))
