"""The table of docs/cpu.md that compares the operator at earlier commits with that of the rows' commit."""

import re
from pathlib import Path

from harness.cases import FORWARD, FORWARD_BACKWARD, SPEED
from harness.rows import RESULTS, Row, load

from reporting.report import format_title, markdown_table

STEPS = "*/steps/*.jsonl"
"""Files of rows, one for each earlier commit, in the order of their names.

Rows that measure nothing are left out.
"""
COLUMNS = (  # threads, B, N, sharpness, mode
    (1, 1, 4096, "pooled", FORWARD),
    (1, 16, 1681, "pooled", FORWARD_BACKWARD),
    (1, 1, 256, "mixed", FORWARD),
    (1, 1, 64, "mixed", FORWARD),
    (2, 8, 64, "mixed", FORWARD),
)


def steps_table(folder: Path = RESULTS) -> str:
    """One line for each earlier commit: the median of its operator over that of the rows' commit."""
    files = [load([path]) for path in sorted(folder.glob(STEPS))]
    if not files:
        return "No rows yet."
    titles = [
        format_title(_row(files[0], column, before=False)).removeprefix(f"{SPEED}, ") for column in COLUMNS
    ]
    lines = []
    for rows in files:
        medians = [[_row(rows, column, before)["median"] for before in (True, False)] for column in COLUMNS]
        lines.append([_commit(rows), *(f"{before / now:.2f}" for before, now in medians)])
    first = files[0][0]
    measured_on = f"{first['hardware']}, torch {first['torch']}; commit {first['commit']}, {first['date']}:"
    return f"{measured_on}\n\n{markdown_table(['operator at', *titles], lines)}"


def _row(rows: list[Row], column: tuple[int, int, int, str, str], before: bool) -> Row:
    """The row of our default backend, or of its earlier version, in a column's case. One walk has k = 21."""
    keys = ("threads", "batch", "nodes", "sharpness", "mode")
    found = [r for r in rows if tuple(r[key] for key in keys) == column and r["before"] == before]
    return next(r for r in found if r["walks"] > 1 or r["classes"] == 21)


def _commit(rows: list[Row]) -> str:
    name = next(row["provider"] for row in rows if row["before"])
    return re.sub(r".*\((\w+)\)", r"\1", name)
