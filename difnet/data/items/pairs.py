"""Pairs image files and label files by their names."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from difnet.data.errors import DataError, listed, raise_all
from difnet.data.files.disk import IMAGE_SUFFIXES, list_files
from difnet.data.items.class_list import appearance


class Found(NamedTuple):
    """The files below a folder, by their path there without its ending, with ``/`` between folders.

    Attributes:
        files: those that were looked for.
        others: all others.
        notes: what the user should know, one sentence each.
    """

    files: dict[str, str]
    others: dict[str, str]
    notes: list[str]


def find_by_name(folder: Path, suffixes: Sequence[str]) -> Found:
    """Find the files below `folder` that end in one of `suffixes`.

    Raises:
        DataError: two of them differ in their ending only, or the folder cannot be listed.
    """
    files, others = list_files(folder, suffixes)
    others.sort()
    start = len(os.path.join(folder, ""))

    def name_of(path: str) -> str:
        return os.path.splitext(path[start:])[0].replace(os.sep, "/")

    found: dict[str, str] = {}
    for path in files:
        name = name_of(path)
        if name in found:
            raise DataError(f"{found[name]} and {path} share the name {name!r}; keep one of them")
        found[name] = path
    notes = []
    if others:
        notes.append(
            f"not read in {folder}: {listed([path[start:] for path in others])} "
            f"(only {', '.join(suffixes)} are read, and linked folders unless they lead back)"
        )
    return Found(found, {name_of(path): path for path in others}, notes)


def _longer_names(images: Collection[str], labels: Collection[str]) -> dict[str, str]:
    """Find the label whose name is that of an image and an ending such as _mask, by the name of the image."""
    found = {}
    for label in labels:
        stem, _, _ = label.rpartition("_")
        if stem in images:
            found[stem] = label
    return found


def pair(
    images: Found, labels: Found, image_folder: Path, label_folder: Path, where: str
) -> list[tuple[str, str, str]]:
    """Return name, image and label of each pair, sorted by name.

    Raises:
        DataError: there is no image, or an image or a label is alone.
    """
    if not images.files:
        raise DataError(
            f"{image_folder} holds no image; put files ending in {', '.join(IMAGE_SUFFIXES)} there"
        )
    lone_images = images.files.keys() - labels.files.keys()
    lone_labels = labels.files.keys() - images.files.keys()
    near = {appearance(name).casefold(): name for name in lone_labels}
    twins = {name: near[look] for name in lone_images if (look := appearance(name).casefold()) in near}
    longer = _longer_names(lone_images, lone_labels)
    errors = [
        f"image {images.files[name]} has no label; "
        + (
            f"{labels.files[twins[name]]} has nearly the same name: {twins[name]!a} differs from {name!a} in "
            "case, spaces or the Unicode form; rename one of them"
            if name in twins
            else f"rename {labels.files[longer[name]]} to {name}.png"
            if name in longer
            else f"save {labels.others[name]} again from its source as PNG"
            if name in labels.others
            else f"add {label_folder / name}.png or remove the image"
        )
        for name in sorted(lone_images)
    ]
    errors += [
        f"label {labels.files[name]} has no image; "
        + (
            f"save {images.others[name]} as PNG or JPEG"
            if name in images.others
            else f"add {image_folder / name}.jpg or remove the label"
        )
        for name in sorted(lone_labels - set(twins.values()) - set(longer.values()))
    ]
    raise_all(errors, where)
    return [(name, images.files[name], labels.files[name]) for name in sorted(images.files)]
