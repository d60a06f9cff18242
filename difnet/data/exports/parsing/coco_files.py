"""Opens JSON files in COCO's layout: their images, categories and annotations."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from difnet.data.errors import DataError, listed
from difnet.data.exports.classes import Classes, check_classes, with_uncovered
from difnet.data.exports.export import UNDIVIDED, split_of
from difnet.data.exports.parsing.coco_search import find_json, images_of, is_stuff, split_of_json
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.files.json_files import member, read_json, shown
from difnet.data.options import Reading

Id = int | str
"""What a JSON file calls an image or an annotation."""

Parsed = TypeVar("Parsed")


class Category(NamedTuple):
    """A class, and what it is a kind of ("" if the file does not say)."""

    name: str
    parent: str


class CocoImage(NamedTuple):
    """An image: its file, its name in the split, (height, width) as the JSON file says, and its split."""

    path: str
    name: str
    size: tuple[int, int]
    split: str


@dataclass
class CocoFile:
    """What a JSON file holds.

    Attributes:
        path: the JSON file.
        folder: the folder of the images.
        categories: by id.
        images: by id.
        annotations: as they are stored.
    """

    path: Path
    folder: Path
    categories: dict[int, Category]
    images: dict[Id, CocoImage]
    annotations: list[Any]


def open_all(
    root: Path,
    kind: str,
    parse: Callable[[CocoFile], Parsed],
    pack: Callable[[dict[str, Any]], Any] | None = None,
) -> tuple[list[CocoFile], list[Parsed], list[str]]:
    """Open the JSON files of a kind, one after the other.

    Where instances and stuff of the same images are there, instances are read.

    Args:
        root: the folder of the export.
        kind: "shapes" or "panoptic".
        parse: makes of a file what is kept of its annotations.
        pack: may replace each object of JSON as it is read, by one that takes less memory.

    Returns:
        The files, whose annotations have been dropped, what `parse` made of each, and notes for the user.

    Raises:
        DataError: a file cannot be used, or images are missing.
    """
    paths = [path for path, it in find_json(root).items() if it == kind]
    stuff = [path for path in paths if is_stuff(path)]
    notes = []
    if 0 < len(stuff) < len(paths):
        paths = [path for path in paths if path not in stuff]
        notes.append(
            f"{listed([str(path) for path in stuff])} are not read, because files of instances are beside "
            "them; move these away to learn the stuff"
        )
    splits = [UNDIVIDED if len(paths) == 1 else split_of_json(path, root) for path in paths]
    files, parsed = [], []
    for path, split in zip(paths, splits, strict=True):
        # The names of images may say other splits than that of an undivided file.
        alone = len(paths) == 1 or (splits.count(split) == 1 and UNDIVIDED not in splits)
        file = _open(path, root, split, "" if alone else f"{images_of(path) or path.parent.name}/", pack)
        parsed.append(parse(file))
        file.annotations = []
        files.append(file)
    if len({image.split for file in files for image in file.images.values()}) == 1 and not any(splits):
        for file in files:
            file.images = {key: image._replace(split=UNDIVIDED) for key, image in file.images.items()}
    _refuse_copies(files)
    if left := _unlisted(files, root):
        notes.append(f"{len(left)} image(s) are in no list and not used ({listed(left)})")
    return files, parsed, notes


def _open(
    path: Path, root: Path, split: str, prefix: str, pack: Callable[[dict[str, Any]], Any] | None
) -> CocoFile:
    content = read_json(path, pack)
    categories: dict[int, Category] = {}
    for number, entry in enumerate(member(content, "categories", list, str(path))):
        where = f"{path}, category number {number}"
        category = member(entry, "id", int, where)
        if category in categories:
            raise DataError(f"{path} has the category id {category} twice; export it again")
        parent = entry.get("supercategory")
        name = member(entry, "name", str, where).strip()
        categories[category] = Category(name, parent if isinstance(parent, str) else "")
    entries = member(content, "images", list, str(path))
    names = []
    for number, entry in enumerate(entries):
        name = member(entry, "file_name", str, f"{path}, image number {number}").replace("\\", "/")
        if not name.strip("/. "):
            raise DataError(
                f"{path}, image number {number} has file_name = {shown(name)}, which names no file; export "
                "it again"
            )
        names.append(name)
    folder, looked_in = _image_folder(path, root, names)
    images = _images(path, folder, names, entries, split, prefix)
    missing = [
        short_name(name)
        for name, image in zip(names, images.values(), strict=True)
        if not os.path.isfile(image.path)
    ]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} images are missing ({listed(missing)}); export the "
            f"images too, and put them into one of {listed([str(it) for it in looked_in])}, or correct "
            "file_name in the JSON file if they are called otherwise"
        )
    return CocoFile(path, folder, categories, images, member(content, "annotations", list, str(path)))


def _images(
    path: Path, folder: Path, names: Sequence[str], entries: Sequence[Any], split: str, prefix: str
) -> dict[Id, CocoImage]:
    """Return the images in the order of the file.

    Raises:
        DataError: images share an id or a name, or have no size.
    """
    images: dict[Id, CocoImage] = {}
    taken: dict[str, str] = {}
    for name, entry in zip(names, entries, strict=True):
        where = f"{path}, image {short_name(name)}"
        key = id_of(entry, "id", where)
        stem = "/".join(part for part in os.path.splitext(name)[0].split("/") if part not in ("", ".", ".."))
        if stem in taken or key in images:
            twice = f"id {shown(key)}" if key in images else f"name {stem!r}"
            other = taken.get(stem, os.path.basename(images[key].path) if key in images else "")
            raise DataError(
                f"{path} gives the images {short_name(other)} and {short_name(name)} the same {twice}; "
                "keep one of them"
            )
        taken[stem] = name
        height, width = (member(entry, it, float, where) for it in ("height", "width"))
        if not (height >= 1 and width >= 1 and height == int(height) and width == int(width)):
            raise DataError(f"{where} has the size {width}x{height}; export it again")
        named = split or (split_of(Path(stem)) if "/" in stem else UNDIVIDED)
        file = os.path.join(folder, name)
        images[key] = CocoImage(file, prefix + stem, (int(height), int(width)), named)
    return images


def short_name(name: str) -> str:
    """Return a name that JSON holds for a message: cut, and without what UTF-8 cannot hold."""
    name = name.encode("utf-8", "backslashreplace").decode()
    return name if len(name) <= 300 else f"{name[:297]}..."


def _image_folder(path: Path, root: Path, names: Sequence[str]) -> tuple[Path, list[Path]]:
    """Return the folder that holds most of a few images, and all that were looked at."""
    which, parent = images_of(path), path.parent
    folders = [root / "images" / which, root / which] if which else []
    if parent != root / "annotations":
        folders.append(parent)
    folders += [parent / "images", parent / "data", root / "images", root]
    folders = list(dict.fromkeys(folders))
    some = names[:: max(1, len(names) // 16)]
    counts = [sum(os.path.isfile(os.path.join(folder, name)) for name in some) for folder in folders]
    return folders[counts.index(max(counts))], folders


def _refuse_copies(files: Sequence[CocoFile]) -> None:
    """Refuse an image that is listed twice: it would count twice, or be in two splits."""
    owners: dict[str, CocoFile] = {}
    for file in files:
        paths = [os.path.normpath(image.path) for image in file.images.values()]
        for path in paths:
            other = owners.setdefault(path, file)
            if other is not file:
                common = [it for it in paths if owners.get(it) is other]
                raise DataError(
                    f"{other.path} and {file.path} both list {len(common)} image(s) ({listed(common)}); keep "
                    "the newer one of the two files, or leave each image in one of them"
                )


def _unlisted(files: Sequence[CocoFile], root: Path) -> list[str]:
    """Find the images beside those that are listed, and below the folders of these."""
    known = {os.path.normpath(image.path) for file in files for image in file.images.values()}
    deep: set[str] = set()
    flat: set[str] = set()
    for file in files:
        folder = os.path.normpath(file.folder)
        if file.folder != root:
            deep.add(folder)
            continue
        # The root also holds what is no image of the data, such as masks.
        for path in (os.path.normpath(image.path) for image in file.images.values()):
            inner = path[len(folder) + 1 :].split(os.sep) if path.startswith(folder + os.sep) else []
            if len(inner) > 1:
                deep.add(os.path.join(folder, inner[0]))
            else:
                flat.add(os.path.dirname(path))
    segments = {os.path.normpath(file.path.with_suffix("")) for file in files}  # PNGs of panoptic segments
    found: set[str] = set()
    for top in deep | flat:
        for parent, folders, names in os.walk(top):
            kept = [name for name in folders if not name.startswith(".")] if top in deep else []
            folders[:] = [name for name in kept if os.path.join(parent, name) not in segments]
            paths = (
                os.path.join(parent, name)
                for name in names
                if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
            )
            found.update(path for path in paths if path not in known)
    return sorted(found)


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
