"""Check a data set before anyone trains on it:

    python -m difnet.data check DIR                                   a folder, or an export of a tool
    python -m difnet.data check DIR --dataset camvid --out check.html

The exit status is 0 if the data can be used, and 1 if not; with ``--strict`` also if something is suspicious.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from difnet.data.base import SegmentationDataset, Split
from difnet.data.checks.finding import Finding
from difnet.data.checks.page import page, suspect_lines
from difnet.data.checks.review import Examined, suspects, warnings
from difnet.data.checks.sheet import as_html, legend, sheet, thumbnail
from difnet.data.checks.survey import findings_of, summarise
from difnet.data.errors import DataError
from difnet.data.items.dataset import FileDataset
from difnet.data.options import Reading, reading_of
from difnet.data.registry import DatasetName, create_dataset
from difnet.utils.console import Reporter, parse, run_command
from difnet.utils.files import prepare_file, refuse_inside, write_atomically
from difnet.utils.options import shown_default
from difnet.utils.pictures import save_picture

_SHOWN = 100
"""Problems that are printed."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Reading):
    """Read a whole data set, and print what is in it and what is wrong with it."""

    root: Annotated[Path | None, tyro.conf.Positional, shown_default("none, for scenes")] = None
    """Folder of the data."""
    dataset: DatasetName = "folder"
    """Data set, as in training."""
    out: Annotated[Path | None, shown_default("not written")] = None
    """File for thumbnails of the worst images: a .png, or an .html that holds the page too."""
    worst: int = 20
    """Number of images that are named, and drawn in --out."""
    strict: bool = False
    """Exit with status 1 also if something is suspicious."""


class Verdict(DataError):
    """The data cannot be used, or with --strict, are suspicious; what is wrong has been printed."""


def check(config: CheckConfig, report: Reporter) -> None:
    """Check both splits, print a page, and write the thumbnails.

    Raises:
        Verdict: the data cannot be used, or with `strict`, are suspicious.
        DataError: neither split can be opened.
        ValueError: an option is out of its range or not for this data set.
        WriteError: --out cannot be written.
    """
    if config.root is None and config.dataset != "scenes":
        raise ValueError(f"--dataset {config.dataset} needs a folder: python -m difnet.data check DIR")
    if config.worst < 1:
        raise ValueError(f"--worst must be positive, got {config.worst}")
    if config.out is not None:
        if config.out.suffix.lower() not in (".png", ".html"):
            raise ValueError(f"--out {config.out} must end in .png or .html")
        refuse_inside(config.out, config.root)
        prepare_file(config.out)
    where = config.dataset if config.root is None else str(config.root)
    lines: list[str] = []

    def say(text: str = "") -> None:
        report.line(text)
        lines.append(text)

    splits, problems, notes = _examine(config, report)
    say(f"{where}, read as {config.dataset}")
    for line in ["", *page(splits), ""]:
        say(line)
    for note in notes:
        say(f"note: {note}")
    doubts = list(warnings(splits))
    for doubt in doubts:
        say(f"suspicious: {doubt}")
    for problem in problems[:_SHOWN]:
        say(f"problem: {problem}")
    if len(problems) > _SHOWN:
        say(f"problem: ... and {len(problems) - _SHOWN} more")
    datasets: dict[str, SegmentationDataset] = {split.dataset.split: split.dataset for split in splits}
    worst = suspects(splits, config.worst)
    say()
    if worst:
        say(f"the {len(worst)} images to look at first (suspicious ones, then those with most void):")
    for line in suspect_lines(worst, datasets):
        say(line)
    if config.out is not None and worst:
        captions = [*(line.strip() for line in suspect_lines(worst, datasets)), "colours of the classes"]
        pictures = [thumbnail(datasets[it.split], it.number) for it in worst]
        pictures.append(legend(splits[0].dataset, _pixels(splits)))
        if config.out.suffix.lower() == ".png":
            save_picture(sheet(pictures, captions), config.out)
        else:
            write_atomically(config.out, as_html(where, "\n".join(lines), pictures, captions))
        report.line(f"drawn in {config.out}")
    _judge(config, where, len(problems), len(doubts), report)


def _pixels(splits: list[Examined]) -> np.ndarray:
    """The number of pixels of each class, and at 255 of void, (256,)."""
    pixels = np.zeros(256, np.int64)
    for split in splits:
        for found in split.findings.values():
            pixels[found.values] += found.counts
    return pixels


def _judge(config: CheckConfig, where: str, problems: int, doubts: int, report: Reporter) -> None:
    if problems:
        raise Verdict(f"{where} cannot be used: {problems} problem(s), named above")
    if doubts and config.strict:
        raise Verdict(f"{where} is suspicious ({doubts} line(s) above), and --strict refuses that")
    rest = f"{doubts} line(s) above say what is suspicious" if doubts else "nothing is suspicious"
    report.line(f"the data can be used; {rest}")


def _examine(config: CheckConfig, report: Reporter) -> tuple[list[Examined], list[str], list[str]]:
    """Read both splits; return what was found, what makes them unusable, and what the user should know."""
    splits: list[Examined] = []
    problems: list[str] = []
    notes: list[str] = []
    sides: tuple[Split, ...] = ("train", "val")
    for side in sides:
        try:
            if splits and isinstance(splits[0].dataset, FileDataset):
                dataset: SegmentationDataset = splits[0].dataset.other(side)
            else:
                dataset = create_dataset(config.dataset, config.root, side, reading=reading_of(config))
        except DataError as error:
            problems.append(str(error))
            continue
        with report.bar(f"checking {side}", len(dataset)) as progress:
            found = findings_of(dataset, progress)
        problems += [str(it) for it in found if isinstance(it, DataError)]
        usable = {index: it for index, it in enumerate(found) if isinstance(it, Finding)}
        splits.append(Examined(dataset, usable))
        if not usable:  # the problems say why
            continue
        try:
            notes += summarise(dataset, usable).notes
        except DataError as error:
            problems.append(str(error))
    if not splits:
        raise DataError("; ".join(dict.fromkeys(problems)))
    return splits, list(dict.fromkeys(problems)), list(dict.fromkeys(notes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(CheckConfig, arguments, "data check", __doc__)
    return run_command(lambda: check(config, Reporter()), "difnet.data check")
