"""Reads classes.txt: one class name a line, in the order of the numbers in the labels."""

import re
import unicodedata
from pathlib import Path

from difnet.data.errors import VOID, DataError, listed
from difnet.utils.files import read_text


def appearance(name: str) -> str:
    """Normalise a name to what a reader sees: one Unicode form, without invisible characters."""
    shown = "".join(character for character in name if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", shown).split())


def read_class_list(path: Path, first: int = 0, least: int = 2) -> list[str]:
    """Read class names; the class on line 1 has the number `first` in the labels.

    Raises:
        DataError: the file cannot be read, or its lines are not `least` to 255 distinct names in order.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); write one class name per line, in index order, as UTF-8"
        ) from error
    # str.splitlines would also split at characters that names may contain.
    lines = re.split(r"\r\n|\r|\n", text.rstrip()) if text.strip() else []
    classes = [line.strip() for line in lines]
    looks = [appearance(name) for name in classes]
    if "" in looks:
        number = looks.index("")
        raise DataError(
            f"{path} has no name on line {number + 1}, and each line names a class; remove the line, or "
            f"write the name of class {number + first} there"
        )
    if not least <= len(classes) <= VOID:
        raise DataError(f"{path} names {len(classes)} class(es); it must name {least} to {VOID}")
    for name, look in zip(classes, looks, strict=True):
        if looks.count(look) > 1:
            numbers = [str(number) for number, other in enumerate(looks, start=1) if other == look]
            raise DataError(
                f"{path} names {name} more than once (on lines {listed(numbers)}; names that look the "
                "same count as one); make the names distinct"
            )
    _check_lines(path, classes, first)
    return classes


def _check_lines(path: Path, classes: list[str], label_offset: int) -> None:
    """Refuse comments, and numbered names that are out of order."""
    for index, name in enumerate(classes):
        if name.startswith(("#", "//")):
            raise DataError(
                f"{path} has a comment on line {index + 1} ({name!r}), and each line names a class; "
                "remove the line"
            )
    found = [re.match(r"[\"']?(\d{1,5})[\"']?[\s:;,.=)|]+\S", name) for name in classes]
    numbers = {index: int(match[1]) for index, match in enumerate(found) if match}
    # Names may begin with a number. Lines are numbered if all, except a heading, count up from 0 or 1.
    first = min(numbers.values(), default=0)
    counted = sorted(numbers.values()) == list(range(first, first + len(numbers)))
    if not (numbers.keys() >= set(range(1, len(classes))) and len(numbers) > 1 and counted and first < 2):
        return
    shift = first if 0 in numbers else 0
    for index, number in numbers.items():
        if number != index + shift:
            raise DataError(
                f"{path} has {classes[index]!r} on line {index + 1}, and the order of its lines makes "
                f"that class {index + label_offset}; sort the lines by number and remove a heading, "
                "or remove the numbers"
            )
