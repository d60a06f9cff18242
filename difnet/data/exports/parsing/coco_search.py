"""Recognises JSON files in COCO's layout, by their ends and their names, and the split that a name says.

Other tools write a JSON file for each image, so a folder may hold a hundred thousand of them, and COCO's own
files have hundreds of megabytes. So a few files are opened, and only their ends are read.
"""

import os
import re
from pathlib import Path

from difnet.data.exports.export import UNDIVIDED, split_name
from difnet.data.files.json_files import ends_of

_NAMES = {"instances": "shapes", "stuff": "shapes", "panoptic": "panoptic"}
"""Beginnings of names of COCO's files, and what these hold."""

_NAMED = re.compile(rf"({'|'.join(_NAMES)})(?=[_.])")

_OTHERS = ("captions", "person_keypoints", "image_info")
"""Beginnings of names of COCO's files that label no pixels of several classes."""

_FEW = 50
"""If none of so many files is one of COCO's, the rest of them are not opened."""


def find_json(root: Path) -> dict[Path, str]:
    """Return the JSON files of an export in `root` with what they hold: "shapes" or "panoptic" segments.

    They lie in the root, in annotations/, or in a folder that is called like a split. If their names end in
    .coco.json, they may lie in any folder.
    """
    found: dict[Path, str] = {}
    for folder in (root / "annotations", root, *_other_folders(root)):
        names = _json_names(folder)
        if folder.parent == root and folder.name != "annotations" and split_name(folder.name) == UNDIVIDED:
            names = [name for name in names if name.endswith(".coco.json")]
        for known in (True, False):
            found |= _kinds(folder, [name for name in names if bool(_named(name)) is known])
    return found


def _kinds(folder: Path, names: list[str]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for number, name in enumerate(names):
        if number == _FEW and not found:
            break
        if kind := _kind(folder / name):
            found[folder / name] = kind
    return found


def _other_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return [root / name for name in names if name != "annotations"]


def _json_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries)
            return sorted(
                name for name in names if name.endswith(".json") and not name.startswith((".", *_OTHERS))
            )
    except OSError:  # it is missing, or cannot be listed
        return []


def _named(name: str) -> str | None:
    """What a file holds by its name, if that is one of COCO's."""
    if match := _NAMED.match(name):
        return _NAMES[match[1]]
    return "shapes" if name.endswith(".coco.json") else None


def _kind(path: Path) -> str | None:
    """What a file holds: by its content, and by its name only where the content does not say it.

    The three lists may have any order, and of a large file the middle is not read.
    """
    named = _named(path.name)
    text = ends_of(path)
    if not text.startswith("{"):
        return None if text.startswith("[") else named  # it is damaged, as `read_json` will say
    if not re.search(r'"(images|annotations|categories)"\s*:\s*\[', text):
        return None
    if '"segments_info"' in text:
        return "panoptic"
    if named:
        return named
    labelled = any(key in text for key in ('"category_id"', '"categories"', '"segmentation"'))
    return "shapes" if '"file_name"' in text and labelled else None


def is_stuff(path: Path) -> bool:
    """Whether COCO calls a file of stuff so."""
    return path.name.startswith("stuff")


def images_of(path: Path) -> str:
    """What the name of a JSON file says of its images: "train2017" of instances_train2017.json."""
    if path.name.endswith(".coco.json"):
        return ""
    return re.sub(rf"^({'|'.join(_NAMES)})_", "", path.stem)


def split_of_json(path: Path, root: Path) -> str:
    """The split that the name of a JSON file says, or that of its folder; `UNDIVIDED` if none does."""
    images = images_of(path)
    parts = re.findall(r"[A-Za-z]+", images)
    words = [re.sub(r"\d+$", "", images), *parts[:1], *parts[-1:]]
    if path.parent not in (root, root / "annotations"):
        words.append(path.parent.name)
    return next((split for word in words if (split := split_name(word)) != UNDIVIDED), UNDIVIDED)
