"""Reads Supervisely projects: meta.json with the classes, and in each data set a JSON file for every image.

The layout is

    meta.json                     classes with title and colour
    DATASET/img/NAME.jpg          a data set called train, val or test is that split
    DATASET/ann/NAME.jpg.json     size and objects

and a data set may hold others in a folder "datasets". Objects are drawn in the order of the file, so later
ones hide earlier ones. Masks (bitmaps), polygons with their holes, and rectangles are drawn; points, lines
and other figures cover no area. The format is described at developer.supervisely.com, and by the publisher's
own reader (supervisely/supervisely: supervisely/geometry).
"""

import base64
import io
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difnet.data.errors import VOID, DataError, listed
from difnet.data.exports.classes import blank_note, check_classes, keep_blank_images, with_uncovered
from difnet.data.exports.export import Export, refuse_unused, split_name
from difnet.data.exports.shapes import FAR, BoxMask, Polygon, Rectangle, Shape, draw
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.files.json_files import ends_of, is_finite, member, read_json, shown
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import Item, Label, LabelMap, Picture
from difnet.data.items.pairs import find_by_name
from difnet.data.options import Reading

_TOOL = "a Supervisely project"

_DRAWN = ("bitmap", "polygon", "rectangle")
"""Figures that cover an area."""


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
    blank: dict[Path, bool] = {}
    skipped: Counter[str] = Counter()
    found: list[tuple[str, str, Path, Path]] = []
    for path, split in splits.items():
        prefix = "" if list(splits.values()).count(split) == 1 else f"{path.relative_to(root).as_posix()}/"
        for name, image, annotation in _pairs(path):
            kinds = [_kind(it, f"{annotation}, object {number}") for number, it in _objects(annotation)]
            skipped.update(kind for kind in kinds if kind not in _DRAWN)
            blank[image] = not any(kind in _DRAWN for kind in kinds)
            found.append((split, prefix + name, image, annotation))
    bare = [str(image) for image, is_blank in blank.items() if is_blank]
    kept = keep_blank_images(bare, reading, str(root))
    classes = with_uncovered(titles, reading, bool(bare))
    check_classes(classes.names, root / "meta.json")
    first = len(classes.names) - len(titles)
    index_of = {title: first + place for place, title in enumerate(titles)}
    items: dict[str, list[Item]] = {}
    for split, name, image, annotation in found:
        if not blank[image]:
            label: Label = SuperviselyLabel(annotation, index_of, classes.start)
        elif kept:
            label = ConstantLabel(classes.blank)
        else:
            continue
        items.setdefault(split, []).append(Item(name, image, label))
    notes = blank_note(bare, kept)
    if skipped:
        what = ", ".join(f"{count} x {kind}" for kind, count in sorted(skipped.items()))
        notes.append(f"{skipped.total()} object(s) cover no area and are not drawn ({what})")
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
        size = member(read_json(self.path), "size", dict, str(self.path))
        height, width = (member(size, key, int, f"{self.path}, size") for key in ("height", "width"))
        if not (0 < height < FAR and 0 < width < FAR):
            raise DataError(f"{self.path} has the size {width}x{height}; export it again")
        shapes: list[Shape] = []
        for number, it in _objects(self.path):
            where = f"{self.path}, object {number}"
            title = member(it, "classTitle", str, where)
            if title not in self.index_of:
                raise DataError(
                    f"{where} has the class {title!r}, which meta.json does not list; export it again"
                )
            if (kind := _kind(it, where)) in _DRAWN:
                shapes.append(_shape(it, kind, self.index_of[title], (height, width), where))
        return LabelMap(draw(shapes, (height, width), self.start))


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


def _objects(path: Path) -> list[tuple[int, Any]]:
    return list(enumerate(member(read_json(path), "objects", list, str(path))))


def _kind(entry: Any, where: str) -> str:
    """The kind of a figure; old files do not say it of masks and polygons."""
    if isinstance(entry, dict) and "geometryType" not in entry and isinstance(entry.get("bitmap"), dict):
        return "bitmap"
    return member(entry, "geometryType", str, where)


def _shape(entry: Any, kind: str, index: int, size: tuple[int, int], where: str) -> Shape:
    if kind == "bitmap":
        return _bitmap(member(entry, "bitmap", dict, where), index, size, where)
    points = member(entry, "points", dict, where)
    exterior = _points(points.get("exterior"), where)
    if kind == "rectangle":
        if len(exterior) != 2:
            raise DataError(
                f"{where} is a rectangle of {len(exterior)} corner(s), expected two; export it again"
            )
        return Rectangle(index, exterior[0], exterior[1])
    holes = points.get("interior") or []
    if len(exterior) < 3 or not isinstance(holes, list):
        raise DataError(
            f"{where} is a polygon of {len(exterior)} point(s); correct or delete it in Supervisely and "
            "export it again"
        )
    return Polygon(index, exterior, [_points(hole, where) for hole in holes])


def _points(stored: Any, where: str) -> list[tuple[float, float]]:
    points: list[Any] = stored if isinstance(stored, list) else [stored]
    for point in points:
        if not (isinstance(point, list) and len(point) == 2 and all(map(is_finite, point))) or any(
            abs(number) > FAR for number in point
        ):
            raise DataError(f"{where} has the point {shown(point)}, expected [x, y]; export it again")
    return [(x, y) for x, y in points]


def _bitmap(entry: Mapping[str, Any], index: int, size: tuple[int, int], where: str) -> BoxMask:
    """Decode a mask: base64 of a PNG, usually compressed by zlib, whose corner lies at origin = [x, y].

    A mask with an alpha channel is what is not transparent, another one is what is not 0.
    """
    (origin,) = _points([entry.get("origin")], where)
    try:
        data = base64.b64decode(member(entry, "data", str, where), validate=True)
        if not data.startswith(b"\x89PNG"):
            data = zlib.decompress(data)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
            stored = np.array(file.convert("RGBA"))[..., 3:] if file.has_transparency_data else np.array(file)
    except DataError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # for damaged pictures, Pillow raises errors of nearly every type
        raise DataError(f"{where} has a bitmap that cannot be decoded ({error}); export it again") from error
    mask = np.asarray(stored.any(-1) if stored.ndim == 3 else stored)
    left, top = int(origin[0]), int(origin[1])
    if left < 0 or top < 0 or left + mask.shape[1] > size[1] or top + mask.shape[0] > size[0]:
        raise DataError(
            f"{where} has a bitmap of {mask.shape[1]}x{mask.shape[0]} at x = {left}, y = {top}, beyond its "
            f"image of {size[1]}x{size[0]}; export it again"
        )
    return BoxMask(index, mask, left, top)
