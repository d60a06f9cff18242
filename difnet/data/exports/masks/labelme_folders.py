"""labelme: a folder for each image with img.png, label.png and label_names.txt.

The former command labelme_json_to_dataset (later labelme_export_json, and now the example script
export_json.py) wrote them. The numbers in label.png are those of the lines of the label_names.txt beside it.
They differ from folder to folder, so the classes are the names of all folders. "_background_" is number 0.

That script draws a shape of the class "__ignore__" like any other; here its pixels are void, as its name asks
and as labelme's converter to the format of VOC has it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from difnet.data.errors import VOID, DataError, raise_all
from difnet.data.exports import labelme
from difnet.data.exports.classes import check_classes, class_order
from difnet.data.exports.export import Export, refuse_unused, split_of
from difnet.data.files.walk import walk
from difnet.data.items.index import IndexLabel, Numbering
from difnet.data.items.item import FilePath, Item
from difnet.data.options import Reading
from difnet.utils.files import read_text

BACKGROUND = "_background_"
_NAMES = "label_names.txt"
_TOOL = "labelme's folders of img.png and label.png"


@dataclass(frozen=True)
class NamedIndexLabel(IndexLabel):
    """A label.png; its numbering is from the label_names.txt beside it."""

    @property
    def files(self) -> tuple[FilePath, ...]:
        return self.path, os.path.join(os.path.dirname(self.path), _NAMES)


def recognise(root: Path) -> bool:
    """Whether a folder below `root` is such a folder, unless labelme's JSON files are there too."""
    return next(_folders(root), None) is not None and not labelme.recognise(root)


def read(root: Path, reading: Reading) -> Export:
    """Read the label_names.txt of each folder below `root`.

    Raises:
        DataError: a file is missing or cannot be used.
        ValueError: an option is given that changes nothing here.
    """
    refuse_unused(reading, ("unannotated",), _TOOL)
    errors: list[str] = []
    names_of: dict[str, tuple[str, ...]] = {}
    for folder in _folders(root):
        try:
            names_of[folder] = _read_names(folder)
        except DataError as error:
            errors.append(str(error))
    raise_all(errors, f"labelme folders in {root}")
    found = {name for names in names_of.values() for name in names}
    classes = class_order(found - {BACKGROUND}, root, ("labels.txt", "classes.txt"), (labelme.IGNORED,))
    void = {labelme.IGNORED} & found
    if reading.unannotated == "void":
        void |= {BACKGROUND} & found
        classes = [name for name in classes if name != BACKGROUND]
    elif BACKGROUND in found and BACKGROUND not in classes:
        classes = [BACKGROUND, *classes]
    check_classes(classes, root)
    indices = {name: index for index, name in enumerate(classes)} | dict.fromkeys(void, VOID)
    numberings: dict[tuple[str, ...], Numbering] = {}
    splits: dict[str, list[Item]] = {}
    for folder, names in sorted(names_of.items()):
        if names not in numberings:
            numberings[names] = _numbering(names, indices)
        name = folder[len(os.path.join(root, "")) :].replace(os.sep, "/") or "img"
        label = NamedIndexLabel(os.path.join(folder, "label.png"), numberings[names])
        item = Item(name, os.path.join(folder, "img.png"), label)
        splits.setdefault(split_of(Path(name, "img.png")), []).append(item)
    void_text = " and ".join(f"the class {name}" for name in sorted(void))
    return Export(_TOOL, classes, splits, void_text=void_text or "no number")


def _folders(root: Path) -> Iterator[str]:
    """Yield the folders that hold label.png and label_names.txt."""
    return (folder for folder, names, _ in walk(root) if "label.png" in names and _NAMES in names)


def _read_names(folder: str) -> tuple[str, ...]:
    """The name of each number; checks that the image is there.

    Raises:
        DataError: a file is missing or cannot be read, or a name occurs twice.
    """
    path = os.path.join(folder, _NAMES)
    if not os.path.isfile(os.path.join(folder, "img.png")):
        raise DataError(f"{folder} has no img.png beside label.png; put the image there or remove the folder")
    try:
        lines = read_text(Path(path)).splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save it as UTF-8") from error
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    if not names or "" in names or len(set(names)) < len(names):
        raise DataError(
            f"{path} must hold one distinct name a line, that of number 0 first, and holds {names}; "
            "export the folder again"
        )
    if len(names) > VOID + 1:
        raise DataError(f"{path} names {len(names)} numbers, and a label of 8 bits has 256; export it again")
    return names


def _numbering(names: tuple[str, ...], indices: dict[str, int]) -> Numbering:
    return Numbering(
        {number: indices[name] for number, name in enumerate(names)},
        f"that {_NAMES} beside it does not name (0 to {len(names) - 1})",
        "both files must be from one export: export the folder again",
    )
