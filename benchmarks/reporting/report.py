"""Tables of the operator's rows, for the terminal and for Markdown."""

import re
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from harness.cases import FORWARD
from harness.rows import Row
from machine.memory import LOWER_BOUND

TABLE_FIELDS = (
    *("case", "batch", "nodes", "walks", "classes", "mode", "dtype", "precision", "sharpness"),
    *("hardware", "threads"),
)
"""Rows that agree in these fields form one table."""
FEWEST_FOR_QUARTILES = 3


def best_rival(group: list[Row]) -> Row | None:
    """The fastest rival whose errors are known and within the budget."""
    rivals = [r for r in group if not r["ours"] and r["status"] == "ok" and r["within"]]
    return min(rivals, key=lambda r: r["median"], default=None)


def speedup(row: Row, group: list[Row]) -> str:
    """The best rival's median over ours, as `format_ratio` writes it.

    The text is empty for a rival, for a backend of ours whose error is over the budget, and if there is no
    rival within it.
    """
    best = best_rival(group)
    return "" if best is None or not row["ours"] else format_ratio(best, row)


def gain(row: Row, group: list[Row]) -> str:
    """The median of the earlier kernels over that of our default backend; empty elsewhere."""
    before = next((r for r in group if r.get("before") and r["status"] == "ok"), None)
    return "" if before is None or not row["default"] else format_ratio(before, row)


def format_ratio(other: Row, row: Row) -> str:
    """The median of a row over that of ours, and in brackets the ratios of opposite quartiles.

    The brackets are left out if one of the two has too few repetitions for quartiles. The text is empty if
    ours was not measured, or is over the budget.
    """
    if row["status"] != "ok" or not row["within"]:
        return ""
    ratio = f"{other['median'] / row['median']:.2f}"
    if min(other["repetitions"], row["repetitions"]) < FEWEST_FOR_QUARTILES:
        return ratio
    return f"{ratio} ({other['lower'] / row['upper']:.2f} - {other['upper'] / row['lower']:.2f})"


