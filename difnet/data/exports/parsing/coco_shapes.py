"""Draws COCO's annotations of an image: polygons, and run lengths as numbers or as a string."""

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from difnet.data.errors import DataError
from difnet.data.exports.parsing.coco_files import Id
from difnet.data.exports.parsing.sizes import other_size
from difnet.data.exports.shapes import FAR
from difnet.data.items.item import Label, LabelMap, Picture

_LONGEST = 12
"""Characters of one number in a string of run lengths; each holds 5 bits."""

_LONGEST_OUTLINE = 5_000_000
"""Pixels along the outline of a polygon; pycocotools takes about 100 bytes for each."""


class Runs(NamedTuple):
    """Lengths of alternate runs of pixels outside and inside, column by column, as numbers or as a string."""

    counts: "array[int] | str"
    size: tuple[int, int]


class Annotation(NamedTuple):
    """The part of an image that belongs to a class: polygons of x, y, x, y, ..., or runs."""

    id: Id
    class_index: int
    segmentation: "tuple[array[float], ...] | Runs"


def pack(entry: dict[str, Any]) -> dict[str, Any]:
    """Replace an annotation, as JSON holds it, by one whose segmentation takes less memory.

    A coordinate takes 32 bytes as a number of Python and 8 in an array. A segmentation of another form is
    left as it is, and so is an object that is no annotation.
    """
    stored = entry.get("segmentation")
    if not stored:
        return entry
    kept = {key: entry[key] for key in ("id", "image_id", "category_id") if key in entry}
    return kept | {"segmentation": _packed(stored)}


def _packed(stored: Any) -> Any:
    try:
        if isinstance(stored, list):
            return tuple(array("d", polygon) for polygon in stored)
        counts, (height, width) = stored["counts"], stored["size"]
        return Runs(counts if isinstance(counts, str) else array("q", counts), (height, width))
    except (TypeError, ValueError, KeyError, OverflowError):
        return stored


@dataclass(frozen=True)
class CocoLabel(Label):
    """The annotations of one image.

    Attributes:
        source: the JSON file.
        image: what the JSON file calls the image.
        size: (height, width) of the image, as the JSON file says.
        annotations: in the order of the file.
        fill: the class of pixels outside all annotations, or 255.
    """

    source: Path
    image: Id
    size: tuple[int, int]
    annotations: tuple[Annotation, ...]
    fill: int

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.source,)

    def read(self, picture: Picture) -> LabelMap:
        if self.size != picture.size:  # before anything is drawn: a wrong size may exceed the memory
            raise other_size(f"{self.source}: image {self.image}", self.size, picture)
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
        area = height * width
        # Huge runs could add up to the right number, because 64 bits overflow.
        wrong = lengths[(lengths < 0) | (lengths > area)]
        if wrong.size or lengths.sum() != area:
            held = (
                f"a run length of {wrong[0]}"
                if wrong.size
                else f"run lengths of {lengths.sum()} pixels in all"
            )
            raise DataError(
                f"{where} has {held}, and its image has {width}x{height} = {area} pixels; the "
                "file is damaged: export again"
            )
        return lengths

    def _check_polygon(self, polygon: "array[float]", where: str) -> None:
        if len(polygon) < 6 or len(polygon) % 2:  # pycocotools would take four numbers for a box
            raise DataError(
                f"{where} has a polygon of {len(polygon)} numbers (x, y, x, y, ...), and a polygon needs at "
                "least three points, 6 numbers; correct or delete it in the annotation tool and export again"
            )
        numbers = np.array(polygon)
        strange = numbers[~(np.abs(numbers) <= FAR)]  # NaN is not
        if strange.size:
            raise DataError(
                f"{where} has a polygon with the coordinate {strange[0]}; correct or delete it in the "
                "annotation tool and export it again"
            )
        points = numbers.reshape(-1, 2)
        outline = float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())
        if outline > _LONGEST_OUTLINE:
            raise DataError(
                f"{where} has a polygon whose outline is {outline:.0f} pixels long, and {_LONGEST_OUTLINE} "
                "can be drawn; correct or delete it in the annotation tool and export it again"
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
