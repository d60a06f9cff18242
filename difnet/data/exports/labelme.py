"""labelme: a JSON file for each image, as the program saves them.

Where shapes overlap, the later one in the file is seen. The class "__ignore__" means void, as in labelme's
own converter to the format of VOC; "_background_" is the background. The files name the classes but do not
number them. Their order is that of labels.txt (the file that labelme takes as --labels) or classes.txt in the
root, else that of the sorted names of all files.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from difnet.data.errors import VOID, DataError, listed, raise_all
from difnet.data.exports.classes import (
    blank_note,
    check_classes,
    class_order,
    keep_blank_images,
    with_uncovered,
)
from difnet.data.exports.export import Export, refuse_unused, split_of
from difnet.data.exports.parsing.labelme_shapes import Annotation, is_labelme, read_annotation, shape_of
from difnet.data.exports.shapes import draw
from difnet.data.files.disk import IMAGE_SUFFIXES, QUARTER_TURNS, list_files
from difnet.data.files.json_files import ends_of, read_json, some_json_files
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import FilePath, Item, Label, LabelMap, Picture
from difnet.data.options import Reading

IGNORED = "__ignore__"
_TOOL = "labelme's JSON files"
_SMALL = 1 << 20  # bytes


class Numbers:
    """The index of each class, shared by the labels of an export."""

    def __init__(self, classes: Iterable[str]):
        self.indices = {name: index for index, name in enumerate(classes)} | {IGNORED: VOID}


@dataclass(frozen=True)
class LabelmeLabel(Label):
    """The shapes in a JSON file.

    Attributes:
        path: the file.
        numbers: the index of each class.
        start: the index of pixels that no shape covers, or 255 for void.
    """

    path: str
    numbers: Numbers
    start: int

    @property
    def files(self) -> tuple[FilePath, ...]:
        return (self.path,)

    def read(self, picture: Picture) -> LabelMap:
        annotation = read_annotation(self.path)
        if annotation is None:
            raise DataError(f"{self.path} is no longer a file of labelme; restore it")
        if annotation.size is not None and annotation.size != picture.size:
            raise _other_size(annotation, annotation.size, picture)
        shapes = []
        for number, (shape, name) in enumerate(
            zip(annotation.shapes, annotation.labels, strict=True), start=1
        ):
            where = f"{self.path}, shape {number}"
            if name not in self.numbers.indices:
                raise DataError(f"{where} has the new class {name!r}; start again to give it a number")
            shapes += shape_of(shape, self.numbers.indices[name], where)
        return LabelMap(draw(shapes, picture.size, self.start))


def recognise(root: Path) -> bool:
    """Whether one of a few JSON files below `root` is labelme's."""
    return any(map(_looks_like_labelme, some_json_files(root)))


def _looks_like_labelme(path: Path) -> bool:
    text = ends_of(path)
    members = ("imagePath", "imageData", "imageHeight")
    if not (text.startswith("{") and '"shapes"' in text and any(f'"{name}"' in text for name in members)):
        return False
    try:
        if path.stat().st_size <= _SMALL:
            return is_labelme(read_json(path))
    except (OSError, DataError):
        pass
    return True  # a large file, or one that was cut, which `read` will report


def read(root: Path, reading: Reading) -> Export:
    """Read which image and classes each JSON file below `root` names.

    Images in folders that the former command labelme_json_to_dataset wrote are not counted. The first folder
    of a path says the split if it is named train, val or test.

    Raises:
        DataError: a file cannot be used, an image is missing, or images have no annotation.
        ValueError: an option is given that changes nothing here.
    """
    refuse_unused(reading, ("unannotated", "unlabelled"), _TOOL)
    files = sorted(list_files(root, (*IMAGE_SUFFIXES, ".json"))[0])
    json_files = [path for path in files if _is_json(path)]
    made = {os.path.dirname(path) for path in files if os.path.basename(path) == "label.png"}
    images = _Images([it for it in files if not _is_json(it) and os.path.dirname(it) not in made], root)
    annotations, others, errors = _annotations(json_files)
    image_of: dict[str, str] = {}
    for annotation in annotations:
        try:
            image_of[annotation.path] = images.take(annotation)
        except DataError as error:
            errors.append(str(error))
    raise_all(errors, f"labelme files in {root}")
    lone = images.not_taken()
    blank = [*lone, *(image_of[it.path] for it in annotations if not it.shapes)]
    blank_names = sorted(os.path.relpath(path, root) for path in blank)
    kept = keep_blank_images(blank_names, reading, str(root))
    found = {name for annotation in annotations for name in annotation.labels}
    names = class_order(found, root, ("labels.txt", "classes.txt"), (IGNORED,))
    classes = with_uncovered(names, reading, bool(blank))
    check_classes(classes.names, root)
    numbers = Numbers(classes.names)
    labelled: list[tuple[str, str, Label]] = []
    for it in annotations:
        if it.shapes or kept:
            label = LabelmeLabel(it.path, numbers, classes.start if it.shapes else classes.blank)
            labelled.append((image_of[it.path], it.path, label))
    labelled += [(image, image, ConstantLabel(classes.blank)) for image in lone if kept]
    notes = blank_note(blank_names, kept)
    start = len(os.path.join(root, ""))
    if others:
        shown = listed([path[start:] for path in others])
        notes.append(f"{len(others)} JSON file(s) in {root} are not labelme's and are not read: {shown}")
    if images.moved:
        shown = listed([path[start:] for path in images.moved])
        notes.append(
            f"{len(images.moved)} file(s) name an image that is not there and are paired with the one beside "
            f"them ({shown})"
        )
    void = [f"the class {IGNORED}"] if IGNORED in found else []
    void += ["pixels that no shape covers"] if classes.start == VOID else []
    splits = _splits(root, labelled)
    return Export(_TOOL, classes.names, splits, void_text=" and ".join(void) or "no number", notes=notes)


