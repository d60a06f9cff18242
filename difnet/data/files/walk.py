"""Goes through folders with the links in them, and does not go round in circles."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Folder(NamedTuple):
    """A folder that `walk` has come to.

    Attributes:
        path: the folder.
        names: its entries that are no folders, in no order.
        circles: the links in it to a folder above them, which are not followed.
    """

    path: str
    names: list[str]
    circles: list[str]


def walk(folder: str | Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[Folder]:
    """Yield `folder` and the folders below it, sorted by name, each before those in it.

    Links to folders are followed, but not to one above the link. Folders whose name begins with a dot are
    left out, because they belong to tools.

    Args:
        folder: where to begin.
        onerror: is called if a folder cannot be listed; by default such a folder is left out.
    """
    start = os.path.realpath(folder)
    # The real path of each folder, and the real paths on the way from the first one to it.
    ways = {os.fspath(folder): (start, {start})}
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        here, above = ways.pop(parent)
        circles: list[str] = []
        kept: list[str] = []
        for name in sorted(folders):
            if name.startswith("."):
                continue
            below = os.path.join(parent, name)
            real = os.path.realpath(below) if os.path.islink(below) else os.path.join(here, name)
            if real in above:
                circles.append(below)
            else:
                ways[below] = real, above | {real}
                kept.append(name)
        folders[:] = kept
        yield Folder(parent, names, circles)
