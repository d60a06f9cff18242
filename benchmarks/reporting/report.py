"""Tables from result rows: for the terminal and for the documents."""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.cases import FORWARD
from machine.memory import LEAST

Row = dict[str, Any]
KEY = ("case", "batch", "nodes", "walks", "classes", "mode", "dtype", "precision", "sharpness", "hardware")
FEWEST = 3
"""Repetitions from which there are quartiles."""


def best_rival(group: list[Row]) -> Row | None:
    """The fastest of the others; one whose error is over the budget or unknown counts for nothing."""
    rivals = [r for r in group if not r["ours"] and r["status"] == "ok" and r["within"]]
    return min(rivals, key=lambda r: r["median"], default=None)


def speedup(row: Row, group: list[Row]) -> str:
    """Best rival's median over ours; in brackets the same with quartiles that make it smallest and largest.

    Without brackets where either was repeated too seldom for quartiles. Empty for a rival, for one of ours
    whose error is over the budget, and where no rival is left.
    """
    best = best_rival(group)
    if best is None or not row["ours"] or row["status"] != "ok" or not row["within"]:
        return ""
    ratio = f"{best['median'] / row['median']:.2f}"
    if min(best["repetitions"], row["repetitions"]) < FEWEST:
        return ratio
    return f"{ratio} ({best['lower'] / row['upper']:.2f} - {best['upper'] / row['lower']:.2f})"


def groups(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows measured side by side."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[field] for field in KEY)].append(row)
    return found


def kind(row: Row) -> str:
    """Dtype with, for float32, the precision of products."""
    return f"{row['dtype']} ({row['precision']})" if row["dtype"] == "float32" else row["dtype"]


def title(row: Row) -> str:
    """What a group is about."""
    sizes = f"B = {row['batch']}, N = {row['nodes']:,}, T = {row['walks']}, k = {row['classes']}"
    return f"{row['case']}, {row['mode']}, {kind(row)}: {sizes}, {row['sharpness']} features"


def counted(row: Row) -> str:
    """The work of our algorithm, and its time at the rates of the floor."""
    return (
        f"our algorithm: {digits(1e-9 * row['flops'])} GFLOP, {digits(1e-6 * row['exponentials'])} M "
        f"exponentials or more, {digits(2**-20 * row['bytes'])} MiB moved; floor {digits(row['floor'])} ms"
    )


def digits(value: float) -> str:
    """Three digits, or all of a thousand and more."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def quartiles(row: Row) -> str:
    """Of the repetitions, where there were enough."""
    return f"{digits(row['lower'])} - {digits(row['upper'])}" if row["repetitions"] >= FEWEST else ""


def memory(row: Row) -> str:
    """MiB above the inputs, where that is known; marked where it may be more."""
    if row.get("memory") is None:
        return ""
    return f"{'>= ' if row.get('memory_by') == LEAST else ''}{row['memory']:,.0f}"


def errors(row: Row) -> list[str]:
    """Of the output, and of the worst gradient with its name (empty forward), of budgets; bold if over."""

    def text(error: float | None, allowed: float | None, name: str = "") -> str:
        if error is None or allowed is None:
            return "unknown"
        found = f"{error:.1e} of {allowed:.1e}{name}"
        return found if error <= allowed else f"**{found}**"

    output = text(row["error"], row.get("allowed"))
    if row["mode"] == FORWARD:
        return [output, ""]
    gradient = text(row.get("gradient_error"), row.get("gradient_allowed"), f" ({row.get('gradient')})")
    return [output, gradient]


def table(group: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of a group, for those who were measured."""
    with_gradients, on_gpu = group[0]["mode"] != FORWARD, group[0]["device"] != "cpu"
    columns: dict[str, Callable[[Row], str]] = {
        "provider": lambda row: row["provider"],
        "median ms": lambda row: digits(row["median"]),
        "quartiles": quartiles,
        "n": lambda row: str(row["repetitions"]),
        "x best rival": lambda row: speedup(row, group),
        "% of floor": lambda row: f"{100 * row['floor'] / row['median']:.0f}",
        "output error": lambda row: errors(row)[0],
    }
    if with_gradients:
        columns["gradient error"] = lambda row: errors(row)[1]
    columns["peak MiB"] = memory
    if on_gpu:
        columns["graph ms"] = lambda row: "" if row.get("graph") is None else digits(row["graph"])
    measured = [row for row in group if row["status"] == "ok"]
    return list(columns), [[text(row) for text in columns.values()] for row in measured]


def unmeasured(group: list[Row]) -> list[str]:
    """Who was not measured, and why."""
    return [f"{row['provider']}: {row['status']}" for row in group if row["status"] != "ok"]


def incomplete(rows: list[Row]) -> str:
    """What rows lack that a run was to measure, by the numbers that it noted; empty where nothing is missing.

    Parts are the groups of the operator's rows, of the network's one table for a network and mode.
    """
    part = KEY if rows[0]["benchmark"] == "rw" else ("table", "network", "mode")
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[field] for field in part)].append(row)
    planned, texts = rows[0]["planned"], []
    if len(found) < planned:
        texts.append(f"{len(found)} of {planned} tables")
    for some in found.values():
        count = some[0].get("providers")
        if count and len(some) < count:
            texts.append(f"{len(some)} of {count} providers of {title(some[0])}")
    return f"Incomplete, the run was ended after {'; '.join(texts)}." if texts else ""


def print_group(group: list[Row]) -> None:
    """One group on the terminal."""
    print_table(f"{title(group[0])}\n{counted(group[0])}", *table(group))
    print("".join(f"  {text}\n" for text in unmeasured(group)), end="", flush=True)


def markdown(group: list[Row], heading: str = "") -> str:
    """One group as Markdown."""
    work = counted(group[0])
    parts = [f"{heading}{title(group[0])}", f"{work[0].upper()}{work[1:]}."]
    headings, lines = table(group)
    if lines:
        parts.append(markdown_table(headings, lines))
    if unable := unmeasured(group):
        parts.append(f"Not measured: {'; '.join(unable)}.")
    return "\n\n".join(parts) + "\n"


def markdown_table(headings: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def print_table(title: str, headings: list[str], lines: list[list[str]]) -> None:
    """A table for the terminal, what is bold in red; as Markdown where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title, markdown_table(headings, lines), sep="\n\n", flush=True)
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    drawn = Table(title=title, title_justify="left", title_style="bold")
    for i, heading in enumerate(headings):
        drawn.add_column(heading, justify="right" if i else "left")
    for line in lines:
        drawn.add_row(*(re.sub(r"\*\*(.*)\*\*", r"[bold red]\1[/]", cell) for cell in line))
    console.print(drawn)
    console.file.flush()


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, nothing elsewhere; yields a function that names the next of `total` parts."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda text: None
        return
    if not sys.stdout.isatty():
        yield lambda text: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)

        def advance(text: str) -> None:
            bar.update(task, advance=1, description=text)

        yield advance
