"""What the export of an annotation tool holds, whichever tool wrote it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from difnet.data.errors import DataError, listed
from difnet.data.items.item import Item
from difnet.data.options import Reading, UnusedOption

UNDIVIDED = ""
"""Key of the images of an export that does not say which split they belong to."""

_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}


_FEW = 100
"""Images of which a draw by each name alone would miss the share by too much."""


@dataclass(frozen=True)
class Export:
    """The images of an export, with their labels.

    Attributes:
        tool: the tool and its format, such as "CVAT segmentation masks".
        classes: class names in index order.
        splits: the images of "train", "val" and "test", or of `UNDIVIDED`; names are unique in a split.
        palette: (k, 3) uint8, the colours that the tool shows the classes in; None if it does not say.
        void_text: what means void in this export, for messages.
        notes: what the user should know about the export, one sentence each.
    """

    tool: str
    classes: list[str]
    splits: Mapping[str, list[Item]]
    palette: np.ndarray | None = None
    void_text: str = "no number"
    notes: list[str] = field(default_factory=list)


class Format(Protocol):
    """A module that reads the exports of one tool in one format."""

    def recognise(self, root: Path) -> bool:
        """Whether `root` holds such an export: cheap, and true for no other format."""

    def read(self, root: Path, reading: Reading) -> Export:
        """Read the lists and annotations of an export, but no pixel.

        Raises:
            DataError: the export cannot be used; the message names file, value and remedy.
        """


def refuse_unused(reading: Reading, used: Collection[str], tool: str) -> None:
    """Refuse options that would change nothing, because the labels of `tool` have no place for them.

    Args:
        reading: the options.
        used: the fields of `reading` that the format takes; `val_share` need not be named.
        tool: the tool and its format, for the message.

    Raises:
        UnusedOption: another option is given; the message names it.
    """
    for option in reading.given():
        if option not in used and option != "val_share":
            raise UnusedOption(option, tool)


def split_name(folder_or_list: str) -> str:
    """Return "train", "val" or "test" for the usual names of these, and `UNDIVIDED` for any other name."""
    word = folder_or_list.lower()
    return next((split for split, names in _SPLITS.items() if word in names), UNDIVIDED)


def split_of(path: Path) -> str:
    """The split that the first folder of a path names, or the second one if the first is called images."""
    folders = path.parts[:-1]
    start = 1 if folders[:1] == ("images",) else 0
    return split_name(folders[start]) if len(folders) > start else UNDIVIDED


def divided(export: Export, val_share: float) -> tuple[Mapping[str, list[Item]], list[str]]:
    """Return the splits of an export, with "train" and "val", and what was done to get them.

    An export without a validation split is divided by a digest of the names. From `_FEW` images on, an image
    stays in its split when others are added. Of fewer images the share is exact, to one image.

    Args:
        export: the export.
        val_share: the share of the images that becomes the validation split.

    Raises:
        DataError: there is no image, or the export has a "val" but neither "train" nor undivided images.
    """
    splits = {split: items for split, items in export.splits.items() if items}
    if not splits:
        raise DataError(
            f"this export ({export.tool}) holds no labelled image; annotate some and export again"
        )
    loose = splits.pop(UNDIVIDED, [])
    if "val" in splits:
        train = [*splits.get("train", []), *loose]
        if not train:
            raise DataError(
                f"this export ({export.tool}) has the splits {listed(sorted(splits))} and no training "
                "images; export the training images too"
            )
        note = [f"{len(loose)} images that belong to no split are used for training"] if loose else []
        return splits | {"train": train}, note
    images = [*splits.pop("train", []), *loose]
    if len(images) < 2:
        raise DataError(
            f"this export ({export.tool}) holds {len(images)} image(s) and no validation split; a training "
            "needs at least one image to learn from and one to evaluate on"
        )
    if len(images) < _FEW:
        count = min(max(1, round(val_share * len(images))), len(images) - 1)
        drawn = {item.name for item in sorted(images, key=lambda item: _number(item.name))[:count]}
    else:
        drawn = {item.name for item in images if _number(item.name) < val_share}
    val = [item for item in images if item.name in drawn]
    train = [item for item in images if item.name not in drawn]
    how = (
        f"the export is not divided: {len(val)} of {len(images)} images, drawn by a digest of their names, "
        f"are the validation split; --val-share sets the share ({val_share:g})"
    )
    return splits | {"train": train, "val": val}, [how]


def _number(name: str) -> float:
    """A number in [0, 1) that depends on the name only."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48


def with_background(
    classes: Sequence[str], names: Sequence[str] = ("background", "_background_", "__background__")
) -> tuple[list[str], int]:
    """Return the classes with one for pixels that nothing covers, and its index.

    A class that is called so already is taken; else "background" is put first.
    """
    for index, name in enumerate(classes):
        if name.lower() in names:
            return list(classes), index
    return ["background", *classes], 0
