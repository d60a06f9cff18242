"""Labels whose colour decides the class, and the tables that say which colour means what."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from difnet.data.errors import VOID, DataError, listed
from difnet.data.files.disk import read_colours
from difnet.data.items.item import FilePath, Label, LabelMap, Picture

Colour = tuple[int, int, int]
_UNKNOWN = -1


@dataclass(frozen=True)
class ColourTable:
    """The colours of a kind of masks.

    Attributes:
        source: the file of the table, or its name, for messages.
        colours: the colours, RGB.
        indices: the class index of each colour, or 255 for void. Several colours may mean one class.
        names: what each colour is called in the table.
        file: the file of the table, if it is in one.
    """

    source: str
    colours: tuple[Colour, ...]
    indices: tuple[int, ...]
    names: tuple[str, ...]
    file: Path | None = None

    def __post_init__(self) -> None:
        if len(set(self.colours)) < len(self.colours):
            twice = next(colour for colour in self.colours if self.colours.count(colour) > 1)
            names = [name for name, it in zip(self.names, self.colours, strict=True) if it == twice]
            raise DataError(
                f"{self.source} gives {listed(names)} the same colour {twice}, so their pixels cannot be "
                "told apart; give each its own colour in the annotation tool and export again"
            )

    @property
    def palette(self) -> np.ndarray:
        """The colour of each class, (k, 3) uint8; of several colours, the first one."""
        first = {index: self.colours[self.indices.index(index)] for index in self.indices if index != VOID}
        return np.array([first[index] for index in range(len(first))], np.uint8)

    @property
    def void_text(self) -> str:
        """What means void, for messages."""
        void = [name for name, index in zip(self.names, self.indices, strict=True) if index == VOID]
        return f"{listed(void)} in {self.source}" if void else "no colour"

    @cached_property
    def _table(self) -> np.ndarray:
        """The class index of each of the 2^24 colours."""
        table = np.full(1 << 24, _UNKNOWN, np.int16)
        table[_codes(np.array(self.colours, np.uint8))] = self.indices
        return table

    def __getstate__(self) -> dict[str, object]:
        """Leave out the large table when a data-loading process gets a copy."""
        return {name: value for name, value in vars(self).items() if name != "_table"}

    def classes_of(self, pixels: np.ndarray, path: FilePath, *, snap: bool = False) -> np.ndarray:
        """Return the uint8 class indices of RGB pixels (H, W, 3).

        Args:
            pixels: what `path` holds.
            path: for the message.
            snap: give other colours the class of the nearest colour in RGB; in a tie, the first in the table.

        Raises:
            DataError: a colour is not in the table, and `snap` is false or the pixels are class numbers.
        """
        codes = _codes(pixels)
        index = self._table[codes]
        unknown = index == _UNKNOWN
        if unknown.any():
            self._refuse_numbers(path, pixels)
            strange, places, counts = np.unique(codes[unknown], return_inverse=True, return_counts=True)
            nearest = self._nearest(strange)
            if not snap:
                raise self._unknown_colours(path, codes.size, strange, counts, nearest)
            index[unknown] = np.array(self.indices, np.int16)[nearest][places.reshape(-1)]
        return index.astype(np.uint8)

    def _refuse_numbers(self, path: FilePath, pixels: np.ndarray) -> None:
        """Refuse a mask whose pixels are class numbers: to snap them would make them all one dark class."""
        grey = (pixels == pixels[..., :1]).all()
        numbers = np.unique(pixels[..., 0])
        inner = numbers[(numbers > 0) & (numbers < VOID)]
        if grey and inner.size and inner.max() < len(self.colours):
            raise DataError(
                f"{path} is grey with the levels {listed(list(map(str, numbers)))}, which are class numbers "
                f"and no colours of {self.source}; write the class names into classes.txt, in the order of "
                "the numbers, and give no --colours"
            )

    def _nearest(self, codes: np.ndarray) -> np.ndarray:
        """The place in the table of the nearest colour, for each code."""
        known = np.array(self.colours, np.int32)
        parts = np.array_split(_rgb(codes), max(1, len(codes) * len(known) // 1_000_000))
        distances = (((part[:, None] - known) ** 2).sum(-1).argmin(1) for part in parts)
        return np.concatenate(list(distances))

    def _unknown_colours(
        self, path: FilePath, size: int, codes: np.ndarray, counts: np.ndarray, nearest: np.ndarray
    ) -> DataError:
        order = np.argsort(-counts, kind="stable")[:3]
        known = np.array(self.colours, np.int32)
        shown = []
        for place in order:
            colour = tuple(_rgb(codes[place]).tolist())
            away = int(np.abs(_rgb(codes[place]) - known[nearest[place]]).max())
            shown.append(f"{colour} {counts[place]} times, {away} levels from {self.names[nearest[place]]}")
        total = int(counts.sum())
        return DataError(
            f"{path}: {total} of {size} pixels ({100 * total / size:.2g} %) have {len(codes)} colour(s) that "
            f"are not in {self.source} ({'; '.join(shown)}); export the mask again as PNG without smoothing, "
            "correct the table, or give --snap-colours to take the nearest colour"
        )


@dataclass(frozen=True)
class ColourLabel(Label):
    """A picture whose colours `table` explains; a palette picture counts by its colours too."""

    path: FilePath
    table: ColourTable
    snap: bool = False

    @property
    def files(self) -> tuple[FilePath, ...]:
        return (self.path,) if self.table.file is None else (self.path, self.table.file)

    def read(self, picture: Picture) -> LabelMap:
        pixels, orientation = read_colours(self.path)
        return LabelMap(self.table.classes_of(pixels, self.path, snap=self.snap), orientation)


def _codes(pixels: np.ndarray) -> np.ndarray:
    """65536 R + 256 G + B of RGB pixels (..., 3)."""
    wide = pixels.astype(np.int32)  # 8 bits would overflow
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _rgb(codes: np.ndarray) -> np.ndarray:
    """The colours (..., 3) of codes."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.int32)


def voc_colours(count: int = 256) -> list[Colour]:
    """The first colours of the palette of Pascal VOC: the bits of the index, dealt out to R, G and B in turn.

    Colour 1 is (128, 0, 0), colour 2 (0, 128, 0), colour 255 (224, 224, 192).
    """
    colours = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colours.append((channels[0], channels[1], channels[2]))
    return colours


def voc_table(classes: Sequence[str]) -> ColourTable:
    """VOC's colours for `classes`, in order, with (224, 224, 192) for void."""
    colours = voc_colours()
    return ColourTable(
        "VOC's colours",
        (*colours[: len(classes)], colours[VOID]),
        (*range(len(classes)), VOID),
        (*classes, "void"),
    )
