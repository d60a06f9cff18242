"""Label Studio: the export of a project as JSON, with its images below the same folder.

Of the annotations of a task, one is read: the newest by its time of creation, but none that was skipped
(cancelled), and rather one that is marked as ground truth. Regions that overlap are drawn in the order of the
file. Brush masks are read from the JSON file, or from the pictures of the brush export where the file has
none; see `painted` for which values count. The classes are the labels that occur, sorted, or in the order of
classes.txt in the root.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from difnet.data.errors import VOID, DataError, listed, raise_all
from difnet.data.exports.classes import (
    blank_note,
    check_classes,
    class_order,
    keep_blank_images,
    with_uncovered,
)
from difnet.data.exports.export import Export, refuse_unused, split_name, split_of
from difnet.data.exports.parsing.label_studio_files import BRUSH_PICTURE, BrushPictures, Images, address_of
from difnet.data.exports.parsing.label_studio_regions import (
    Annotation,
    Region,
    compact,
    read_regions,
    shape_of,
)
from difnet.data.exports.shapes import draw
from difnet.data.files.disk import IMAGE_SUFFIXES, QUARTER_TURNS, find_files
from difnet.data.files.json_files import ends_of, member, read_json, some_json_files
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import Item, Label, LabelMap, Picture
from difnet.data.options import Reading

_TOOL = "Label Studio's JSON export"


@dataclass(frozen=True)
class LabelStudioLabel(Label):
    """The regions of an image.

    Attributes:
        path: the JSON file.
        regions: the regions, in the order in which they are drawn.
        size: (height, width) of the image in Label Studio.
        indices: the index of each class, shared by all labels.
        start: the index of pixels that no region covers, or 255 for void.
    """

    path: Path
    regions: tuple[Region, ...]
    size: tuple[int, int]
    indices: Mapping[str, int]
    start: int

    @property
    def files(self) -> tuple[Path, ...]:
        return self.path, *(it.content for it in self.regions if isinstance(it.content, Path))

    def read(self, picture: Picture) -> LabelMap:
        if self.size != picture.size:
            raise _other_size(self, picture)
        shapes = [shape_of(region, self.indices[region.label], self.size) for region in self.regions]
        return LabelMap(draw(shapes, self.size, self.start))


def recognise(root: Path) -> bool:
    """Whether one of a few JSON files below `root` is a project's export, or `root` holds its masks."""
    if any(_is_project(path) or _is_short(path) for path in some_json_files(root)):
        return True
    return any(map(BRUSH_PICTURE.fullmatch, os.listdir(root)))


def _is_project(path: Path) -> bool:
    """Whether a file begins like a list of tasks with annotations."""
    text = ends_of(path)
    members = '"annotations"' in text and ('"data"' in text or '"result"' in text)
    return members and bool(re.match(r"\[\s*\{", text))


def _age(annotation: dict[str, Any]) -> tuple[bool, str]:
    """A key by which the annotation that is read is the last one."""
    return annotation.get("ground_truth") is True, str(annotation.get("created_at", ""))


def _is_short(path: Path) -> bool:
    """Whether a file is the shorter export, JSON-MIN."""
    text = ends_of(path)
    return bool(re.match(r"\[\s*\{", text)) and '"annotation_id"' in text and '"annotator"' in text


class _Task(NamedTuple):
    """A task with its image, and what was drawn on it; None if nobody annotated the image."""

    path: Path
    image: Path
    annotation: Annotation | None


class _Project:
    """The tasks of all exports in a folder, and what is to say about them."""

    def __init__(self, root: Path):
        files, _ = find_files(root, (*IMAGE_SUFFIXES, ".json", ".npy"))
        masks = {path for path in files if BRUSH_PICTURE.fullmatch(path.name)}
        self.pictures = BrushPictures(masks)
        self.image_paths = [
            path for path in files if path.suffix.lower() not in (".json", ".npy") and path not in masks
        ]
        self.images = Images(self.image_paths, root)
        self.tasks: list[_Task] = []
        self.errors: list[str] = []
        self.skipped: Counter[str] = Counter()
        self.cancelled = self.choices = 0
        self.cancelled_images: set[Path] = set()
        self.others: list[Path] = []
        short: list[Path] = []
        projects = 0
        for path in (it for it in files if it.suffix.lower() == ".json"):
            if _is_project(path):
                projects += 1
                self._read(path)
            else:
                (short if _is_short(path) else self.others).append(path)
        if not projects:
            found = f"{short[0]} (JSON-MIN)" if short else "masks, which do not name their image"
            raise DataError(
                f"{root} holds no JSON export of Label Studio, but {found}; export the project as JSON too, "
                "and put that file and the images there"
            )
        self.others += short

    def _read(self, path: Path) -> None:
        try:
            tasks = read_json(path, compact)
            for number, task in enumerate(tasks if isinstance(tasks, list) else [], start=1):
                self._add(path, task, number)
        except DataError as error:
            self.errors.append(str(error))

    def _add(self, path: Path, task: Any, number: int) -> None:
        try:
            name = task.get("id", number) if isinstance(task, dict) else number
            where = f"{path}, task {name}"
            annotations = member(task, "annotations", list, where)
            image = self.images.find(address_of(member(task, "data", dict, where), where), where)
            if not annotations:
                self.tasks.append(_Task(path, image, None))
                return
            for annotation in annotations:
                member(annotation, "result", list, where)
            kept = [it for it in annotations if not it.get("was_cancelled")]
            if not kept:
                self.cancelled += 1
                self.cancelled_images.add(image)
                return
            self.choices += len(kept) > 1
            newest = sorted(kept, key=_age)[-1]

            def picture(control: str, label: str, count: int) -> Path | None:
                return self.pictures.find(name, newest.get("id"), control, label, count)

            drawn = read_regions(newest["result"], where, picture)
            self.skipped += drawn.skipped
            self.tasks.append(_Task(path, image, drawn))
        except DataError as error:
            self.errors.append(str(error))

    def notes(self, root: Path) -> list[str]:
        """What the user should know, one sentence each."""
        notes = []
        if self.cancelled:
            notes.append(f"{self.cancelled} task(s) that were skipped in Label Studio are left out")
        if self.choices:
            notes.append(
                f"{self.choices} tasks have several annotations: the newest (or newest ground truth) counts"
            )
        if self.skipped:
            kinds = listed([f"{kind} ({count})" for kind, count in sorted(self.skipped.items())])
            notes.append(f"results that cover no area are not read: {kinds}")
        if self.images.strayed:
            notes.append(
                f"{len(self.images.strayed)} task(s) name an image of another folder, and the one of that "
                f"name is taken: {listed(self.images.strayed)}"
            )
        if self.others:
            shown = listed([str(path.relative_to(root)) for path in self.others])
            notes.append(f"{len(self.others)} JSON file(s) are not those of Label Studio's projects: {shown}")
        if count := self.pictures.unused():
            notes.append(
                f"{count} file(s) of the brush export are not read: the JSON file holds the masks that count"
            )
        return notes


