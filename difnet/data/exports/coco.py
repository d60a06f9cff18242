"""Reads COCO's JSON of instances or stuff, which CVAT, Roboflow, Label Studio and others write too.

A JSON file lists images, categories, and annotations with a category and a segmentation: polygons, or run
lengths (RLE) as numbers or as a string. These layouts are found:

    annotations/instances_train2017.json   with train2017/ or images/train2017/ (COCO; in CVAT "default")
    train/_annotations.coco.json           with the images beside it (Roboflow)
    result.json or labels.json             with images/ or data/ beside it (Label Studio, FiftyOne)

A pixel in several annotations belongs to the smallest of them, and to the later one of two equal ones. The
format has no drawing order: in COCO's own files, a tie comes before or after the person who wears it.

Annotations with ``iscrowd`` 1 are drawn like all others. The flag says that instances are not told apart,
which does not matter here, and CVAT gives it to every mask that was painted with a brush.

COCO-Stuff also has PNG files ("stuffthingmaps"), which hold the category's id less one, and 255 for void.
Their numbers are class indices: read them with ``--dataset folder`` and a classes.txt of 182 lines.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from difnet.data.errors import VOID, DataError
from difnet.data.exports.classes import blank_note, keep_blank_images, unread_list
from difnet.data.exports.export import Export, refuse_unused
from difnet.data.exports.parsing.coco_files import (
    CocoFile,
    Id,
    class_numbers,
    id_of,
    merge_names,
    open_all,
)
from difnet.data.exports.parsing.coco_search import find_json
from difnet.data.exports.parsing.coco_shapes import Annotation, CocoLabel, Runs, pack
from difnet.data.files.json_files import member, shown
from difnet.data.items.index import ConstantLabel
from difnet.data.items.item import Item
from difnet.data.options import Reading

_TOOL = "COCO annotations"


def recognise(root: Path) -> bool:
    """Whether a JSON file of annotated shapes is found, and none of panoptic segments."""
    kinds = find_json(root).values()
    return "shapes" in kinds and "panoptic" not in kinds


def read(root: Path, reading: Reading) -> Export:
    """Read the JSON files of an export; segmentations are decoded when a label is read.

    Classes are the categories in the order of their ids. Pixels outside all annotations are a class
    "background", which comes first, or void (`Reading.unannotated`).

    Raises:
        DataError: a JSON file cannot be used, or images are missing.
        ValueError: an option is given that changes nothing here.
    """
    refuse_unused(reading, ("unannotated", "unlabelled"), _TOOL)
    files, parsed, notes = open_all(root, "shapes", _annotations, pack)
    names, more = _categories(files, parsed)
    notes += more
    blank: list[str] = []
    boxed: list[str] = []
    for file, found in zip(files, parsed, strict=True):
        for key, image in file.images.items():
            if key not in found.drawn:
                (boxed if key in found.boxes else blank).append(image.path)
        if found.boxes:
            notes.append(
                f"{file.path}: {found.boxes.total()} annotation(s) are boxes without a segmentation, and not "
                "drawn"
            )
    kept = keep_blank_images(blank, reading, str(files[0].path.parent), boxed, "boxes")
    notes += blank_note(blank, kept, boxed, "boxes")
    classes, index_of = class_numbers(names, reading, bool(blank or boxed), files[0].path)
    notes += unread_list(root, classes.names, "the ids of the categories")
    splits: dict[str, list[Item]] = {}
    for file, found in zip(files, parsed, strict=True):
        for key, image in file.images.items():
            items = splits.setdefault(image.split, [])
            if key in found.drawn:
                shapes = tuple(it._replace(class_index=index_of[it.class_index]) for it in found.drawn[key])
                label = CocoLabel(file.path, key, image.size, shapes, classes.start)
                items.append(Item(image.name, image.path, label))
            elif kept:
                items.append(Item(image.name, image.path, ConstantLabel(classes.blank)))
    for items in splits.values():
        items.sort(key=lambda item: item.name)
    void_text = "what no annotation covers" if classes.start == VOID else "nothing"
    return Export(_TOOL, classes.names, splits, void_text=void_text, notes=notes)


class _Parsed(NamedTuple):
    """The annotations of a file.

    Attributes:
        drawn: those of each image that have a segmentation. Their class index is still the category's id.
        boxes: the number of those of each image that have none.
        used: the ids of the categories of all of them.
    """

    drawn: dict[Id, list[Annotation]]
    boxes: Counter[Id]
    used: set[int]


def _categories(files: Sequence[CocoFile], parsed: Sequence[_Parsed]) -> tuple[Mapping[int, str], list[str]]:
    """Return the name of each category, sorted by id, and what the user should know about them.

    Roboflow puts a category first that no annotation has, and of which the others are kinds: it is left out.
    """
    names = merge_names(files)
    parents = {category.parent for file in files for category in file.categories.values()}
    if len(names) > 1 and names.get(0) in parents and not any(0 in found.used for found in parsed):
        return names, [
            f"category 0 ({names.pop(0)}) groups the others and has no annotation, so it is no class"
        ]
    return names, []


def _annotations(file: CocoFile) -> _Parsed:
    """Return the annotations of a file.

    Raises:
        DataError: an annotation has another form, or none has a segmentation.
    """
    found = _Parsed({}, Counter(), set())
    for number, entry in enumerate(file.annotations):
        where = f"{file.path}: annotation number {number}"
        if isinstance(entry, dict) and "id" in entry:
            where = f"{file.path}: annotation {shown(entry['id'])}"
        category, image = member(entry, "category_id", int, where), id_of(entry, "image_id", where)
        for what, known in (("image", image in file.images), ("category", category in file.categories)):
            if not known:
                raise DataError(
                    f"{where} has {what}_id = {shown(entry[f'{what}_id'])}, which the file does not list; "
                    "export it again"
                )
        found.used.add(category)
        segmentation = entry.get("segmentation")
        if not segmentation:
            found.boxes[image] += 1
            continue
        if not isinstance(segmentation, (tuple, Runs)):
            raise DataError(
                f"{where} has the segmentation {shown(segmentation)}, expected a list of polygons [x, y, x, "
                "y, ...], or counts and size of run lengths; export it again"
            )
        key = id_of(entry, "id", where) if "id" in entry else number
        found.drawn.setdefault(image, []).append(Annotation(key, category, segmentation))
    if found.boxes and not found.drawn:
        raise DataError(
            f"{file.path}: its {found.boxes.total()} annotation(s) are boxes without a segmentation; "
            "annotate polygons or masks, and export them"
        )
    return found
