"""Reads every item of a data set once, and counts what is there."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from difnet.data.checks.cache import FindingsCache
from difnet.data.checks.finding import Finding
from difnet.data.checks.report import DataReport
from difnet.data.checks.workers import examine_all
from difnet.data.errors import VOID, DataError, listed, raise_all

if TYPE_CHECKING:
    from difnet.data.base import SegmentationDataset

_KEEP = 500
"""Findings that are kept at a time; an interrupted check goes on after the last of them."""


def survey(dataset: "SegmentationDataset", progress: Callable[[int], None] | None = None) -> DataReport:
    """Read every item of `dataset` once, on all cores, and count classes, void and sizes.

    What was found is kept in the user's cache folder. An item whose files have the same size and time as then
    is not read again.

    Args:
        dataset: the data set; its transform is not used.
        progress: called with the number of items done.

    Raises:
        DataError: items cannot be used (the message lists the first ten and the number of the rest), or
            the labels show no class, or a single one.
    """
    found = findings_of(dataset, progress)
    raise_all([str(it) for it in found if isinstance(it, DataError)], f"{dataset.name} {dataset.split}")
    return summarise(dataset, {index: it for index, it in enumerate(found) if isinstance(it, Finding)})


def findings_of(
    dataset: "SegmentationDataset", progress: Callable[[int], None] | None = None
) -> list[Finding | DataError]:
    """Return what was found of each item, or why it cannot be used."""
    names = [dataset.item_name(index) for index in range(len(dataset))]
    stamps = {name: stamp for index, name in enumerate(names) if (stamp := dataset.stamp(index)) is not None}
    cache = FindingsCache(dataset.reading_key())
    known = cache.load(stamps)
    done = len(known)
    if progress is not None and done:
        progress(done)
    missing = [index for index, name in enumerate(names) if name not in known]
    fresh: dict[str, Finding | DataError] = {}
    unkept: list[tuple[str, bytes, Finding]] = []
    try:
        for index, found in examine_all(dataset, missing):
            name = names[index]
            fresh[name] = found
            if isinstance(found, Finding) and name in stamps:
                unkept.append((name, stamps[name], found))
            if len(unkept) >= _KEEP:
                cache.store(unkept)
                unkept = []
            done += 1
            if progress is not None:
                progress(done)
    finally:  # also after Ctrl-C
        cache.store(unkept)
    every = known | fresh
    return [every[name] for name in names]


def summarise(dataset: "SegmentationDataset", usable: Mapping[int, Finding]) -> DataReport:
    """Count over the items of a split that can be used.

    Args:
        dataset: the split.
        usable: what was found, by the number of the item.

    Raises:
        DataError: the labels show no class, or a single one.
    """
    classes = len(dataset.classes)
    numbers, findings = list(usable), list(usable.values())
    # One entry for each class of each label: the number of the item, the class, and its pixels.
    lengths = [len(found.values) for found in findings]
    items = np.repeat(np.arange(len(findings)), lengths)
    values = np.concatenate([found.values for found in findings] or [np.zeros(0, np.uint8)])
    counts = np.concatenate([found.counts for found in findings] or [np.zeros(0, np.int64)])
    labelled = values != VOID
    has_void = np.bincount(items[~labelled], minlength=len(findings)) > 0
    shown = np.bincount(items[labelled], minlength=len(findings))  # classes in each label
    # Sums of float64 are exact up to 2^53 pixels.
    pixels = np.bincount(values[labelled], counts[labelled], minlength=classes).astype(np.int64)
    area = np.bincount(items[labelled], counts[labelled], minlength=len(findings))
    present = np.bincount(values[labelled], area[items[labelled]], minlength=classes).astype(np.int64)
    void = int(counts[~labelled].sum())
    sizes: dict[tuple[int, int], int] = {}
    for index, found in usable.items():
        sizes.setdefault(found.size, index)
    notes = [_class_note(dataset, len(findings), pixels, void)]
    one_and_void = [dataset.item_name(numbers[index]) for index in np.flatnonzero((shown == 1) & has_void)]
    if one_and_void and (shown > 1).any() and not (has_void & (shown > 1)).any():
        notes.append(
            f"{len(one_and_void)} {dataset.split} label(s) hold void beside a single class "
            f"({listed(one_and_void)}), and no label of several classes holds void; {_void_hint(dataset)}"
        )
    notes = [*dataset.notes, *notes, *_turn_notes(dataset, usable)]
    return DataReport(len(findings), pixels, present, sizes, void, findings, tuple(notes))


def _class_note(dataset: "SegmentationDataset", labels: int, pixels: np.ndarray, void: int) -> str:
    """Say which classes occur.

    Raises:
        DataError: no class occurs, or a single one.
    """
    where, text = f"{dataset.name} {dataset.split}", dataset.void_text
    if not pixels.any():
        raise DataError(
            f"{where}: every pixel of the {labels} labels is void ({text}); "
            "label at least one pixel with a class index"
        )
    absent = [f"{i + dataset.label_offset} ({dataset.classes[i]})" for i in np.flatnonzero(pixels == 0)]
    split = {"train": "training", "val": "validation"}[dataset.split]
    missing = f"{'class' if len(absent) == 1 else 'classes'} {listed(absent)} in no {split} label"
    found = (
        f"{len(dataset.classes) - len(absent)} of {len(dataset.classes)} classes occur"
        + (f", {missing}" if absent else "")
        + f"; {text} {'are' if ', ' in text else 'is'} void: "
        + f"{100.0 * void / (void + pixels.sum()):.1f} % of the pixels"
    )
    if np.count_nonzero(pixels) == 1:
        hint = f"; {_void_hint(dataset)}" if void else ""
        raise DataError(
            f"{where}: {found}; a single class can be neither learned nor measured, "
            f"because to predict it everywhere is always correct{hint}"
        )
    return f"{dataset.split} labels: {found}"


def _void_hint(dataset: "SegmentationDataset") -> str:
    if not dataset.void_text[:1].isdigit():  # void is a colour, or what no shape covers
        return "if the void pixels belong to a class, label them"
    return f"if {dataset.void_text} stands for a class here, write the class's number there"


def _turn_notes(dataset: "SegmentationDataset", usable: Mapping[int, Finding]) -> Iterator[str]:
    """Say which pictures and labels are turned by EXIF tags in a way that their size does not show."""
    apart, turned = [], []
    for index, found in usable.items():
        if found.label_turn not in (1, found.turn):
            apart.append(dataset.item_name(index))
        elif found.turn not in (1, found.label_turn) and (
            found.size[0] == found.size[1] or found.turn < 5  # the larger ones exchange height and width
        ):
            turned.append(dataset.item_name(index))
    if apart:
        yield (
            f"{len(apart)} {dataset.split} label(s) carry an EXIF tag Orientation that their image does not "
            f"have ({listed(apart)}); each file is turned by its own tag: make sure that the label then "
            "matches its image, or remove the tag"
        )
    if turned:
        yield (
            f"{len(turned)} {dataset.split} image(s) are turned by an EXIF tag, which their size does not "
            f"show ({listed(turned)}); make sure that their labels are drawn upright"
        )