def read(root: Path, reading: Reading) -> Export:
    """Read the tasks of the JSON exports below `root`.

    A split is named by the first folder of the image's path, that of the JSON file, or the file's own name.

    Raises:
        DataError: a file cannot be used, an image is missing, or images have no annotation.
        ValueError: an option is given that changes nothing here.
    """
    refuse_unused(reading, ("unannotated", "unlabelled"), _TOOL)
    project = _Project(root)
    owners: dict[Path, Path] = {}
    for task in project.tasks:
        if task.image in owners:
            project.errors.append(
                f"{task.path} annotates {task.image}, which another task of {owners[task.image]} annotates "
                "too; keep the newest export, or one of the tasks"
            )
        owners[task.image] = task.path
    raise_all(project.errors, f"Label Studio's export in {root}")
    named = owners.keys() | project.cancelled_images
    lone = [path for path in project.image_paths if path not in named]
    blank, pointed = list(lone), []
    figures: set[str] = set()
    found: set[str] = set()
    for task in project.tasks:
        if task.annotation is None or not (task.annotation.regions or task.annotation.skipped):
            blank.append(task.image)
        elif not task.annotation.regions:
            pointed.append(task.image)
            figures.update(task.annotation.skipped)
        else:
            found.update(region.label for region in task.annotation.regions)
    blank_names, pointed_names = (
        [str(path.relative_to(root)) for path in sorted(paths)] for paths in (blank, pointed)
    )
    shown = f"results of the kind {listed(sorted(figures))}"
    kept = keep_blank_images(blank_names, reading, str(root), pointed_names, shown)
    classes = with_uncovered(class_order(found, root), reading, bool(blank or pointed))
    check_classes(classes.names, root)
    indices = {name: index for index, name in enumerate(classes.names)}
    splits: dict[str, list[Item]] = {}
    seen: dict[str, Path] = {}
    rest = [_Task(it, it, None) for it in lone]
    for path, image, annotation in sorted([*project.tasks, *rest], key=lambda task: task.image):
        below = image.relative_to(root)
        label: Label = ConstantLabel(classes.blank)
        if annotation is not None and annotation.size is not None:
            label = LabelStudioLabel(path, annotation.regions, annotation.size, indices, classes.start)
        elif not kept:
            continue
        name = below.with_suffix("").as_posix()
        if name in seen:
            raise DataError(f"{seen[name]} and {image} share the name {name!r}; rename one of them")
        seen[name] = image
        split = split_of(below) or split_of(path.relative_to(root)) or split_name(path.stem)
        splits.setdefault(split, []).append(Item(name, image, label))
    void = "pixels that no region covers" if classes.start == VOID else "no number"
    notes = [*project.notes(root), *blank_note(blank_names, kept, pointed_names, shown)]
    return Export(_TOOL, classes.names, splits, void_text=void, notes=notes)


def _other_size(label: LabelStudioLabel, picture: Picture) -> DataError:
    """Say why the size of an image is not the one that it had in Label Studio."""
    (height, width), turn = picture.size, picture.orientation
    if label.size != picture.size[::-1]:
        remedy = "put the image there that was annotated"
    elif turn in QUARTER_TURNS:
        remedy = (
            "the regions were drawn on the stored pixels, before the turn by the EXIF tag (Orientation "
            f"{turn}): remove the tag from the image"
        )
    else:
        remedy = (
            "turned by 90 degrees it would fit, so it has probably lost the EXIF tag by which it was turned: "
            "turn the image as it was shown there"
        )
    return DataError(
        f"{label.regions[0].where} was drawn on an image of {label.size[1]}x{label.size[0]} pixels, and "
        f"{picture.path} is {width}x{height} (after EXIF rotation); {remedy}"
    )
