"""What the published data sets share: lists, numbers of images, and how label files are read.

The loaders of torchvision are not used. They read one layout each, give Pillow's pictures without saying what
a stored number means, and cannot take another folder of labels, another list, or a part of the set.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from difnet.data.errors import DataError, listed
from difnet.data.files.disk import IMAGE_SUFFIXES, read_colours, read_numbers
from difnet.data.items.colours import ColourTable
from difnet.data.items.index import Numbering
from difnet.data.items.item import FilePath, Label, LabelMap, Picture
from difnet.utils.files import read_text

NUMBERED_MODES = ("1", "L", "P", "I;16")
"""Pillow's modes of pictures that hold one number a pixel."""


@dataclass(frozen=True)
class MaskLabel(Label):
    """A label of a published set: numbers if the file is a grey or palette PNG, else colours.

    Attributes:
        path: the file.
        numbering: what its numbers mean.
        table: what its colours mean; None if the set is not published in colours.
        snap: whether a colour that is not in the table counts as the nearest one.
    """

    path: FilePath
    numbering: Numbering
    table: ColourTable | None = None
    snap: bool = False

    @property
    def files(self) -> tuple[FilePath, ...]:
        return (self.path,)

    def read(self, picture: Picture) -> LabelMap:
        mode, palette = _mode_and_palette(self.path)
        if mode not in ("", *NUMBERED_MODES):
            if self.table is None:
                raise DataError(
                    f"{self.path} has mode {mode}, and the labels of this set are grey or palette PNGs that "
                    "hold numbers; take the file from the published archive again"
                )
            pixels, orientation = read_colours(self.path)
            return LabelMap(self.table.classes_of(pixels, self.path, snap=self.snap), orientation)
        stored, orientation = read_numbers(self.path)  # it says what is wrong with a file of unknown mode
        if mode == "P" and self.table is not None:
            self._compare_palette(np.unique(stored), palette, self.table)
        return LabelMap(self.numbering.classes_of(stored, self.path), orientation)

    def _compare_palette(self, used: np.ndarray, palette: np.ndarray, table: ColourTable) -> None:
        """Refuse a palette in which the colours of the set stand at other numbers.

        A program that turns a colour-coded mask into a palette picture numbers the colours as it likes. Grey
        palettes and palettes of other colours say nothing about the classes.
        """
        if len(used) < 2 or used.max() >= len(palette):
            return
        meaning = dict(zip(table.colours, table.indices, strict=True))
        by_colour = [meaning.get((int(r), int(g), int(b))) for r, g, b in palette[used]]
        by_number = self.numbering.table[used.astype(np.int64)].tolist()
        if None not in by_colour and by_colour != by_number:
            place = next(
                i for i, pair in enumerate(zip(by_colour, by_number, strict=True)) if len({*pair}) > 1
            )
            colour = tuple(palette[used[place]].tolist())
            raise DataError(
                f"{self.path} stores the number {used[place]} with the colour {colour}, which is another "
                f"class in {table.source}; save the mask as RGB, so that its colours count"
            )


def is_numbered(path: FilePath) -> bool:
    """Whether a label file holds one number a pixel; true for a file that cannot be read."""
    return _mode_and_palette(path)[0] in ("", *NUMBERED_MODES)


def _mode_and_palette(path: FilePath) -> tuple[str, np.ndarray]:
    """Pillow's mode of a picture and its palette (n, 3); "" and no colour for a file that cannot be "
    "opened."""
    try:
        with open(path, "rb") as stream, Image.open(stream) as file:
            return file.mode, np.array(file.getpalette() or [], np.uint8).reshape(-1, 3)
    except Exception:  # for damaged files, Pillow's readers raise errors of nearly every type
        return "", np.zeros((0, 3), np.uint8)


def first_folder(root: Path, candidates: Sequence[str], inside: str) -> Path | None:
    """Return the first of the folders below `root` that holds `inside`; "" is `root` itself."""
    return next((root / name for name in candidates if (root / name / inside).exists()), None)


def required_folder(folder: Path, layout: str) -> Path:
    """Return `folder`.

    Raises:
        DataError: it is missing.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder} is missing; the data are read from {layout}")
    return folder


def read_lines(path: Path, layout: str) -> Iterator[tuple[int, list[str]]]:
    """Read the lines of a list that are not empty: their numbers, and their fields between blanks.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; the data are read from {layout}") from error
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save the list as UTF-8") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if fields := line.split():
            yield number, fields


def stem_of(field: str) -> str:
    """Return the name in a field of a list, without folders and without the ending of a file."""
    name = PurePosixPath(field.replace("\\", "/")).name
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in (*IMAGE_SUFFIXES, ".mat") else name


def read_names(path: Path, layout: str, notes: list[str]) -> list[str]:
    """Read a list of images in its order: bare names, or paths of an image and its label on each line.

    A name that is listed twice is used once, which is added to `notes`.

    Raises:
        DataError: the list cannot be read, is empty, or a line does not name one image.
    """
    names = []
    for number, fields in read_lines(path, layout):
        stems = list(dict.fromkeys(map(stem_of, fields)))
        if len(stems) != 1:
            raise DataError(
                f"{path} has {' '.join(fields)!r} on line {number}, which names {listed(stems)}; write one "
                "image, or an image and its label, on each line"
            )
        names += stems
    return distinct(names, path, notes)


def distinct(names: Sequence[str], path: Path, notes: list[str]) -> list[str]:
    """Return each name of a list once, and say so in `notes` if one occurred twice.

    Raises:
        DataError: there is no name.
    """
    if not names:
        raise DataError(f"{path} is empty; write one image on each line")
    once = list(dict.fromkeys(names))
    if len(once) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        notes.append(f"{path} names {listed(list(dict.fromkeys(twice)))} more than once; each is used once")
    return once


def listed_files(names: Sequence[str], files: Mapping[str, str], folder: Path, source: str) -> list[str]:
    """Return the files of the listed names.

    Args:
        names: the names in a list.
        files: the files by name.
        folder: where they were looked for.
        source: the list, for messages.

    Raises:
        DataError: some are missing; the message says how many, and names the first.
    """
    if missing := [name for name in names if name not in files]:
        raise DataError(
            f"{source} names {len(names)} images, and {folder} lacks {len(missing)} of them "
            f"({listed(missing)}); add the files, or remove them from the list and give --subset"
        )
    return [files[name] for name in names]


def check_count(
    found: int, published: int, split: str, source: str, subset: bool | None, hint: str = ""
) -> None:
    """Compare the number of images with that of the published set.

    Args:
        found: the number of images.
        published: what the set has.
        split: "train" or "val".
        source: the list or folder that decided, for the message.
        subset: whether another number is accepted.
        hint: what may explain another number, as a clause.

    Raises:
        DataError: the numbers differ, and `subset` is not true.
    """
    if found != published and not subset:
        raise DataError(
            f"{source} gives {found} images for {split}, and the published set has {published}"
            + (f"; {hint}" if hint else "")
            + "; complete the data, or give --subset to use them as they are"
        )
