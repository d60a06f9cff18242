"""Reads CVAT's "CamVid 1.0": colours in label_colors.txt, and SUBSET/, SUBSETannot/ and SUBSET.txt.

Each line of SUBSET.txt has the paths of an image and its mask; both are quoted if one holds a blank. An image
without annotation has no mask. Pixels without annotation are black in the masks, but label_colors.txt lacks
the line of black if CVAT added the background itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from difnet.data.errors import DataError, raise_all
from difnet.data.exports.export import Export, refuse_unused
from difnet.data.exports.masks.listing import Background, Masked, background_of, divide, labelled, read_lines
from difnet.data.items.colours import ColourLabel, ColourTable
from difnet.data.items.tables import Entry, read_table, table_of
from difnet.data.options import Reading

_TOOL = "CVAT CamVid"
_TABLE = "label_colors.txt"


def recognise(root: Path) -> bool:
    """Whether `root` holds such an export; CVAT's Cityscapes has a table of the same name, but no lists."""
    return (
        (root / _TABLE).is_file() and not (root / "gtFine").is_dir() and next(_lists(root), None) is not None
    )


def read(root: Path, reading: Reading) -> Export:
    """Read the colour table and the lists of images.

    Raises:
        DataError: the export cannot be used; the message names file, value and remedy.
        ValueError: an option is given that such an export has no place for.
    """
    refuse_unused(reading, ("snap_colours", "unlabelled"), _TOOL)
    classes, table, background = _classes(root / _TABLE)
    lists = {path: [_fields(line, path) for line in read_lines(path)] for path in _lists(root)}
    masks = dict(line for lines in lists.values() for line in lines)
    splits = divide({path: [image for image, _ in lines] for path, lines in lists.items()})
    if not masks:
        raise DataError(f"{root} lists no image in {' or '.join(path.name for path in lists)}; export again")
    _check_files(root, masks)
    snap = bool(reading.snap_colours)
    items, notes = labelled(
        {
            split: [
                Masked(_name(image), root / image, root / mask if (mask := masks[image]) else None)
                for image in images
            ]
            for split, images in splits.items()
        },
        lambda mask: ColourLabel(mask, table, snap),
        reading,
        background,
        f"{_TOOL} in {root}",
    )
    return Export(_TOOL, classes, items, table.palette, table.void_text, [background.note, *notes])


def _classes(path: Path) -> tuple[list[str], ColourTable, Background]:
    """Read the colour table, and add the background that CVAT leaves out of it."""
    entries = read_table(path)
    names = [entry.name for entry in entries]
    if (0, 0, 0) in [entry.colour for entry in entries] or "background" in names:
        classes, table = table_of(entries, path)
        return classes, table, background_of(classes, table)
    classes, table = table_of([Entry("background", (0, 0, 0)), *entries], path)
    return (
        classes,
        table,
        Background(
            0,
            f"{path} does not name the black of pixels without annotation, because CVAT leaves out a "
            "background that it added itself; it is class 0 (background) here",
        ),
    )


def _lists(root: Path) -> Iterator[Path]:
    """The lists of images, sorted by name."""
    for path in sorted(root.glob("*.txt")):
        subset = path.name.removesuffix(".txt")
        if path.name != _TABLE and any((root / f"{subset}{kind}").is_dir() for kind in ("", "annot")):
            yield path


def _fields(line: str, path: Path) -> tuple[str, str]:
    """Split a line into the paths of image and mask, below the root; the mask may be empty."""
    subset = re.escape(path.name.removesuffix(".txt"))
    words = line.split()
    if match := re.fullmatch(r'"([^"]+)"(?:\s+"([^"]*)")?', line):
        words = [match[1], match[2] or ""]
    elif len(words) > 2 and (match := re.fullmatch(rf"(/?{subset}/.+?)(?:\s+(/?{subset}annot/.+))?", line)):
        words = [match[1], match[2] or ""]  # earlier versions did not quote
    if len(words) > 2:
        raise DataError(
            f"{path} has the line {line!r}, which is not the path of an image and that of its mask; put both "
            "into double quotes if one holds a blank"
        )
    image, mask = (word.replace("\\", "/").lstrip("/") for word in (*words, "")[:2])
    return image, mask


def _name(image: str) -> str:
    folder, slash, name = image.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


def _check_files(root: Path, masks: dict[str, str]) -> None:
    """Refuse missing files, and images that share a name and so a mask.

    Raises:
        DataError: there are such files.
    """
    missing = [image for image in masks if not (root / image).is_file()]
    if len(missing) == len(masks):
        raise DataError(
            f"{root} holds none of the {len(masks)} images that its lists name, such as {missing[0]}; tick "
            "'Save images' in CVAT and export again, or copy the images there; if these are the published "
            "images of CamVid, use --dataset camvid"
        )
    errors = [f"{root / image} is listed and missing; copy it there or remove its line" for image in missing]
    errors += [
        f"{root / mask} is listed as the mask of {image} and missing; export again or remove its line"
        for image, mask in masks.items()
        if mask and not (root / mask).is_file()
    ]
    first: dict[str, str] = {}
    for image in masks:
        other = first.setdefault(_name(image), image)
        if other != image:
            errors.append(f"{root / other} and {root / image} share a name and so a mask; keep one of them")
    raise_all(errors, f"{_TOOL} in {root}")