def group_rows(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of each table."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[field] for field in TABLE_FIELDS)].append(row)
    return groups


def format_precision(row: Row) -> str:
    """The dtype of the features; for float32 with the precision of products."""
    return f"{row['dtype']} ({row['precision']})" if row["dtype"] == "float32" else row["dtype"]


def format_title(row: Row) -> str:
    """Case, mode, precision and sizes of a table."""
    sizes = f"B = {row['batch']}, N = {row['nodes']:,}, T = {row['walks']}, k = {row['classes']}"
    setting = f"{row['sharpness']} features, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    return f"{row['case']}, {row['mode']}, {format_precision(row)}: {sizes}, {setting}"


def format_work(row: Row) -> str:
    """The work of our algorithm, and the floor."""
    return (
        f"our algorithm: {format_number(1e-9 * row['flops'])} GFLOP, "
        f"{format_number(1e-6 * row['exponentials'])} M exponentials or more, "
        f"{format_number(2**-20 * row['bytes'])} MiB moved; floor {format_number(row['floor'])} ms"
    )


def format_number(value: float) -> str:
    """Three digits, or all digits before the point from 1,000 on."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def format_quartiles(row: Row) -> str:
    """Lower and upper quartile in ms; empty where there are too few repetitions."""
    if row["repetitions"] < FEWEST_FOR_QUARTILES:
        return ""
    return f"{format_number(row['lower'])} - {format_number(row['upper'])}"


def format_memory(row: Row) -> str:
    """MiB above the inputs, with ">=" where it is a lower bound; empty where it is unknown."""
    if row.get("memory") is None:
        return ""
    return f"{'>= ' if row.get('memory_by') == LOWER_BOUND else ''}{row['memory']:,.0f}"


def format_floor_share(row: Row) -> str:
    """The floor over the median, in percent."""
    return f"{100 * row['floor'] / row['median']:.0f}"


def format_errors(row: Row) -> list[str]:
    """ "error of budget" for the output and for the worst gradient (empty in the forward); bold if over."""

    def text(error: float | None, allowed: float | None, name: str = "") -> str:
        if error is None or allowed is None:
            return "unknown"
        cell = f"{error:.1e} of {allowed:.1e}{name}"
        return cell if error <= allowed else f"**{cell}**"

    output = text(row["error"], row.get("allowed"))
    if row["mode"] == FORWARD:
        return [output, ""]
    gradient = text(row.get("gradient_error"), row.get("gradient_allowed"), f" ({row.get('gradient')})")
    return [output, gradient]


def make_table(group: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of a table, one line for each provider that was measured."""
    with_gradients, on_gpu = group[0]["mode"] != FORWARD, group[0]["device"] != "cpu"
    columns: dict[str, Callable[[Row], str]] = {
        "provider": lambda row: row["provider"],
        "median ms": lambda row: format_number(row["median"]),
        "quartiles": format_quartiles,
        "n": lambda row: str(row["repetitions"]),
        "x best rival": lambda row: speedup(row, group),
        "x before": lambda row: gain(row, group),
        "% of floor": format_floor_share,
        "output error": lambda row: format_errors(row)[0],
    }
    if with_gradients:
        columns["gradient error"] = lambda row: format_errors(row)[1]
    columns["peak MiB"] = format_memory
    if on_gpu:
        columns["graph ms"] = lambda row: "" if row.get("graph") is None else format_number(row["graph"])
    if not any(row.get("before") for row in group):
        del columns["x before"]
    measured = [row for row in group if row["status"] == "ok"]
    return list(columns), [[text(row) for text in columns.values()] for row in measured]


def list_unmeasured(group: list[Row]) -> list[str]:
    """The providers that were not measured, with their reasons."""
    return [f"{row['provider']}: {row['status']}" for row in group if row["status"] != "ok"]


def describe_missing(rows: list[Row]) -> str:
    """A sentence about tables and providers that were planned and not measured; empty if there are none.

    Tables are missing if there are fewer than were planned. Providers are missing if a table has fewer rows
    than there were providers. For the network, a table is one network in one mode.
    """
    fields = TABLE_FIELDS if rows[0]["benchmark"] == "rw" else ("table", "network", "mode")
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[field] for field in fields)].append(row)
    planned, texts = rows[0]["planned"], []
    if len(groups) < planned:
        texts.append(f"{len(groups)} of {planned} tables")
    for group in groups.values():
        providers = group[0].get("providers")
        if providers and len(group) < providers:
            texts.append(f"{len(group)} of {providers} providers of {format_title(group[0])}")
    return f"Incomplete, the run was ended after {'; '.join(texts)}." if texts else ""


def print_group(group: list[Row]) -> None:
    """Print one table on the terminal."""
    print_table(f"{format_title(group[0])}\n{format_work(group[0])}", *make_table(group))
    print("".join(f"  {text}\n" for text in list_unmeasured(group)), end="", flush=True)


def format_group(group: list[Row], heading: str = "") -> str:
    """One table as Markdown; `heading` is put before its title, such as "#### "."""
    work = format_work(group[0])
    parts = [f"{heading}{format_title(group[0])}", f"{work[0].upper()}{work[1:]}."]
    headings, lines = make_table(group)
    if lines:
        parts.append(markdown_table(headings, lines))
    if unmeasured := list_unmeasured(group):
        parts.append(f"Not measured: {'; '.join(unmeasured)}.")
    return "\n\n".join(parts) + "\n"


def markdown_table(headings: list[str], lines: list[list[str]]) -> str:
    """A Markdown table. The first column is aligned to the left, all others to the right."""
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def print_table(title: str, headings: list[str], lines: list[list[str]]) -> None:
    """Print a table, bold cells in red; as Markdown if rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title, markdown_table(headings, lines), sep="\n\n", flush=True)
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for line in lines:
        table.add_row(*(re.sub(r"\*\*(.*)\*\*", r"[bold red]\1[/]", cell) for cell in line))
    console.print(table)
    console.file.flush()
