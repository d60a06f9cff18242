"""Decides which classes an export has whose files name the class of each shape, but list no classes."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from difnet.data.errors import VOID, DataError, listed
from difnet.data.exports.export import with_background
from difnet.data.items.class_list import appearance, read_class_list
from difnet.data.options import Reading
from difnet.utils.files import read_text


class Classes(NamedTuple):
    """The classes of an export whose labels are drawn.

    Attributes:
        names: in index order.
        start: the index of pixels that no shape covers, or 255 for void.
        blank: the index of all pixels of an image without annotation, where such images are read.
    """

    names: list[str]
    start: int
    blank: int


def class_order(
    found: Collection[str], root: Path, lists: Sequence[str] = ("classes.txt",), ignored: Collection[str] = ()
) -> list[str]:
    """Return the names of all classes: in the order of a list in `root`, else sorted by code points.

    Args:
        found: the names that occur.
        root: the folder of the export.
        lists: names of files that may list the classes; the first one that exists counts.
        ignored: names that are no class.

    Raises:
        DataError: the list cannot be read or lacks a name, or there are too many names, or two look alike.
    """
    found = set(found) - set(ignored)
    path = next((root / name for name in lists if (root / name).exists()), None)
    if path is not None:
        names = [name for name in read_class_list(path, least=1) if name not in ignored]
        if missing := sorted(found - set(names)):
            raise DataError(
                f"{path} does not list {listed([repr(name) for name in missing])}, which the annotations "
                "use; add a line for each, or correct the annotations"
            )
        return names
    names = sorted(found)
    if len(names) > VOID:
        raise DataError(f"{root} uses {len(names)} class names; at most {VOID} are possible: merge some")
    looks: dict[str, str] = {}
    for name in names:
        if not appearance(name):
            raise DataError(
                f"{root} has annotations whose class name is {name!r}; name the class in the annotation tool"
            )
        other = looks.setdefault(appearance(name), name)
        if other != name:
            raise DataError(
                f"{root} has annotations of the classes {other!a} and {name!a}, which look the same; give "
                f"them one name, or list both in {root / lists[0]}"
            )
    return names


def with_uncovered(names: Sequence[str], reading: Reading, blank_images: bool) -> Classes:
    """Add a class for pixels that no shape covers, unless they are void.

    Args:
        names: the classes that shapes have.
        reading: says what such pixels and images are.
        blank_images: whether images without annotation occur.
    """
    void = reading.unannotated == "void"
    if void and not (blank_images and reading.unlabelled == "background"):
        return Classes(list(names), VOID, VOID)
    classes, background = with_background(names)
    return Classes(classes, VOID if void else background, background)


def check_classes(names: Sequence[str], source: Path) -> None:
    """Refuse classes that cannot be told apart, and too few or too many of them.

    Args:
        names: all classes, with that of uncovered pixels.
        source: the file that lists them, for the message.

    Raises:
        DataError: two names look the same, one is empty, or there are not 2 to 255.
    """
    looks = [appearance(name) for name in names]
    if "" in looks:
        raise DataError(
            f"{source} has a class without a name; name it in the annotation tool and export again"
        )
    if twice := sorted({look for look in looks if looks.count(look) > 1}):
        raise DataError(
            f"{source} has several classes called {listed([repr(look) for look in twice])} (names that look "
            "the same count as one); give each its own name in the annotation tool and export again"
        )
    if not 2 <= len(names) <= VOID:
        raise DataError(
            f"{source} gives {len(names)} class(es) ({listed(list(names))}), and 2 to {VOID} can be learned; "
            "merge some, or add the one of uncovered pixels with --unannotated background"
        )


def keep_blank_images(
    blank: Sequence[str], reading: Reading, where: str, no_area: Sequence[str] = (), figures: str = ""
) -> bool:
    """Whether images without annotation are read; they are background then.

    Args:
        blank: the images without any annotation.
        reading: says what is done with them.
        where: the export, for the message.
        no_area: the images whose annotations cover no area; they are treated in the same way.
        figures: what the annotations of `no_area` are, such as "boxes".

    Raises:
        DataError: `reading` does not say that they are background or left out.
    """
    if (blank or no_area) and reading.unlabelled in (None, "refuse"):
        found = []
        if blank:
            found.append(f"{len(blank)} image(s) have no annotation ({listed(list(blank))})")
        if no_area:
            found.append(
                f"{len(no_area)} image(s) have only {figures}, which cover no area here "
                f"({listed(list(no_area))})"
            )
        areas = " with polygons or masks" if no_area else ""
        raise DataError(
            f"{where}: {' and '.join(found)}; annotate them{areas}, or give --unlabelled background if they "
            "show no class, or --unlabelled skip to leave them out"
        )
    return reading.unlabelled == "background"


def blank_note(blank: Sequence[str], kept: bool, no_area: Sequence[str] = (), figures: str = "") -> list[str]:
    """Say what was done with images without annotation, if there are any; see `keep_blank_images`."""
    done = "background everywhere" if kept else "left out"
    notes = []
    if blank:
        notes.append(f"{len(blank)} image(s) without annotation are {done} ({listed(list(blank))})")
    if no_area:
        notes.append(
            f"{len(no_area)} image(s) have only {figures}, which cover no area here, and are {done} "
            f"({listed(list(no_area))})"
        )
    return notes


def unread_list(root: Path, classes: Sequence[str], order: str) -> list[str]:
    """Say that classes.txt in `root` does not count, if it differs from the classes of the export.

    Args:
        root: the folder of the export.
        classes: all classes, with or without that of uncovered pixels.
        order: what decides their order, such as "the ids of the categories".
    """
    path = root / "classes.txt"
    if not path.exists():
        return []
    try:
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeError):
        names = []
    if names in (list(classes), list(classes[1:])):
        return []
    return [f"{path} is not read: the classes are {listed(list(classes))}, in the order of {order}"]