def _is_json(path: str) -> bool:
    return path.lower().endswith(".json")


def _annotations(paths: list[str]) -> tuple[list[Annotation], list[str], list[str]]:
    """Read JSON files: labelme's, without their shapes' points; the paths of the others; errors."""
    annotations, others, errors = [], [], []
    for path in paths:
        try:
            annotation = read_annotation(path)
        except DataError as error:
            errors.append(str(error))
            continue
        if annotation is None:
            others.append(path)
        else:  # points and masks may be large, and `LabelmeLabel` reads them again
            annotations.append(annotation._replace(shapes=[None] * len(annotation.shapes)))
    return annotations, others, errors


class _Images:
    """The images of an export, each of which one file annotates.

    Paths are texts: a hundred thousand objects of pathlib, and what they are asked, take minutes.

    Attributes:
        moved: the files whose image is not where they say, but beside them.
    """

    def __init__(self, paths: list[str], root: Path):
        self.moved: list[str] = []
        self._root, self._start = os.path.abspath(root), len(os.path.join(root, ""))
        self._files = {self._absolute(path): path for path in paths}
        self._by_stem: dict[str, list[str]] = {}
        for path in paths:
            self._by_stem.setdefault(os.path.splitext(path)[0], []).append(path)
        self._owners: dict[str, str] = {}

    def _absolute(self, path: str) -> str:
        return os.path.join(self._root, path[self._start :])

    def take(self, annotation: Annotation) -> str:
        """Return the image of a file.

        Raises:
            DataError: there is none, or another file has taken it.
        """
        image = self._find(annotation)
        owner = self._owners.setdefault(image, annotation.path)
        if owner != annotation.path:
            raise DataError(f"{annotation.path} and {owner} both annotate {image}; keep one of them")
        return image

    def not_taken(self) -> list[str]:
        return sorted(path for path in self._files.values() if path not in self._owners)

    def _find(self, annotation: Annotation) -> str:
        path = annotation.path
        named = os.path.normpath(os.path.join(os.path.dirname(self._absolute(path)), annotation.image_path))
        if named in self._files:
            return self._files[named]
        name = os.path.basename(named)
        is_image = name.lower().endswith(IMAGE_SUFFIXES)  # some files name themselves
        if is_image and os.path.isfile(named):
            return named
        beside = os.path.join(os.path.dirname(path), name)
        found = self._files.get(self._absolute(beside))
        stem = os.path.splitext(path)[0]
        twins = [found] if found is not None else self._by_stem.get(stem, [])
        if len(twins) == 1:
            self.moved.append(path)
            return twins[0]
        remedy = (
            "save the picture that its imageData holds (in base64) as "
            f"{beside if is_image else f'{stem}.jpg'}"
            if annotation.has_data
            else "put it there or beside the JSON file"
        )
        fault = "is missing" if is_image else "is no image"
        raise DataError(f"{path} annotates the image {named}, which {fault}; {remedy}")


def _splits(root: Path, labelled: list[tuple[str, str, Label]]) -> dict[str, list[Item]]:
    """Sort (image, annotation, label) into splits, by name.

    Raises:
        DataError: two images have one name.
    """
    prefix = os.path.join(root, "")
    splits: dict[str, list[Item]] = {}
    seen: dict[str, str] = {}
    errors = []
    for image, annotation, label in labelled:
        # An image may lie outside the root, and then the file that annotates it gives the name.
        inside = (image if image.startswith(prefix) else annotation)[len(prefix) :]
        name = os.path.splitext(inside)[0].replace(os.sep, "/")
        other = seen.setdefault(name, image)
        if other != image:
            errors.append(
                f"{other} and {image} share the name {name!r}; rename one of them and its JSON file"
            )
        split = _split_of(os.path.dirname(inside)) or _split_of(os.path.dirname(annotation[len(prefix) :]))
        splits.setdefault(split, []).append(Item(name, image, label))
    raise_all(errors, f"labelme files in {root}")
    return {split: sorted(items, key=lambda item: item.name) for split, items in splits.items()}


@lru_cache(maxsize=1024)
def _split_of(folder: str) -> str:
    """The split of the files in a folder below the root."""
    return split_of(Path(folder, "image"))


def _other_size(annotation: Annotation, size: tuple[int, int], picture: Picture) -> DataError:
    """Say why the size of an image is not the one that its annotation gives."""
    (height, width), turn = picture.size, picture.orientation
    if size != picture.size[::-1]:
        remedy = "put back the image that was annotated, or annotate this one"
    elif turn in QUARTER_TURNS:
        remedy = (
            "the shapes were drawn on the stored pixels, before the turn by the EXIF tag (Orientation "
            f"{turn}) that labelme itself applies: remove the tag from the image, or draw them again"
        )
    else:
        remedy = (
            "turned by 90 degrees it would fit, so it has probably lost the EXIF tag by which labelme turned "
            "it: turn the image as it was shown there"
        )
    return DataError(
        f"{annotation.path} says that its image is {size[1]}x{size[0]}, and {picture.path} is "
        f"{width}x{height} (after EXIF rotation); {remedy}"
    )
