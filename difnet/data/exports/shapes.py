"""Draws what was outlined in an annotation tool into a map of class indices.

Coordinates are (x, y) in pixels, x to the right and y downwards. Two conventions occur. In `Polygon`,
`Rectangle`, `Disc` and `Line`, as labelme draws them, (0, 0) is the middle of the first pixel and the outline
belongs to the shape. In `Area`, (0, 0) is the upper left corner of the first pixel, and a pixel belongs to it
if its middle lies inside. All shapes may reach beyond the image.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Points = Sequence[Sequence[float]] | np.ndarray
"""(x, y) of each point; lists, tuples or an (n, 2) array."""

FAR = 1e6
"""No coordinate that is drawn may be further from 0: Pillow counts pixels in 32 bits."""


@dataclass(frozen=True, eq=False)
class Shape(ABC):
    """A part of an image.

    Attributes:
        index: the class of its pixels, or 255 for void.
    """

    index: int

    @abstractmethod
    def paint(self, canvas: Image.Image) -> None:
        """Set the pixels of the shape in `canvas`, of mode L, to its class."""


@dataclass(frozen=True, eq=False)
class Polygon(Shape):
    """A polygon with its outline, less the holes with theirs. Two points make a line, one makes a pixel."""

    points: Points
    holes: Sequence[Points] = ()

    def paint(self, canvas: Image.Image) -> None:
        if not self.holes:
            _fill(ImageDraw.Draw(canvas), self.points, self.index)
            return
        mask = Image.new("1", canvas.size)
        pen = ImageDraw.Draw(mask)
        _fill(pen, self.points, 1)
        for hole in self.holes:
            _fill(pen, hole, 0)
        canvas.paste(self.index, (0, 0), mask)


@dataclass(frozen=True, eq=False)
class Rectangle(Shape):
    """The box between two opposite corners, in any order, with both of them."""

    corner: tuple[float, float]
    opposite: tuple[float, float]

    def paint(self, canvas: Image.Image) -> None:
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(self.corner, self.opposite, strict=True))
        ImageDraw.Draw(canvas).rectangle((left, top, right, bottom), self.index, self.index)


@dataclass(frozen=True, eq=False)
class Disc(Shape):
    """A filled circle with its outline."""

    centre: tuple[float, float]
    radius: float

    def paint(self, canvas: Image.Image) -> None:
        (x, y), r = self.centre, self.radius
        ImageDraw.Draw(canvas).ellipse((x - r, y - r, x + r, y + r), self.index, self.index)


@dataclass(frozen=True, eq=False)
class Line(Shape):
    """A line along points, `width` pixels wide, with rounded bends."""

    points: Points
    width: int

    def paint(self, canvas: Image.Image) -> None:
        ImageDraw.Draw(canvas).line(_flat(self.points), self.index, self.width, joint="curve")


@dataclass(frozen=True, eq=False)
class BoxMask(Shape):
    """The pixels that are not 0 in a mask, of which the first one lies at (left, top) in the image.

    Attributes:
        mask: (h, w), bool or numbers.
        left, top: column and row; may be negative.
    """

    mask: np.ndarray
    left: int = 0
    top: int = 0

    def paint(self, canvas: Image.Image) -> None:
        right, bottom = self.left + self.mask.shape[1], self.top + self.mask.shape[0]
        left, top = max(self.left, 0), max(self.top, 0)
        if left < min(right, canvas.width) and top < min(bottom, canvas.height):
            inside = self.mask[
                top - self.top : canvas.height - self.top, left - self.left : canvas.width - self.left
            ]
            canvas.paste(self.index, (left, top), Image.fromarray((inside != 0).astype(np.uint8) * 255))


@dataclass(frozen=True, eq=False)
class Area(Shape):
    """The pixels whose middle lies inside an odd number of the rings: rings inside others are holes."""

    rings: Sequence[Points]

    def paint(self, canvas: Image.Image) -> None:
        corners = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in self.rings]
        starts = np.concatenate([np.zeros((0, 2)), *corners])
        ends = np.concatenate([np.zeros((0, 2)), *(np.roll(ring, -1, axis=0) for ring in corners)])
        if not len(starts):
            return
        # Pixels from `low` up to but without `high` have their middle inside the box around the rings.
        low = np.clip(np.ceil(starts.min(0) - 0.5), 0, canvas.size).astype(int)
        high = np.clip(np.ceil(starts.max(0) - 0.5), 0, canvas.size).astype(int)
        if (high <= low).any():
            return
        (left, top), (width, height) = low, high - low
        toggles = np.zeros((height, width + 1), np.int8)
        for (x, y), (other_x, other_y) in zip(starts, ends, strict=True):
            # A row is crossed by an edge from its upper end up to but without its lower one.
            first, last = np.clip(np.ceil(np.sort([y, other_y]) - 0.5) - top, 0, height).astype(int)
            if first < last:
                rows = np.arange(first, last)
                crossings = x + (rows + top + 0.5 - y) * ((other_x - x) / (other_y - y))
                columns = np.clip(np.ceil(crossings - 0.5) - left, 0, width).astype(int)
                toggles[rows, columns] ^= 1
        inside = np.bitwise_xor.accumulate(toggles, axis=1)[:, :width]
        BoxMask(self.index, inside, int(left), int(top)).paint(canvas)


def draw(shapes: Iterable[Shape], size: tuple[int, int], start: int) -> np.ndarray:
    """Draw shapes on each other; where they overlap, the later one is seen.

    Args:
        shapes: in the order in which they are drawn, with coordinates of at most `FAR`.
        size: (height, width) of the image.
        start: the class of pixels that no shape covers, or 255 for void.

    Returns:
        (height, width) uint8.
    """
    canvas = Image.new("L", (size[1], size[0]), start)
    for shape in shapes:
        shape.paint(canvas)
    return np.array(canvas)


def _fill(pen: ImageDraw.ImageDraw, points: Points, value: int) -> None:
    flat = _flat(points)
    if len(flat) > 2:
        pen.polygon(flat, value, value)
    elif flat:
        pen.point(flat, value)


def _flat(points: Points) -> list[float]:
    """x, y, x, y, ... of points."""
    return np.asarray(points, np.float64).reshape(-1).tolist()
