"""Tables from result rows: for the terminal and for the documents."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Row = dict[str, Any]
KEY = ("case", "batch", "nodes", "walks", "classes", "mode", "dtype", "precision", "sharpness", "hardware")


def best_rival(group: list[Row]) -> Row | None:
    """The fastest of the others; one whose error is over the budget or unknown counts for nothing."""
    rivals = [r for r in group if not r["ours"] and r["status"] == "ok" and r["within"]]
    return min(rivals, key=lambda r: r["median"], default=None)


def speedup(row: Row, group: list[Row]) -> tuple[float, float, float] | None:
    """Best rival's median over ours, and the same with the quartiles that make it smallest and largest.

    None for a rival, for one of ours whose error is over the budget, and where no rival is left.
    """
    best = best_rival(group)
    if best is None or not row["ours"] or row["status"] != "ok" or not row["within"]:
        return None
    return (
        best["median"] / row["median"],
        best["lower"] / row["upper"],
        best["upper"] / row["lower"],
    )


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
    return f"{row['case']}, {row['mode']}, {kind(row)}: {sizes}"


def counted(row: Row) -> str:
    """What the case takes at least."""
    return (
        f"at least {digits(1e-9 * row['flops'])} GFLOP, {digits(1e-6 * row['exponentials'])} M exponentials, "
        f"{digits(2**-20 * row['bytes'])} MiB moved; floor {digits(row['floor'])} ms"
    )


def digits(value: float) -> str:
    """Three digits, or all of a thousand and more."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def cells(row: Row, group: list[Row], on_gpu: bool) -> list[str]:
    """Texts of one row that was measured, after the provider's name, in the order of `headings`."""
    ratio = speedup(row, group)
    found = [
        digits(row["median"]),
        f"{digits(row['lower'])} - {digits(row['upper'])}",
        f"{row['repetitions']}",
        "" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f} - {ratio[2]:.2f})",
        f"{100 * row['floor'] / row['median']:.0f}",
        "unknown" if row["error"] is None else f"{row['error']:.1e}",
        "" if row.get("memory") is None else f"{row['memory']:,.0f}",
    ]
    return [*found, "" if row.get("graph") is None else digits(row["graph"])] if on_gpu else found


def headings(on_gpu: bool) -> list[str]:
    """Columns after the provider's name."""
    found = ["median ms", "quartiles", "n", "x best rival", "% of floor", "error", "peak MiB"]
    return [*found, "graph ms"] if on_gpu else found


ERROR = 5  # the column


def print_group(group: list[Row]) -> None:
    """One group as a table for the terminal, or as Markdown where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(markdown(group), flush=True)
        return
    on_gpu = group[0]["device"] != "cpu"
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(title=f"{title(group[0])}\n{counted(group[0])}", title_justify="left", title_style="bold")
    table.add_column("provider")
    for name in headings(on_gpu):
        table.add_column(name, justify="right", no_wrap=True)
    unable = []
    for row in group:
        if row["status"] != "ok":
            unable.append(row)
            continue
        texts = cells(row, group, on_gpu)
        if row["error"] is not None and not row["within"]:
            texts[ERROR] = f"[bold red]{texts[ERROR]}[/] (of {row['allowed']:.1e})"
        table.add_row(f"[bold]{row['provider']}" if row["ours"] else row["provider"], *texts)
    console.print(table)
    for row in unable:
        console.print(f"  {row['provider']}: {row['status']}", style="dim", markup=False, highlight=False)
    console.file.flush()


def markdown(group: list[Row], heading: str = "") -> str:
    """One group as Markdown."""
    on_gpu = group[0]["device"] != "cpu"
    names = ["provider", *headings(on_gpu)]
    least = counted(group[0])
    lines = [f"{heading}{title(group[0])}", "", f"{least[0].upper()}{least[1:]}.", ""]
    if any(row["status"] == "ok" for row in group):
        lines += [f"| {' | '.join(names)} |", "| --- " + "| ---: " * (len(names) - 1) + "|"]
    for row in group:
        if row["status"] == "ok":
            texts = cells(row, group, on_gpu)
            if row["error"] is not None and not row["within"]:
                texts[ERROR] = f"**{texts[ERROR]}, over the {row['allowed']:.1e} allowed**"
            lines.append(f"| {row['provider']} | {' | '.join(texts)} |")
    unable = [f"{row['provider']}: {row['status']}" for row in group if row["status"] != "ok"]
    return "\n".join([*lines, "", *([f"Not measured: {'; '.join(unable)}.", ""] if unable else [])])


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
