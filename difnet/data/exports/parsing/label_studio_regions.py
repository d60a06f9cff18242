"""Reads the regions of a Label Studio annotation that cover an area.

They are polygons, rectangles, ellipses and brush strokes. Positions and sizes are in percent of the image's
width and height. A rectangle is turned clockwise about its upper left corner, an ellipse about its centre.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from difnet.data.errors import DataError
from difnet.data.exports.parsing.label_studio_rle import BrokenStream, painted, unpack
from difnet.data.exports.shapes import Area, BoxMask, Shape
from difnet.data.files.disk import read_numbers
from difnet.data.files.json_files import is_finite, member, shown

_KINDS = ("polygon", "rectangle", "ellipse", "brush")
_LABELLED = {**{f"{kind}labels": kind for kind in _KINDS}, **{kind: kind for kind in _KINDS}}
_CORNERS = 256  # of an ellipse
_FAR = 1e5  # percent

FindPicture = Callable[[str, str, int], Path | None]
"""Finds the exported picture of a brush region by its control, its label, and its number among equal ones."""


class Region(NamedTuple):
    """A region of an image.

    Attributes:
        label: its class.
        where: the file and the place in it, for messages.
        content: the corners of an area, (n, 2) in pixels; or the stream of a brush mask, or the path of its
            picture.
    """

    label: str
    where: str
    content: np.ndarray | bytes | Path


class Annotation(NamedTuple):
    """What was drawn on an image.

    Attributes:
        regions: those that cover an area, in the order of the file.
        size: (height, width) of the image in the annotation tool; None if there is no region.
        skipped: how many results cover no area, by their type.
    """

    regions: tuple[Region, ...]
    size: tuple[int, int] | None
    skipped: Counter[str]


def read_regions(results: list[Any], where: str, find_picture: FindPicture) -> Annotation:
    """Read the results of an annotation.

    Args:
        results: as in the file.
        where: the file and the task, for messages.
        find_picture: called for brush regions whose mask is not in the file.

    Raises:
        DataError: a region has no label or several, was drawn on a turned image, or lacks a member.
    """
    regions: list[Region] = []
    sizes: set[tuple[int, int]] = set()
    skipped: Counter[str] = Counter()
    equal: Counter[tuple[str, str]] = Counter()
    labelled = {str(it.get("id")) for it in results if isinstance(it, dict) and it.get("type") == "labels"}
    for number, result in enumerate(results, start=1):
        place = f"{where}, result {number}"
        kind = member(result, "type", str, place)
        value = result.get("value")
        shape = _shape_of(kind, value)
        if shape is None:
            skipped[kind] += 1
            continue
        if kind in _KINDS and str(result.get("id")) in labelled:
            continue  # the result of type labels repeats the region
        label = _label_of(kind, value, place)
        size = _size(result, place)
        sizes.add(size)
        content: np.ndarray | bytes | Path | None
        if shape != "brush":
            content = _area(shape, value, size, place)
        else:
            control = str(result.get("from_name"))
            content = _stream(value, place) or find_picture(control, label, equal[control, label])
            equal[control, label] += 1
            if content is None:
                raise DataError(
                    f"{place} is a brush region without its mask (rle); export the project as JSON with "
                    "masks, or put the exported PNG files of this annotation beside the file"
                )
        regions.append(Region(label, place, content))
    if len(sizes) > 1:
        raise DataError(
            f"{where} has regions on images of different sizes {sorted(sizes)} (height, width); delete those "
            "that were drawn on another image"
        )
    return Annotation(tuple(regions), next(iter(sizes), None), skipped)


def shape_of(region: Region, index: int, size: tuple[int, int]) -> Shape:
    """Return what to draw for a region.

    Args:
        region: the region.
        index: its class.
        size: (height, width) of the image in the annotation tool.

    Raises:
        DataError: a brush mask is damaged, or of another size.
    """
    if isinstance(region.content, np.ndarray):
        return Area(index, [region.content])
    if isinstance(region.content, bytes):
        try:
            values = unpack(region.content)
        except BrokenStream as error:
            raise DataError(f"{region.where}: its brush mask {error}; export the project again") from error
        if len(values) != 4 * size[0] * size[1]:
            raise DataError(
                f"{region.where}: its brush mask has {len(values)} values, expected {4 * size[0] * size[1]} "
                f"(red, green, blue and opacity of {size[1]}x{size[0]} pixels); export the project again"
            )
        return BoxMask(index, painted(values.reshape(*size, 4)[..., 3]))
    opacity, _ = read_numbers(region.content)
    if opacity.shape != size or opacity.dtype != np.uint8:
        raise DataError(
            f"{region.content} is {opacity.shape[1]}x{opacity.shape[0]}, and {region.where} is a region of "
            f"an image of {size[1]}x{size[0]} pixels; export both again"
        )
    return BoxMask(index, painted(opacity))


def _shape_of(kind: str, value: Any) -> str | None:
    """Which shape a result has; None if it covers no area."""
    if not isinstance(value, Mapping):
        return None
    if kind.startswith("bitmask"):
        return "bitmask"
    if kind != "labels":
        return _LABELLED.get(kind)
    members = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "height": "rectangle"}
    return next((shape for name, shape in members.items() if name in value), None)


def _label_of(kind: str, value: Mapping[str, Any], where: str) -> str:
    if kind.startswith("bitmask"):
        raise DataError(f"{where} is a bitmask, which is not read; draw it with BrushLabels, or delete it")
    labels = value.get(kind) or value.get("labels") or []
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise DataError(
            f"{where} ({kind}) has the labels {shown(labels)}, and a region must have one; choose it in "
            "Label Studio, or delete the region"
        )
    return labels[0]


def _size(result: Mapping[str, Any], where: str) -> tuple[int, int]:
    """(height, width) of the image that a result was drawn on."""
    size = (member(result, "original_height", int, where), member(result, "original_width", int, where))
    if min(size) < 1:
        raise DataError(f"{where} has an image of {size[1]}x{size[0]} pixels; export the project again")
    if result.get("image_rotation"):
        raise DataError(
            f"{where} was drawn on the image turned by {shown(result['image_rotation'])} degrees; turn it "
            "back in Label Studio and draw the regions again, or turn the image file and import it again"
        )
    return size


def _stream(value: Mapping[str, Any], where: str) -> bytes | None:
    """The stream of bytes of a brush mask; None if there is none."""
    stream = value.get("rle")
    if stream is None or isinstance(stream, bytes):
        return stream
    raise DataError(
        f"{where} holds rle = {shown(stream)}, expected a list of bytes (0 to 255); export it again"
    )


def compact(value: dict[str, Any]) -> dict[str, Any]:
    """Turn the list of numbers of a brush mask into bytes, which take an eighth of the memory."""
    try:
        if isinstance(value.get("rle"), list):
            value["rle"] = bytes(value["rle"])
    except (TypeError, ValueError):
        pass  # `_stream` says what is wrong with it
    return value


def _area(shape: str, value: Mapping[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """The corners (n, 2) of an area, in pixels."""
    scale = np.array(size[::-1]) / 100
    if shape == "polygon":
        points = member(value, "points", list, where)
        for point in points:
            right = isinstance(point, list) and len(point) == 2 and all(map(is_finite, point))
            if not right or max(map(abs, point)) > _FAR:
                raise DataError(
                    f"{where} has the point {shown(point)}, expected [x, y] in percent; correct it"
                )
        if len(points) < 3:
            raise DataError(
                f"{where} is a polygon of {len(points)} point(s) and needs three; correct or delete it"
            )
        return scale * np.array(points, np.float64).reshape(-1, 2)
    fixed = scale * [_number(value, "x", where), _number(value, "y", where)]
    if shape == "rectangle":
        sides = scale * [_number(value, "width", where), _number(value, "height", where)]
        away = sides * [[0, 0], [1, 0], [1, 1], [0, 1]]
    else:
        angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        radii = scale * [_number(value, "radiusX", where), _number(value, "radiusY", where)]
        away = radii * np.stack([np.cos(angles), np.sin(angles)], -1)
    degrees = _number(value, "rotation", where) if value.get("rotation") is not None else 0.0
    if degrees % 360:
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        away = np.stack([away[:, 0] * cos - away[:, 1] * sin, away[:, 0] * sin + away[:, 1] * cos], -1)
    return np.asarray(fixed + away)


def _number(value: Mapping[str, Any], name: str, where: str) -> float:
    number = float(member(value, name, float, where))
    if abs(number) > _FAR:
        raise DataError(
            f"{where} holds {name} = {number:g}, far from any image; correct or delete the region"
        )
    return number
