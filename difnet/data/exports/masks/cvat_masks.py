"""Reads CVAT's "Segmentation mask 1.1", which is the layout of Datumaro's VOC masks.

labelmap.txt says which colour means what. CVAT sorts its lines by name, so the background may be any of them,
and the number of a class is its place among the lines. CVAT lists an image without annotation but writes no
mask for it. It neither lists nor masks an image whose annotations are all points, lines or tags.
"""

from collections.abc import Mapping
from pathlib import Path

from difnet.data.errors import DataError, listed, raise_all
from difnet.data.exports.export import Export, refuse_unused
from difnet.data.exports.masks.listing import (
    Masked,
    background_of,
    divide,
    labelled,
    read_lines,
)
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.class_list import appearance
from difnet.data.items.colours import ColourLabel
from difnet.data.items.pairs import Found, find_by_name
from difnet.data.items.tables import read_table, table_of
from difnet.data.options import Reading

_TOOL = "CVAT segmentation masks"


def recognise(root: Path) -> bool:
    """Whether `root` holds such an export."""
    return (root / "labelmap.txt").is_file() and (root / "ImageSets" / "Segmentation").is_dir()


def read(root: Path, reading: Reading) -> Export:
    """Read the colour table and the lists of images.

    Raises:
        DataError: the export cannot be used; the message names file, value and remedy.
        ValueError: an option is given that such an export has no place for.
    """
    refuse_unused(reading, ("snap_colours", "unlabelled"), _TOOL)
    labelmap = root / "labelmap.txt"
    classes, table = table_of(read_table(labelmap), labelmap)
    folder = root / "ImageSets" / "Segmentation"
    splits = divide({path: read_lines(path) for path in sorted(folder.glob("*.txt"))})
    names = {name for images in splits.values() for name in images}
    if not names:
        raise DataError(f"{folder} lists no image; export again, with an image that is annotated")
    images = _find_images(root, names)
    masks = _found(root / "SegmentationClass", (".png",))
    if not masks.files.keys() & names:
        raise DataError(
            f"{root / 'SegmentationClass'} holds no mask of the {len(names)} listed images "
            f"({listed(sorted(names))}); put the export's masks there, or annotate the images and export "
            "again"
        )
    snap, background = bool(reading.snap_colours), background_of(classes, table)
    items, notes = labelled(
        {
            split: [Masked(name, images.files[name], masks.files.get(name)) for name in listing]
            for split, listing in splits.items()
        },
        lambda mask: ColourLabel(mask, table, snap),
        reading,
        background,
        f"{_TOOL} in {root}",
    )
    return Export(
        _TOOL,
        classes,
        items,
        table.palette,
        table.void_text,
        [
            background.note,
            *notes,
            *_left_notes(images.files, masks.files, names),
            *images.notes,
            *masks.notes,
        ],
    )


def _find_images(root: Path, names: set[str]) -> Found:
    """Find the images.

    Raises:
        DataError: an image of `names` is missing.
    """
    folder = root / "JPEGImages"
    images = _found(folder, IMAGE_SUFFIXES)
    if not images.files:
        raise DataError(
            f"{folder} holds no image; tick 'Save images' in CVAT and export again, or copy the images of "
            "the task there, with their sub-folders"
        )
    missing = sorted(names - images.files.keys())
    near = {appearance(name).casefold(): path for name, path in images.files.items()} if missing else {}
    errors = []
    for name in missing:
        twin = near.get(appearance(name).casefold())
        hint = f"rename {twin}, whose name is nearly the same" if twin else "copy it there"
        errors.append(f"{name} is listed and has no image in {folder}; {hint}, or remove it from the list")
    raise_all(errors, f"{_TOOL} in {root}")
    return images


def _found(folder: Path, suffixes: tuple[str, ...]) -> Found:
    return find_by_name(folder, suffixes) if folder.is_dir() else Found({}, {}, [])


def _left_notes(images: Mapping[str, str], masks: Mapping[str, str], names: set[str]) -> list[str]:
    """Say which images and masks are not used."""
    notes = []
    if left := sorted(images.keys() - names):
        notes.append(
            f"{len(left)} image(s) are in no list and not used ({listed(left)}); CVAT does not list images "
            "whose annotations are all points, lines or tags"
        )
    if lone := sorted(masks.keys() - names):
        notes.append(f"{len(lone)} mask(s) are in no list and not used ({listed(lone)})")
    return notes
