"""Reads the files in which tools write what each colour of a mask means."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from difnet.data.errors import VOID, DataError, listed
from difnet.data.items.colours import Colour, ColourTable, voc_table
from difnet.utils.files import read_text

TABLE_NAMES = (
    "labelmap.txt",
    "class_dict.csv",
    "label_colors.txt",
    "classes.csv",
    "colours.csv",
    "colors.csv",
)
"""Names of colour tables that are looked for in the folder of a data set, in this order."""

VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore", "ignored", "__ignore__")
"""Names in a colour table, in lower case, whose pixels have no class."""


class Entry(NamedTuple):
    """A line of a colour table."""

    name: str
    colour: Colour


def find_table(root: Path) -> Path | None:
    """Return the colour table in the folder `root`, if there is one."""
    return next((path for name in TABLE_NAMES if (path := root / name).is_file()), None)


def read_table(path: Path) -> list[Entry]:
    """Read a colour table; the kind is recognised by its lines.

    The kinds are CVAT's ``name:r,g,b:parts:actions`` with comments after #, a CSV with the columns name, r, g
    and b, and ``R G B name``, as CamVid has it.

    Raises:
        DataError: the file cannot be read, or a line is of another kind; the message names it.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save the colour table as UTF-8") from error
    rows = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    rows = [(number, line) for number, line in rows if line and not line.startswith("#")]
    if rows and [cell.strip().lower() for cell in rows[0][1].split(",")][:4] == ["name", "r", "g", "b"]:
        rows = rows[1:]
    entries = [_entry(path, number, line) for number, line in rows]
    names = [entry.name for entry in entries]
    if not entries:
        raise DataError(f"{path} names no colour; write one line name,r,g,b for each class")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} names {listed(twice)} more than once; make the names distinct")
    return entries


def _entry(path: Path, number: int, line: str) -> Entry:
    words: Sequence[str]
    if match := re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(.*\S)", line):
        name, words = match[4].strip("\"'"), match.groups()[:3]
    elif match := re.fullmatch(r"([^:]+):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:[^:]*:[^:]*", line):
        name, words = match[1].strip(), match.groups()[1:]
    else:
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
        name, words = (cells[0], cells[1:4]) if len(cells) >= 4 else ("", ())
    if not name or not all(re.fullmatch(r"\d{1,3}", word) and int(word) <= 255 for word in words):
        raise DataError(
            f"{path} has {line!r} on line {number}, which gives no name its colour; write name,r,g,b or "
            "name:r,g,b:: or R G B name, with numbers from 0 to 255 (no name holds a colon or a comma, or "
            "begins with #)"
        )
    red, green, blue = map(int, words)
    return Entry(name, (red, green, blue))


def table_of(
    entries: Sequence[Entry], source: str, classes: Sequence[str] | None = None
) -> tuple[list[str], ColourTable]:
    """Decide which class each colour of a table means.

    Args:
        entries: the lines of the table.
        source: where they are from, for messages.
        classes: the class names in order, if another file lists them; else the order of the table counts.

    Returns:
        The class names, and the table. A name of `VOID_NAMES` that is not in `classes` means void.

    Raises:
        DataError: a name is no class, or a class has no colour.
    """
    names = [entry.name for entry in entries]
    if classes is None:
        classes = [name for name in names if name.lower() not in VOID_NAMES]
    if missing := [name for name in classes if name not in names]:
        raise DataError(f"{source} gives no colour to {listed(missing)}; add a line for each class")
    if others := [name for name in names if name not in classes and name.lower() not in VOID_NAMES]:
        raise DataError(
            f"{source} has colours for {listed(others)}, which the class list does not name; add the "
            "classes, or call the colour void"
        )
    numbers = {name: index for index, name in enumerate(classes)}
    colours = tuple(entry.colour for entry in entries)
    return list(classes), ColourTable(
        source, colours, tuple(numbers.get(name, VOID) for name in names), tuple(names)
    )


def chosen_table(
    choice: str | None, root: Path, classes: Sequence[str] | None
) -> tuple[list[str], ColourTable] | None:
    """Return the classes and colours that --colours names, or those of a table in `root`; None if neither.

    Raises:
        DataError: the table cannot be read, or does not fit the classes.
    """
    if choice == "voc":
        if classes is None:
            raise DataError(
                f"{root} has no classes.txt; --colours voc takes the names of the classes from it"
            )
        return list(classes), voc_table(classes)
    path = Path(choice) if choice is not None else find_table(root)
    return None if path is None else table_of(read_table(path), str(path), classes)
