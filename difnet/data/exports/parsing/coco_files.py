"""Finds and opens JSON files in COCO's layout: their images, categories and annotations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from difnet.data.errors import DataError, listed
from difnet.data.exports.classes import Classes, check_classes, with_uncovered
from difnet.data.exports.export import UNDIVIDED, split_name
from difnet.data.files.json_files import ends_of, member, read_json, shown
from difnet.data.options import Reading

Id = int | str
"""What a JSON file calls an image or an annotation."""

_NAMES = {"instances": "shapes", "stuff": "shapes", "panoptic": "panoptic"}
"""Beginnings of names of JSON files, and what these hold."""

_OTHERS = ("captions", "person_keypoints", "image_info")
"""Beginnings of names of COCO's JSON files that label no pixels of several classes."""

_MANY = 50
"""With more JSON files in a folder, only names are looked at: tools that write one file an image do this."""


class Category(NamedTuple):
    """A class, and what it is a kind of ("" if the file does not say)."""

    name: str
    parent: str


class CocoImage(NamedTuple):
    """An image: its file, its name in the split, and (height, width) as the JSON file says."""

    path: Path
    name: str
    size: tuple[int, int]


@dataclass
class CocoFile:
    """What a JSON file holds.

    Attributes:
        path: the JSON file.
        split: "train", "val", "test" or `UNDIVIDED`.
        categories: by id.
        images: by id.
        annotations: as they are stored.
    """

    path: Path
    split: str
    categories: dict[int, Category]
    images: dict[Id, CocoImage]
    annotations: list[dict[str, Any]]


def find_json(root: Path) -> dict[Path, str]:
    """Return the JSON files of an export in `root` with what they hold: "shapes" or "panoptic" segments."""
    folders = [root / "annotations", root]
    if root.is_dir():
        folders += sorted(it for it in root.iterdir() if it.is_dir() and it.name != "annotations")
    found: dict[Path, str] = {}
    for folder in folders:
        paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
        if folder not in folders[:2] and split_name(folder.name) == UNDIVIDED:
            paths = [path for path in paths if path.name.endswith(".coco.json")]
        for path in paths:
            if kind := _kind(path, look_inside=len(paths) <= _MANY):
                found[path] = kind
    return found


def _kind(path: Path, look_inside: bool) -> str | None:
    if path.stem.startswith(_OTHERS):
        return None
    if match := re.match(rf"({'|'.join(_NAMES)})(_|$)", path.stem):
        return _NAMES[match[1]]
    if path.name.endswith(".coco.json"):
        return "shapes"
    text = ends_of(path) if look_inside else ""
    if not text.startswith("{"):
        return None
    if '"segments_info"' in text:
        return "panoptic"
    images = re.search(r'"images"\s*:\s*\[', text) and '"file_name"' in text
    annotations = re.search(r'"annotations"\s*:\s*\[', text) and '"category_id"' in text
    return "shapes" if images and (annotations or '"categories"' in text) else None


def open_all(root: Path, kind: str) -> tuple[list[CocoFile], list[str]]:
    """Open the JSON files of a kind; return them with what the user should know.

    Where instances and stuff of the same images are there, instances are read.

    Raises:
        DataError: a file cannot be used, or images are missing.
    """
    paths = [path for path, it in find_json(root).items() if it == kind]
    stuff = [path for path in paths if path.stem.startswith("stuff")]
    notes = []
    if 0 < len(stuff) < len(paths):
        paths = [path for path in paths if path not in stuff]
        notes.append(
            f"{listed([str(path) for path in stuff])} are not read, because files of instances are beside "
            "them; move these away to learn the stuff"
        )
    splits = {path: UNDIVIDED if len(paths) == 1 else _split_of(path, root) for path in paths}
    files = []
    for path, split in splits.items():
        alone = list(splits.values()).count(split) == 1
        files.append(_open(path, root, split, "" if alone else f"{_token(path) or path.parent.name}/"))
    return files, notes


def _token(path: Path) -> str:
    """What the name of a JSON file says of its images: "train2017" of instances_train2017.json."""
    if path.name.endswith(".coco.json"):
        return ""
    return re.sub(rf"^({'|'.join(_NAMES)})_", "", path.stem)


def _split_of(path: Path, root: Path) -> str:
    token = _token(path)
    parts = re.findall(r"[A-Za-z]+", token)
    words = [re.sub(r"\d+$", "", token), *parts[:1], *parts[-1:]]
    if path.parent not in (root, root / "annotations"):
        words.append(path.parent.name)
    return next((split for word in words if (split := split_name(word)) != UNDIVIDED), UNDIVIDED)


