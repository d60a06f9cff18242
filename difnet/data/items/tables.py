"""Reads the files in which tools write what each colour of a mask means."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from difnet.data.errors import VOID, DataError, listed
from difnet.data.items.class_list import appearance
from difnet.data.items.colours import Colour, ColourTable, voc_colours, voc_table
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

_COLUMNS = (
    ("name", "class", "class_name", "label"),
    ("r", "red"),
    ("g", "green"),
    ("b", "blue"),
)
"""What the columns of a CSV may be called, in lower case."""

_CVAT = r"([^:]+):\s*(\d+)\s*([,:])\s*(\d+)\s*\3\s*(\d+)\s*(?::[^:]*){0,2}"
"""A line of CVAT's tables: name, then the colour with commas or, as in an example of its manual, colons."""


class Entry(NamedTuple):
    """A line of a colour table."""

    name: str
    colour: Colour


class _Csv(NamedTuple):
    """How a CSV separates its cells, and the places of name, red, green and blue."""

    delimiter: str = ","
    places: tuple[int, ...] = (0, 1, 2, 3)


def find_table(root: Path) -> Path | None:
    """Return the colour table in the folder `root`, if there is one."""
    return next((path for name in TABLE_NAMES if (path := root / name).is_file()), None)


def read_table(path: Path) -> list[Entry]:
    """Read a colour table; the kind is recognised by its lines.

    The kinds are CVAT's ``name:r,g,b:parts:actions`` with comments after #, a CSV with the columns name, r, g
    and b in the order of its header, and ``R G B name``, as CamVid has it. Names may hold blanks, and may be
    quoted. If no line of CVAT's kind has a colour, then the colours are VOC's, in the order of the lines.

    Raises:
        DataError: the file cannot be read, or a line is of another kind; the message names it.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; name a file with a colour table, or voc") from error
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save the colour table as UTF-8") from error
    # str.splitlines would also split at characters that names may contain.
    lines = [(number, line.strip()) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    form = _header(lines[0][1]) if lines else None
    if form is not None:
        lines = lines[1:]
    found = [_entry(path, number, line, form) for number, line in lines]
    if not 0 < len(found) <= VOID + 1:
        raise DataError(f"{path} names {len(found)} colours; write one line name,r,g,b for each class")
    looks = [appearance(name) for name, _ in found]
    if twice := sorted({name for (name, _), look in zip(found, looks, strict=True) if looks.count(look) > 1}):
        raise DataError(f"{path} names {listed(twice)} more than once; make the names distinct")
    bare = [name for name, colour in found if colour is None]
    if not bare:
        return [Entry(name, colour) for name, colour in found if colour is not None]
    if len(bare) < len(found):
        raise DataError(
            f"{path} gives no colour to {listed(bare)}; write it between the first two colons, as "
            "name:r,g,b::, or remove the line of a class that the masks do not show"
        )
    # Datumaro, which writes such tables, then paints VOC's colours.
    return [Entry(name, colour) for name, colour in zip(bare, voc_colours(len(bare)), strict=True)]


def _header(line: str) -> _Csv | None:
    """Read the header of a CSV; None if `line` is no header."""
    for delimiter in (",", ";", "\t"):
        cells = [cell.lower() for cell in _cells(line, delimiter)]
        places = [next((cells.index(word) for word in words if word in cells), -1) for words in _COLUMNS]
        if min(places) >= 0:
            return _Csv(delimiter, tuple(places))
    return None


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        rows = list(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error:  # for example, a cell of more than 131072 characters
        return []
    return [cell.strip() for cell in rows[0]] if rows else []


def _entry(path: Path, number: int, line: str, form: _Csv | None) -> tuple[str, Colour | None]:
    """Read a line; `form` is given if the file is a CSV with a header."""
    words: Sequence[str]
    if form is None and (match := re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(.*\S)", line)):
        name, words = _unquoted(match[4]), match.groups()[:3]
    elif form is None and (match := re.fullmatch(r"([^:]+):\s*:[^:]*:[^:]*", line)):
        return match[1].strip(), None
    elif form is None and (match := re.fullmatch(_CVAT, line)):
        name, words = match[1].strip(), match.group(2, 4, 5)
    else:
        form = form or _Csv()
        cells = _cells(line, form.delimiter)
        cells += [""] * (max(form.places) + 1 - len(cells))
        name, *words = (cells[place] for place in form.places)
    if not name or not all(re.fullmatch(r"[0-9]{1,3}", word) and int(word) <= 255 for word in words):
        raise DataError(
            f"{path} has {line!r} on line {number}, which gives no name its colour; write name,r,g,b or "
            "name:r,g,b:: or R G B name, with numbers from 0 to 255 (no name holds a colon or a comma, or "
            "begins with #)"
        )
    red, green, blue = map(int, words)
    return name, (red, green, blue)


def _unquoted(name: str) -> str:
    match = re.fullmatch(r"([\"'])(.*\S)\1", name)
    return match[2].strip() if match else name


def table_of(
    entries: Sequence[Entry], source: Path | str, classes: Sequence[str] | None = None
) -> tuple[list[str], ColourTable]:
    """Decide which class each colour of a table means.

    Args:
        entries: the lines of the table.
        source: the file that they are from, or its name, for messages.
        classes: the class names in order, if another file lists them; else the order of the table counts.

    Returns:
        The class names, and the table. A name of `VOID_NAMES` that is not in `classes` means void.

    Raises:
        DataError: a name is no class, a class has no colour, or there are not 2 to 255 classes.
    """
    names = [entry.name for entry in entries]
    if classes is None:
        classes = [name for name in names if name.lower() not in VOID_NAMES]
    numbers = {appearance(name): index for index, name in enumerate(classes)}
    looks = [appearance(name) for name in names]
    if missing := [name for look, name in zip(numbers, classes, strict=True) if look not in looks]:
        raise DataError(f"{source} gives no colour to {listed(missing)}; add a line for each class")
    if others := [
        name
        for look, name in zip(looks, names, strict=True)
        if look not in numbers and name.lower() not in VOID_NAMES
    ]:
        raise DataError(
            f"{source} has colours for {listed(others)}, which the class list does not name; add the "
            "classes, or call the colour void"
        )
    if not 2 <= len(classes) <= VOID:
        raise DataError(f"{source} has colours for {len(classes)} class(es); it must have 2 to {VOID}")
    return list(classes), ColourTable(
        str(source),
        tuple(entry.colour for entry in entries),
        tuple(numbers.get(look, VOID) for look in looks),
        tuple(names),
        source if isinstance(source, Path) else None,
    )


def chosen_table(
    choice: str | None, root: Path, classes: Sequence[str] | None
) -> tuple[list[str], ColourTable] | None:
    """Return the classes and colours that --colours names, or those of a table in `root`; None if neither.

    Raises:
        DataError: the table cannot be read, or does not fit the classes.
    """
    if choice == "none":
        return None
    if choice == "voc":
        if classes is None:
            raise DataError(
                f"{root} has no list of classes; --colours voc takes the names of the classes from "
                "classes.txt, so write one class name per line there, in VOC's order"
            )
        return list(classes), voc_table(classes)
    path = Path(os.path.expanduser(choice)) if choice is not None else find_table(root)
    return None if path is None else table_of(read_table(path), path, classes)
