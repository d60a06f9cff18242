"""Tables and a plot of the network's rows."""

from pathlib import Path
from typing import Any

from harness.rows import Row

from reporting.plots import save_figure
from reporting.report import format_memory, format_number, format_quartiles, print_table

ARRANGEMENT_HEADINGS = ["arrangement", "median ms", "quartiles", "n", "x plain", "error", "peak MiB"]
NETWORK_HEADINGS = [
    "network", "M parameters", "GFLOP of branches", "of walks", "seed ms", "similarity ms", "diffusion ms",
    "total ms", "n", "share", "before ms", "share before", "eager P", "total, eager P", "peak MiB", "eager P",
]  # fmt: skip


def arrangement_lines(rows: list[Row]) -> list[list[str]]:
    """One line for each arrangement of one network in one mode."""
    plain = next((r for r in rows if r["arrangement"] == "plain" and r["status"] == "ok"), None)
    lines = []
    for row in rows:
        if row["status"] != "ok":
            lines.append([row["arrangement"], row["status"], *[""] * (len(ARRANGEMENT_HEADINGS) - 2)])
            continue
        lines.append(
            [
                row["arrangement"],
                format_number(row["median"]),
                format_quartiles(row),
                str(row["repetitions"]),
                f"{plain['median'] / row['median']:.2f}" if plain else "",
                f"{row['error']:.1e}" + ("" if row["within"] else " *"),
                format_memory(row),
            ]
        )
    return lines


def network_table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the networks in one mode: the preferred backend, then P stored ("eager P").

    "before" columns, of the kernels of an earlier commit, are left out where these were not measured.
    """
    lines = _network_lines(rows)
    kept = [n for n, name in enumerate(NETWORK_HEADINGS) if "before" not in name or any(x[n] for x in lines)]
    return [NETWORK_HEADINGS[n] for n in kept], [[line[n] for n in kept] for line in lines]


def _network_lines(rows: list[Row]) -> list[list[str]]:
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        measured = [row for row in rows if row["network"] == network and row["status"] == "ok"]
        preferred = next((r["backend"] for r in measured if r["backend"]), None)
        by_part = {(row["part"], row["backend"]): row for row in reversed(measured)}
        total = by_part.get(("total", preferred))
        if total is None:
            lines.append([network, "not run", *[""] * (len(NETWORK_HEADINGS) - 2)])
            continue
        before = next((r for r in measured if (r["backend"] or "").startswith("native before")), None)
        diffusion, eager = by_part.get(("diffusion", preferred)), by_part.get(("total", "reference"))
        lines.append(
            [
                network,
                f"{1e-6 * total['parameters']:.1f}",
                f"{1e-9 * total['flops']:.0f}",
                f"{1e-9 * total['walk_flops']:.1f}" if preferred else "",
                _median(by_part.get(("seed branch", None))),
                _median(by_part.get(("similarity branch", None))),
                _median(diffusion),
                _median(total),
                str(total["repetitions"]),
                f"{100 * diffusion['median'] / total['median']:.1f} %" if diffusion else "",
                _median(before),
                _share_before(before, diffusion, total),
                _median(by_part.get(("diffusion", "reference"))),
                _median(eager),
                format_memory(total),
                format_memory(eager) if eager else "",
            ]
        )
    return lines


def _share_before(before: Row | None, diffusion: Row | None, total: Row) -> str:
    """The share of earlier kernels in a total whose diffusion took their time."""
    if before is None or diffusion is None:
        return ""
    return f"{100 * before['median'] / (total['median'] - diffusion['median'] + before['median']):.1f} %"


def _median(row: Row | None) -> str:
    return "" if row is None else format_number(row["median"])


def rows_by_mode(rows: list[Row], table: str) -> dict[str, list[Row]]:
    """The rows of one kind of table, "networks" or "arrangements", by mode."""
    rows = [row for row in rows if row["table"] == table]
    return {mode: [r for r in rows if r["mode"] == mode] for mode in dict.fromkeys(r["mode"] for r in rows)}


def print_arrangements(rows: list[Row]) -> None:
    """Print the table of one network in one mode."""
    first = rows[0]
    title = f"{first['network']} at {first['size']}: {first['mode']}"
    print_table(title, ARRANGEMENT_HEADINGS, arrangement_lines(rows))
    if not all(row["within"] for row in rows if row["status"] == "ok"):
        print("* the error is more than twice (gradients: three times) that of plain")


def print_networks(rows: list[Row]) -> None:
    """Print one table for each mode."""
    for mode, of_mode in rows_by_mode(rows, "networks").items():
        title = f"plain, [3, {of_mode[0]['size']}, {of_mode[0]['size']}]: {mode}"
        print_table(title, *network_table(of_mode))
        for row in of_mode:
            if row["status"] != "ok":
                print(f"{row['network']}, {row['part']}: {row['status']}")


def plot_networks(rows: list[Row], folder: Path) -> list[Path]:
    """Draw the time of each network's parts, by backend, as PNG files; none if matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    totals = [row for row in rows if row.get("part") == "total" and row["status"] == "ok"]
    for mode, of_mode in rows_by_mode(rows, "networks").items():
        if not any(row["mode"] == mode for row in totals):
            continue
        figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
        _stack_parts(axes, of_mode)
        first = of_mode[0]
        axes.set(ylabel="ms, median", title=f"one image [3, {first['size']}, {first['size']}]: {mode}")
        axes.grid(True, axis="y", alpha=0.3)
        axes.legend(fontsize=8)
        written.append(save_figure(figure, first, folder / f"networks-{mode.replace(' ', '-')}.png"))
    return written


def _stack_parts(axes: Any, rows: list[Row]) -> None:
    """One bar for each network and backend: seed branch, similarity branch, diffusion, rest of the total."""
    rows = [row for row in rows if row["status"] == "ok"]
    medians = {(r["network"], r["part"], r["backend"]): r["median"] for r in reversed(rows)}
    totals = {(r["network"], r["backend"]): r["median"] for r in rows if r["part"] == "total"}
    bars = list(totals)
    bottoms = [0.0] * len(bars)
    ticks = range(len(bars))

    def stack(label: str, heights: list[float]) -> None:
        axes.bar(ticks, heights, 0.7, bottom=bottoms, label=label)
        bottoms[:] = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]

    for part in ("seed branch", "similarity branch"):
        stack(part, [medians.get((network, part, None), 0.0) for network, _ in bars])
    stack("diffusion", [medians.get((network, "diffusion", backend), 0.0) for network, backend in bars])
    rest = [max(0.0, totals[bar] - bottom) for bar, bottom in zip(bars, bottoms, strict=True)]
    stack("rest of the total", rest)
    # Parts that are timed alone may take longer than in the total.
    axes.scatter(ticks, list(totals.values()), 900, "black", "_", label="total", zorder=3)
    axes.set_ylim(0, 1.05 * max(bottoms))
    labels = [network if backend is None else f"{network}\n{backend}" for network, backend in bars]
    axes.set_xticks(ticks, labels, fontsize=8)
