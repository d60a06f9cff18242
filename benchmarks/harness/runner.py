"""A run of a benchmark: command-line options, a plan of measurements, a time limit, rows that are kept."""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from machine.memory import limit_to_available_memory

from harness.rows import RUNS, Row, Rows, run_environment


class Measurement(NamedTuple):
    """One entry of the plan: its title, and the function that adds its rows."""

    title: str
    measure: Callable[[Rows], None]


def parse_run(
    benchmark: str, parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a benchmark's own options and those that all benchmarks share.

    The result also holds `benchmark`, `command` (the command line) and `deadline` (on `time.monotonic`).
    """
    parser.add_argument("--minutes", type=float, default=9.0, help="no measurement starts after this time")
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, default=None, help="file of rows; by default a new one in benchmarks/results/runs"
    )
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    options.benchmark = benchmark
    options.command = shlex.join(["python", f"benchmarks/bench_{benchmark}.py", *given])
    options.deadline = time.monotonic() + 60 * options.minutes
    return options


def run_plan(
    options: argparse.Namespace,
    make_plan: Callable[[], Sequence[Measurement]],
    report: Callable[[list[Row], Path], list[Path]],
    **shared: object,
) -> int:
    """Carry out the plan until the time is over, then report. Return the exit status: 1 without any rows.

    Every row holds the number of measurements that were planned, so that an incomplete run can be recognised.

    Args:
        options: what `parse_run` returned.
        make_plan: returns the measurements in order.
        report: prints tables and draws plots into a folder; returns the files it wrote.
        shared: further fields of every row.
    """
    device = torch.device(options.device)
    name = f"{options.benchmark}-{device.type}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    out, here = options.out or RUNS / name, run_environment(device)
    print(f"{here['hardware']}, {here['threads']} threads, torch {here['torch']}, {here['commit']}")
    if device.type == "cpu":
        limit_to_available_memory()
    plan = make_plan()
    run = {"benchmark": options.benchmark, "command": options.command, "planned": len(plan)}
    rows, skipped = Rows(out, {**run, **shared, **here}), []
    try:
        with progress_bar(len(plan)) as show_next:
            for title, measure in plan:
                show_next(title)
                if time.monotonic() > options.deadline:
                    skipped.append(title)
                else:
                    measure(rows)
    except KeyboardInterrupt:
        print("interrupted; the rows measured so far are kept")
    if skipped:
        print(f"skipped because --minutes {options.minutes:g} were over: {'; '.join(skipped)}")
    if not rows.rows:
        return 1
    pictures = report(rows.rows, out.with_suffix(""))
    print(f"rows: {out}", *(f"plot: {picture}" for picture in pictures), sep="\n")
    return 0


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar, on a terminal only. Yields a function that shows the title of the next measurement."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda title: None
        return
    if not sys.stdout.isatty():
        yield lambda title: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)

        def show_next(title: str) -> None:
            bar.update(task, advance=1, description=title)

        yield show_next
