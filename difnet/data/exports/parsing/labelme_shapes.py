"""Reads the shapes in a JSON file of labelme; it saves one beside each image.

The members of a file and the way shapes are drawn are those of labelme 7.1 (wkentaro/labelme:
labelme/_label_file.py and examples/utils.py).
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from difnet.data.errors import DataError
from difnet.data.exports.shapes import FAR, BoxMask, Disc, Line, Polygon, Rectangle, Shape
from difnet.data.files.json_files import is_finite, member, read_json, shown

LINE_WIDTH, POINT_RADIUS = 10, 5  # pixels
_COUNTS = {
    **{"rectangle": (2, 4), "oriented_rectangle": (4,), "circle": (2,), "line": (2,), "point": (1,)},
    "mask": (2,),
}
"""How many points a shape may have. Some programs that write this format give a rectangle four corners."""
_TYPES = (*_COUNTS, "polygon", "linestrip", "points")

Corner = tuple[float, float]


class Annotation(NamedTuple):
    """A file of labelme.

    Attributes:
        path: the file.
        image_path: where the image is, relative to the file, with ``/`` between folders.
        has_data: whether the file also holds the image itself.
        size: (height, width) of the upright image; None if the file does not say.
        shapes: as in the file.
        labels: the class name of each shape.
    """

    path: str
    image_path: str
    has_data: bool
    size: tuple[int, int] | None
    shapes: list[Any]
    labels: list[str]


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is labelme's."""
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def read_annotation(path: str) -> Annotation | None:
    """Read a JSON file; None if it is not labelme's. Shapes are checked by `shape_of`.

    Raises:
        DataError: the file cannot be read, or a member is missing or of another kind.
    """
    content = read_json(path)
    if not is_labelme(content):
        return None
    remedy = "open it in labelme and save it again"
    shapes = member(content, "shapes", list, path, remedy)
    labels = [
        member(shape, "label", str, f"{path}, shape {number}", remedy)
        for number, shape in enumerate(shapes, start=1)
    ]
    size = None
    if content.get("imageHeight") is not None and content.get("imageWidth") is not None:
        height, width = (member(content, key, int, path, remedy) for key in ("imageHeight", "imageWidth"))
        size = (height, width)
    image_path = member(content, "imagePath", str, path, remedy).replace("\\", "/")
    return Annotation(path, image_path, content.get("imageData") is not None, size, shapes, labels)


def shape_of(shape: Any, index: int, where: str) -> list[Shape]:
    """Return what to draw for an entry of ``shapes``.

    Args:
        shape: the entry.
        index: its class, or 255 for void.
        where: the file and the number of the shape, for messages.

    Raises:
        DataError: the entry is of an unknown type, or its points or mask do not fit its type.
    """
    kind = "polygon" if shape.get("shape_type") is None else member(shape, "shape_type", str, where)
    if kind not in _TYPES:
        raise DataError(
            f"{where} has shape_type = {shown(kind)}, which labelme does not have; draw it as one of "
            f"{', '.join(_TYPES)}"
        )
    points = _points(shape, kind, where)
    if kind == "mask":
        return [_mask(shape, points, index, where)]
    if kind == "circle":
        return [Disc(index, points[0], math.dist(*points))]
    if kind in ("point", "points"):
        return [Disc(index, point, POINT_RADIUS) for point in points]
    if kind in ("line", "linestrip"):
        return [Line(index, points, LINE_WIDTH)]
    if kind == "rectangle" and len(points) == 2:
        return [Rectangle(index, *points)]
    return [Polygon(index, points)]


def _points(shape: Mapping[str, Any], kind: str, where: str) -> list[Corner]:
    points = member(shape, "points", list, where)
    remedy = "correct the shape in labelme, or delete it"
    for point in points:
        if not (isinstance(point, list) and len(point) == 2 and all(map(is_finite, point))):
            raise DataError(f"{where} has the point {shown(point)}, expected [x, y]; {remedy}")
        if max(map(abs, point)) > FAR:
            raise DataError(f"{where} has the point {shown(point)}, far from any image; {remedy}")
    counts, least = _COUNTS.get(kind), 3 if kind == "polygon" else 1
    if len(points) < least or (counts and len(points) not in counts):
        expected = " or ".join(map(str, counts or (f"at least {least}",)))
        raise DataError(f"{where} ({kind}) has {len(points)} point(s), expected {expected}; {remedy}")
    return [(float(x), float(y)) for x, y in points]


def _mask(shape: Mapping[str, Any], points: list[Corner], index: int, where: str) -> BoxMask:
    """Read a PNG of the box: its pixels are 0 or 1, and both corners of the box belong to it.

    Corners may have fractions. Their rounding may add or remove a row or a column, so the PNG's size counts.
    """
    remedy = "draw the mask again in labelme"
    text = member(shape, "mask", str, where, remedy)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as file:
            mask = np.array(file)
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} has a mask that is no PNG in base64 ({error}); {remedy}") from error
    if mask.ndim != 2:
        raise DataError(
            f"{where} has a mask of {mask.shape[2]} channels, expected one channel of 0 and 1; {remedy}"
        )
    left, right = sorted(int(np.round(x)) for x, _ in points)
    top, bottom = sorted(int(np.round(y)) for _, y in points)
    if all(x.is_integer() and y.is_integer() for x, y in points):
        mask = mask[: bottom - top + 1, : right - left + 1]
    return BoxMask(index, mask, left, top)
