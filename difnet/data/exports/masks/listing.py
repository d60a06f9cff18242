"""What exports of mask files share: lists of images, images without a mask, and the background."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from difnet.data.errors import VOID, DataError, listed
from difnet.data.exports.classes import blank_note, keep_blank_images
from difnet.data.exports.export import UNDIVIDED, split_name
from difnet.data.items.colours import ColourTable
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import FilePath, Item, Label
from difnet.data.options import Reading
from difnet.utils.files import read_text


class Masked(NamedTuple):
    """An image and its mask; None if nobody annotated the image."""

    name: str
    image: FilePath
    mask: FilePath | None


@dataclass(frozen=True)
class Background:
    """The class of pixels without annotation.

    Attributes:
        index: of the class; None if there is no such class.
        note: where it comes from, for the user.
    """

    index: int | None
    note: str


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list that are not blank.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save the list as UTF-8") from error
    # str.splitlines would also split at characters that names may contain.
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def divide(lists: Mapping[Path, Iterable[str]]) -> dict[str, list[str]]:
    """Return the images of each split, in the order of the lists.

    A list that is named after no split may repeat images of the others, as VOC's trainval.txt does. These
    images stay in their split.

    Args:
        lists: what tells images apart, such as their names, by the file that lists them.

    Raises:
        DataError: an image is in two splits.
    """
    splits: dict[str, dict[str, Path]] = {}
    for path, images in lists.items():
        split = splits.setdefault(split_name(path.name.removesuffix(path.suffix)), {})
        split.update(dict.fromkeys(images, path))
    loose = splits.pop(UNDIVIDED, {})
    for one, other in combinations(splits.values(), 2):
        if both := [image for image in one if image in other]:
            files = f"{one[both[0]]} and {other[both[0]]}"
            raise DataError(f"{files} both list {listed(both)}; keep each image in one split")
    taken = {image for split in splits.values() for image in split}
    found = {split: list(images) for split, images in splits.items()}
    return found | {UNDIVIDED: [image for image in loose if image not in taken]}


def labelled(
    splits: Mapping[str, Sequence[Masked]],
    label_of: Callable[[FilePath], Label],
    reading: Reading,
    background: Background,
    where: str,
) -> tuple[dict[str, list[Item]], list[str]]:
    """Return the images with their labels, and notes about those without a mask.

    Args:
        splits: the images of each split.
        label_of: makes the label of a mask.
        reading: says what is done with images without a mask.
        background: their class, if they are read.
        where: the export, for messages.

    Raises:
        DataError: no image has a mask; or one has none, and `reading` does not say what is done with it, or
            there is no class that it could have.
    """
    blank = [it.name for images in splits.values() for it in images if it.mask is None]
    if blank and len(blank) == sum(map(len, splits.values())):
        raise DataError(
            f"{where}: none of the {len(blank)} images has a mask ({listed(blank)}), so there is nothing to "
            "learn; put the masks there, under the names of their images, or export again"
        )
    kept = keep_blank_images(blank, reading, where)
    if blank and kept and background.index is None:
        raise DataError(
            f"{where}: {len(blank)} image(s) have no annotation ({listed(blank)}), and they cannot be "
            f"background, because {background.note}; give --unlabelled skip"
        )
    constant = ConstantLabel(VOID if background.index is None else background.index)
    items = {
        split: [
            Item(it.name, it.image, constant if it.mask is None else label_of(it.mask))
            for it in images
            if kept or it.mask is not None
        ]
        for split, images in splits.items()
    }
    return items, blank_note(blank, kept)


def background_of(classes: Sequence[str], table: ColourTable) -> Background:
    """Find the class of pixels without annotation as CVAT does: by the colour black, then by its name.

    Its place among the classes does not show it: CVAT sorts the classes by name.
    """
    indices = dict(zip(table.colours, table.indices, strict=True))
    names = dict(zip(table.colours, table.names, strict=True))
    black = (0, 0, 0)
    if black in indices:
        if indices[black] == VOID:
            return Background(
                None,
                f"{names[black]!r} in {table.source} is black, as pixels without annotation are, and void",
            )
        index, reason = indices[black], "its colour is (0, 0, 0)"
    elif "background" in classes:
        index, reason = list(classes).index("background"), "it is called so, and no class is black"
    else:
        return Background(None, f"no class in {table.source} is black or is called background")
    return Background(
        index, f"class {index} ({classes[index]}) of {table.source} is the background, because {reason}"
    )
