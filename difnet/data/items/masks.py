"""Decides how the masks of a folder are read: by the numbers or by the colours of their pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from difnet.data.base import distinct_palette
from difnet.data.errors import VOID, DataError
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.colours import ColourLabel, ColourTable
from difnet.data.items.index import IndexLabel, Numbering
from difnet.data.items.item import FilePath, Label
from difnet.data.items.tables import chosen_table, find_table
from difnet.data.options import Reading, UnusedOption


class MaskReader:
    """The classes of a folder of masks, and what its masks mean.

    Colours count if --colours is given, or if a colour table is in the folder and there is no class list, or
    the first mask is a colour picture. Else the numbers of grey and palette PNGs count.

    Args:
        root: the folder that may hold a colour table.
        class_list: the file of class names, for messages; it need not exist.
        named: the class names in that file; None if there is no such file.
        reading: the options.

    Attributes:
        classes: class names in index order.
        suffixes: endings of the names of masks, in lower case.
        palette: (k, 3) uint8, the colours of the masks; set by `look_at`.
        void_text: what means void in the masks, for messages; set by `look_at`.
        label_offset: the number of the first class in the masks, for messages.

    Raises:
        DataError: there is neither a list of classes nor a colour table, or one cannot be used.
        ValueError: a void number is also that of a class, or out of range.
    """

    palette: np.ndarray
    void_text: str

    def __init__(self, root: Path, class_list: Path, named: Sequence[str] | None, reading: Reading):
        self._root, self._class_list, self._reading, self._named = root, class_list, reading, named
        self._void = (VOID,) if reading.void_value is None else reading.void_value
        self.label_offset = reading.label_offset or 0
        self._table: ColourTable | None = None
        self.classes = list(named or [])
        if named is None or reading.colours not in (None, "none"):
            self._find_table()
        else:
            self._check_numbers()
        numbers_only = self._table is None and not self._has_table()
        self.suffixes: Sequence[str] = (".png",) if numbers_only else IMAGE_SUFFIXES

    def look_at(self, first: FilePath, other: FilePath | None = None) -> None:
        """Decide by the first mask, and by that of the other split if there is one; find the palette."""
        coloured = _is_coloured(first) or (other is not None and _is_coloured(other))
        if self._table is None and coloured and self._has_table():
            self._find_table()
        if self._table is not None:
            self.void_text, self.palette = self._table.void_text, self._table.palette
        else:
            self.void_text = ", ".join(map(str, self._void)) or "no number"
            self.palette = self._palette_of(first)
            self._numbering = Numbering.shifted(
                len(self.classes),
                void_value=self._void,
                label_offset=self.label_offset,
                class_list=self._class_list.name,
            )

    def _has_table(self) -> bool:
        return self._reading.colours != "none" and find_table(self._root) is not None

    def label(self, mask: FilePath) -> Label:
        """The label that a mask is; call `look_at` first."""
        if self._table is not None:
            return ColourLabel(mask, self._table, bool(self._reading.snap_colours))
        return IndexLabel(mask, self._numbering)

    def _find_table(self) -> None:
        found = chosen_table(self._reading.colours, self._root, self._named)
        if found is None:
            raise DataError(
                f"{self._class_list} is missing; write one class name per line, in index order, as UTF-8, or "
                "put a colour table beside it if each colour of the labels means a class"
            )
        self.classes, self._table = found
        for option in ("void_value", "label_offset"):
            if getattr(self._reading, option) is not None:
                raise UnusedOption(
                    option, f"masks that are read by colour ({self._table.source})", "masks of numbers"
                )

    def _check_numbers(self) -> None:
        last = self.label_offset + len(self.classes) - 1
        for option, number in (
            ("--label-offset", self.label_offset),
            *(("--void-value", number) for number in self._void),
        ):
            if not 0 <= number < 2**16:
                raise ValueError(f"{option} must be a number that a PNG can hold, 0 to 65535, got {number}")
        for number in self._void:
            if self.label_offset <= number <= last:
                name = self.classes[number - self.label_offset]
                raise ValueError(
                    f"--void-value {number} is also the number of class {name!r} in the labels (classes are "
                    f"{self.label_offset} to {last}); set --label-offset to the number of the first class, "
                    f"or remove the void class from {self._class_list.name}"
                )

    def _palette_of(self, mask: FilePath) -> np.ndarray:
        """Take the colours of a mask's palette, or generate colours if it has too few."""
        try:
            with Image.open(mask) as file:
                colours = np.array(file.getpalette() or [], np.uint8).reshape(-1, 3)
                colours = colours[self.label_offset :][: len(self.classes)]
        except Exception:  # for damaged files, Pillow raises errors of nearly every type
            colours = np.zeros((0, 3), np.uint8)  # a check will report the file with its reason
        enough = len(np.unique(colours, axis=0)) == len(self.classes)
        return colours if enough else distinct_palette(len(self.classes))


def _is_coloured(mask: FilePath) -> bool:
    """Whether a mask is a colour picture: neither grey nor a palette picture."""
    try:
        with Image.open(mask) as file:
            return file.mode not in ("1", "L", "P", "I;16")
    except Exception:  # a check will report the file with its reason
        return False
