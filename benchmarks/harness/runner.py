"""A run of a benchmark: the parts of its plan one after the other until the time is over; rows are kept."""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine.memory import limit_to_available
from reporting.report import Row, progress

from harness.rows import RUNS, Rows, environment


class Part(NamedTuple):
    """What is measured at a stretch, and what it is called."""

    text: str
    measure: Callable[[Rows], None]


def parse_run(
    benchmark: str, parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """The command line, with the options of every benchmark; also `command`, `deadline` and `benchmark`."""
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing new is begun after this long")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, default=None, help="rows; by default under benchmarks/results/runs"
    )
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    options.benchmark = benchmark
    options.command = shlex.join(["python", f"benchmarks/bench_{benchmark}.py", *given])
    options.deadline = time.monotonic() + 60 * options.minutes
    return options


def carry_out(
    options: argparse.Namespace,
    plan: Callable[[], Sequence[Part]],
    conclude: Callable[[list[Row], Path], list[Path]],
    **shared: Any,
) -> int:
    """Measure what is planned; `conclude` draws the rows into a folder, returns the pictures. 1 without rows.

    Every row holds the number of parts that were planned, so that a run cut short is known for one.
    """
    device = torch.device(options.device)
    name = f"{options.benchmark}-{device.type}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    out, here = options.out or RUNS / name, environment(device)
    print(f"{here['hardware']}, {here['threads']} threads, torch {here['torch']}, {here['commit']}")
    if device.type == "cpu":
        limit_to_available()
    parts = plan()
    run = {"benchmark": options.benchmark, "command": options.command, "planned": len(parts)}
    rows, left_out = Rows(out, {**run, **shared, **here}), []
    try:
        with progress(len(parts)) as advance:
            for part in parts:
                advance(part.text)
                if time.monotonic() > options.deadline:
                    left_out.append(part.text)
                else:
                    part.measure(rows)
    except KeyboardInterrupt:
        print("stopped; what was measured is kept")
    if left_out:
        print(f"left out after --minutes {options.minutes:g}: {'; '.join(left_out)}")
    if not rows.rows:
        return 1
    pictures = conclude(rows.rows, out.with_suffix(""))
    print(f"rows: {out}", *(f"plot: {picture}" for picture in pictures), sep="\n")
    return 0