def _open(path: Path, root: Path, split: str, prefix: str) -> CocoFile:
    content = read_json(path)
    categories: dict[int, Category] = {}
    for number, entry in enumerate(member(content, "categories", list, str(path))):
        where = f"{path}, category number {number}"
        category = member(entry, "id", int, where)
        if category in categories:
            raise DataError(f"{path} has the category id {category} twice; export it again")
        parent = entry.get("supercategory")
        name = member(entry, "name", str, where).strip()
        categories[category] = Category(name, parent if isinstance(parent, str) else "")
    images = _images(path, root, member(content, "images", list, str(path)), prefix)
    return CocoFile(path, split, categories, images, member(content, "annotations", list, str(path)))


def _images(path: Path, root: Path, entries: Sequence[Any], prefix: str) -> dict[Id, CocoImage]:
    """Find the files of images.

    Raises:
        DataError: files are missing, or images share an id or a name.
    """
    names = []
    for number, entry in enumerate(entries):
        names.append(member(entry, "file_name", str, f"{path}, image number {number}").replace("\\", "/"))
    folder, looked_in = _image_folder(path, root, names)
    images: dict[Id, CocoImage] = {}
    taken: dict[str, str] = {}
    missing = []
    for name, entry in zip(names, entries, strict=True):
        file = folder / name
        if not file.is_file():
            missing.append(name)
        stem = "/".join(part for part in PurePosixPath(name).with_suffix("").parts if part not in ("..", "/"))
        key = id_of(entry, "id", f"{path}, image {name}")
        if stem in taken or key in images:
            twice = f"id {shown(key)}" if key in images else f"name {stem!r}"
            other = taken.get(stem, images[key].path.name if key in images else "")
            raise DataError(f"{path} gives the images {other} and {name} the same {twice}; keep one of them")
        taken[stem] = name
        height, width = (member(entry, it, float, f"{path}, image {name}") for it in ("height", "width"))
        if not (height >= 1 and width >= 1 and height == int(height) and width == int(width)):
            raise DataError(f"{path}, image {name} has the size {width}x{height}; export it again")
        images[key] = CocoImage(file, prefix + stem, (int(height), int(width)))
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} images are missing ({listed(missing)}); export the "
            f"images too, and put them into one of {listed([str(it) for it in looked_in])}"
        )
    return images


def _image_folder(path: Path, root: Path, names: Sequence[str]) -> tuple[Path, list[Path]]:
    """Return the folder that holds most of a few images, and all that were looked at."""
    token, parent = _token(path), path.parent
    folders = [root / "images" / token, root / token] if token else []
    if parent != root / "annotations":
        folders.append(parent)
    folders += [parent / "images", parent / "data", root / "images", root]
    folders = list(dict.fromkeys(folders))
    some = names[:: max(1, len(names) // 16)]
    counts = [sum((folder / name).is_file() for name in some) for folder in folders]
    return folders[counts.index(max(counts))], folders


def id_of(entry: Mapping[str, Any], key: str, where: str) -> Id:
    """Return an id, which is a number or a text.

    Raises:
        DataError: it is missing, or something else.
    """
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataError(f"{where} has {key} = {shown(value)}, expected a number or a text; export it again")
    return value


def merge_names(files: Sequence[CocoFile]) -> dict[int, str]:
    """Return the name of each category, sorted by id.

    Raises:
        DataError: two files give an id different names.
    """
    names: dict[int, str] = {}
    for file in files:
        for category, (name, _) in file.categories.items():
            if names.setdefault(category, name) != name:
                raise DataError(
                    f"{file.path} calls category {category} {name!r}, and {files[0].path} calls it "
                    f"{names[category]!r}; export both with the same list of classes"
                )
    return dict(sorted(names.items()))


def class_numbers(
    names: Mapping[int, str], reading: Reading, blank_images: bool, source: Path
) -> tuple[Classes, dict[int, int]]:
    """Return the classes, and the class of each category.

    Args:
        names: of the categories, sorted by id.
        reading: says what uncovered pixels are.
        blank_images: whether images without annotation occur.
        source: a JSON file, for messages.

    Raises:
        DataError: names look the same, or there are too few or too many.
    """
    classes = with_uncovered(list(names.values()), reading, blank_images)
    check_classes(classes.names, source)
    first = len(classes.names) - len(names)
    return classes, {category: first + place for place, category in enumerate(names)}
