"""Turns the figures of Supervisely, as JSON holds them, into shapes."""

import base64
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from difnet.data.errors import DataError
from difnet.data.exports.shapes import FAR, BoxMask, Polygon, Rectangle, Shape
from difnet.data.files.json_files import is_finite, member, shown

_MASKS = ("bitmap", "alpha_mask")

DRAWN = (*_MASKS, "polygon", "rectangle")
"""Figures that are drawn."""

_HALF = 127

_LARGEST = 1 << 20
"""Bytes of a PNG beside eight for each pixel of the image."""

WITHOUT_AREA = ("point", "line", "polyline", "graph")
"""Figures that cover no pixel."""


def kind_of(entry: Any, where: str) -> str:
    """Return the kind of a figure; old files do not say it of masks.

    Raises:
        DataError: the figure has none.
    """
    if isinstance(entry, dict) and "geometryType" not in entry and isinstance(entry.get("bitmap"), dict):
        return "bitmap"
    return member(entry, "geometryType", str, where)


def shape_of(entry: Any, kind: str, index: int, size: tuple[int, int], where: str) -> Shape:
    """Return what is drawn of a figure.

    Args:
        entry: the figure, as JSON holds it.
        kind: one of `DRAWN`.
        index: its class.
        size: (height, width) of the image.
        where: the file and the figure, for messages.

    Raises:
        DataError: the figure has another form.
    """
    if kind in _MASKS:
        stored = member(entry, kind if kind in entry else "bitmap", dict, where)
        return _bitmap(stored, index, size, where, soft=kind == "alpha_mask")
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


def _bitmap(entry: Mapping[str, Any], index: int, size: tuple[int, int], where: str, soft: bool) -> BoxMask:
    """Decode a mask: base64 of a PNG, usually compressed by zlib, whose corner lies at origin = [x, y].

    A mask with an alpha channel is what is not transparent, another one is what is not 0. A soft mask is what
    is more than half opaque; if it is grey, that is the opacity.
    """
    (origin,) = _points([entry.get("origin")], where)
    left, top = int(origin[0]), int(origin[1])
    text = member(entry, "data", str, where)
    try:
        data = base64.b64decode(text, validate=True)
        if not data.startswith(b"\x89PNG"):
            data = zlib.decompressobj().decompress(data, _LARGEST + 8 * size[0] * size[1])
        with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
            width, height = file.size
            inside = 0 <= left <= size[1] - width and 0 <= top <= size[0] - height
            # What is larger than its image is not unpacked: it may exceed the memory.
            stored = _opacity(file, soft) if inside else np.zeros((0, 0), np.uint8)
    except MemoryError:
        raise
    except Exception as error:  # for damaged pictures, Pillow raises errors of nearly every type
        raise DataError(f"{where} has a bitmap that cannot be decoded ({error}); export it again") from error
    if not inside:
        raise DataError(
            f"{where} has a bitmap of {width}x{height} at x = {left}, y = {top}, beyond its image of "
            f"{size[1]}x{size[0]}; export it again"
        )
    mask = stored > (_HALF if soft else 0)
    if soft and not mask.any():
        raise DataError(
            f"{where} has an alpha mask that is nowhere more than half opaque (at most {stored.max()} of "
            "255), so it covers nothing; draw it as a mask in Supervisely, or delete it, and export it again"
        )
    return BoxMask(index, mask, left, top)


def _opacity(file: Image.Image, soft: bool) -> np.ndarray:
    """The values (h, w) of a picture that say what belongs to its mask."""
    # A grey picture may say that its 0 is transparent; its other values would then all count as opaque.
    if file.has_transparency_data and not (soft and file.mode == "L"):
        return np.array(file.convert("RGBA").getchannel("A"))
    if soft:
        return np.array(file.convert("L"))
    stored = np.array(file)
    return np.asarray(stored.any(-1) if stored.ndim == 3 else stored)
