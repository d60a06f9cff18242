"""Writes what a check found as a page of text."""

from collections.abc import Sequence

import numpy as np

from difnet.data.base import SegmentationDataset
from difnet.data.checks.review import Examined, Suspect, void_share


def page(splits: Sequence[Examined]) -> list[str]:
    """Return the lines of the table of splits and of the table of classes."""
    return [*_table(_split_rows(splits)), "", *_table(_class_rows(splits))]


def suspect_lines(suspects: Sequence[Suspect], datasets: dict[str, SegmentationDataset]) -> list[str]:
    """Return one line for each suspect."""
    return [
        f"  {number:2d}  {it.split} {datasets[it.split].item_name(it.number)}: {'; '.join(it.reasons)}"
        for number, it in enumerate(suspects, start=1)
    ]


def _split_rows(splits: Sequence[Examined]) -> list[list[str]]:
    rows = [["", "images", "usable", "sizes (width x height)", "void", "void in an image"]]
    for dataset, findings in splits:
        found = list(findings.values())
        shares = [void_share(it) for it in found]
        total, void = sum(it.pixels for it in found), sum(it.void for it in found)
        rows.append(
            [
                dataset.split,
                f"{len(dataset):,}",
                f"{len(found):,}",
                _sizes([it.size for it in found]),
                f"{100 * void / total:.1f} %" if total else "",
                f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" if shares else "",
            ]
        )
    return rows


def _sizes(sizes: list[tuple[int, int]]) -> str:
    distinct = sorted(set(sizes), key=lambda size: size[0] * size[1])
    ends = [f"{width} x {height}" for height, width in (distinct[:1] + distinct[1:][-1:])]
    return " to ".join(ends) + (f", {len(distinct)} sizes" if len(distinct) > 2 else "")


def _class_rows(splits: Sequence[Examined]) -> list[list[str]]:
    """Pixels and images of each class in each split, and what is missing."""
    dataset = splits[0].dataset
    head = ["", "class"]
    columns = []
    for split in splits:
        head += [f"{split.dataset.split} pixels", "images"]
        pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
        for found in split.findings.values():
            pixels[found.values] += found.counts
            images[found.values] += 1
        columns.append((pixels[: len(dataset.classes)], images))
    rows = [[*head, ""]]
    for index, name in enumerate(dataset.classes):
        row, missing = [str(index), name], []
        for split, (pixels, images) in zip(splits, columns, strict=True):
            row += [f"{100 * pixels[index] / max(1, pixels.sum()):.2f} %", f"{images[index]:,}"]
            if not pixels[index]:
                missing.append(split.dataset.split)
        rows.append([*row, f"in no {' and no '.join(missing)} label" if missing else ""])
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    """Align columns: text to the left, numbers to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [place > 0 and all(cell[:1].isdigit() for cell in it[1:]) for place, it in enumerate(columns)]
    lines = []
    for row in rows:
        cells = []
        for cell, width, number in zip(row, widths, numbers, strict=True):
            cells.append(cell.rjust(width) if number else cell.ljust(width))
        lines.append("  ".join(cells).rstrip())
    return lines
