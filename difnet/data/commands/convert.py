"""Write what an annotation tool exported as a plain folder:

    python -m difnet.data convert EXPORT --to DIR
    python -m difnet.data convert EXPORT --to DIR --unlabelled background --val-share 0.1

DIR then holds images/{train,val}, labels/{train,val} and classes.txt, with labels as palette PNGs of class
indices, 255 = void. It can be read with ``--dataset folder`` and needs no other option. A file .converted
says so, and then `difnet.evaluate` does not apply the options with which a network was trained on the source.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from difnet.data.checks.workers import cores
from difnet.data.errors import VOID, DataError, raise_all
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.folder import CONVERTED
from difnet.data.items.class_list import read_class_list
from difnet.data.items.dataset import FileDataset, read_arrays
from difnet.data.items.item import Item
from difnet.data.options import Reading, reading_of
from difnet.data.registry import DatasetName, create_pair
from difnet.utils.console import Reporter, parse, run_command
from difnet.utils.files import is_within, umask, write_atomically, writing
from difnet.utils.pictures import colour_labels


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Reading):
    """Write an export, or a published set, as a plain folder that --dataset folder reads without options."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of the export."""
    to: Path
    """Folder to create."""
    dataset: DatasetName = "folder"
    """Kind of the source, as in training; exports are recognised."""


def convert(config: ConvertConfig, report: Reporter) -> dict[str, int]:
    """Write all images and labels of a source; return the number of images of each split.

    The new folder appears when it is complete. Images are copied as they are. Labels are written upright, as
    their images are shown.

    Raises:
        DataError: the source, or one of its items, cannot be used; nothing has been written.
        ValueError: an option is not for this source.
        WriteError: the folder exists and is not empty, lies in the source, or cannot be written.
    """
    _check_target(config.to, config.source)
    target = Path(os.path.realpath(config.to))
    train, val = create_pair(config.dataset, config.source, reading=reading_of(config))
    if not isinstance(train, FileDataset) or not isinstance(val, FileDataset):
        raise ValueError(f"--dataset {config.dataset} has no files to convert")
    for note in dict.fromkeys([*train.notes, *val.notes]):
        report.line(note)
    splits: dict[str, Sequence[Item]] = {"train": train.items, "val": val.items}
    splits |= getattr(train, "splits", {})
    errors = [
        f"{split}: {problem}" for split in splits for problem in map(_bad_name, splits[split]) if problem
    ]
    raise_all(errors, f"{config.source}, nothing was written")
    exists = target.exists()
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Inside a folder that exists, which may be a file system of its own.
        stage = Path(tempfile.mkdtemp(prefix=".converting-", dir=target if exists else target.parent))
    try:
        with writing(target):
            _write_classes(train.classes, stage)
            write_atomically(stage / CONVERTED, f"written by difnet.data convert from {train.name} data\n")
            for split, items in splits.items():
                _write_split(split, items, train.palette, stage, report)
            if exists:
                for entry in sorted(stage.iterdir()):
                    os.replace(entry, target / entry.name)
            else:
                os.chmod(stage, 0o777 & ~umask())
                os.replace(stage, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    counts = {split: len(items) for split, items in splits.items()}
    text = ", ".join(f"{count} {split}" for split, count in counts.items())
    report.line(
        f"{config.to} holds {text} images of {len(train.classes)} classes; python -m difnet.data check "
        f"{config.to} says more"
    )
    return counts


def _check_target(target: Path, source: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--to {target} exists and is not an empty folder; name a new one")
    if is_within(target, source):
        raise ValueError(f"--to {target} lies in the source {source}; name a folder outside of it")


def _bad_name(item: Item) -> str | None:
    """Say why a plain folder could not hold an image under its name; None if it can."""
    name = item.name + os.path.splitext(item.image)[1]
    if any(part.startswith(".") for part in name.split("/")):
        return f"{item.image} has a name that begins with a dot, which folders of data pass over; rename it"
    if not name.lower().endswith(IMAGE_SUFFIXES):
        return f"{item.image} does not end as images do ({', '.join(IMAGE_SUFFIXES)}); rename it"
    return None


def _write_classes(classes: list[str], folder: Path) -> None:
    path = folder / "classes.txt"
    for name in classes:
        if name != name.strip() or not name.isprintable():
            raise DataError(
                f"the class {name!a} cannot stand in a list of one name a line; rename it in the annotation "
                "tool"
            )
    write_atomically(path, "".join(f"{name}\n" for name in classes))
    try:
        found = read_class_list(path)
    except DataError as error:
        reason = str(error).replace(str(path), "classes.txt")
        raise DataError(f"the names of the classes cannot be written as a list: {reason}") from error
    assert found == classes


def _write_split(
    split: str, items: Sequence[Item], palette: np.ndarray, folder: Path, report: Reporter
) -> None:
    errors = []
    work = partial(_write_item, split=split, palette=palette, folder=folder)
    with (
        ThreadPoolExecutor(cores()) as pool,
        report.bar(f"writing {split}", len(items)) as progress,
    ):
        for done, error in enumerate(pool.map(work, items), start=1):
            if error is not None:
                errors.append(error)
            progress(done)
    raise_all(errors, f"{split}, nothing was written")


def _write_item(item: Item, split: str, palette: np.ndarray, folder: Path) -> str | None:
    """Write one image and its label; return why the item cannot be used, if so."""
    try:
        _, label, _ = read_arrays(item)
    except DataError as error:
        return str(error)
    image = folder / "images" / split / f"{item.name}{os.path.splitext(item.image)[1]}"
    target = folder / "labels" / split / f"{item.name}.png"
    for path in (image, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(item.image, image)
    picture = colour_labels(torch.from_numpy(label), palette)
    colours = np.array(picture.getpalette(), np.uint8).reshape(-1, 3)
    colours[VOID] = _void_colour(palette)
    picture.putpalette(colours.tobytes())
    picture.save(target)
    return None


def _void_colour(palette: np.ndarray) -> np.ndarray:
    """A colour of void that no class has: black, VOC's, or the first grey that is free."""
    choices = [(0, 0, 0), (224, 224, 192), *((level,) * 3 for level in range(1, 256))]
    taken = {tuple(colour) for colour in palette.tolist()}
    return np.array(next(choice for choice in choices if choice not in taken), np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(ConvertConfig, arguments, "data convert", __doc__)
    return run_command(lambda: convert(config, Reporter()), "difnet.data convert")
