"""Plots of the operator's rows, as PNG files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.cases import SPEED, SWEEP
from harness.rows import Row

from reporting.report import format_precision

PRECISIONS = ["bfloat16", "float16", "float32 (medium)", "float32 (high)", "float32 (highest)"]
Colours = dict[str, Any]
Painter = Callable[[Any, list[Row], Colours], None]
"""Draws rows into axes, with a colour for each provider."""


def plot_operator(rows: list[Row], folder: Path) -> list[Path]:
    """Draw every plot for which there are rows; none if matplotlib is missing. Return the files.

    native-speed has tables only: its cases differ in more than the names of a plot show.
    """
    rows = [row for row in rows if row["case"] != SPEED]
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["provider"] for row in rows))
    colours = {name: pyplot.get_cmap("tab20")(i % 20) for i, name in enumerate(names)}
    written: list[Path] = []

    def draw(name: str, some: list[Row], paint: Painter, **labels: str) -> None:
        if not some:
            return
        figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
        paint(axes, some, colours)
        axes.set(**labels)
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        written.append(save_figure(figure, some[0], folder / f"{name}.png"))

    for mode in dict.fromkeys(row["mode"] for row in rows):
        slug = mode.replace("+", "-")
        of_mode = [row for row in rows if row["mode"] == mode]
        for precision in dict.fromkeys(format_precision(row) for row in of_mode):
            some = [row for row in of_mode if format_precision(row) == precision]
            end = f"{slug}-{precision.replace(' (', '-').strip(')')}"
            sweep = [row for row in some if row["case"] == SWEEP]
            labels = {"xlabel": "nodes N", "title": f"one walk, d = 64, k = 21: {mode}, {precision}"}
            draw(f"time-{end}", sweep, _lines("median"), ylabel="ms, median", **labels)
            draw(f"memory-{end}", sweep, _lines("memory"), ylabel="MiB above the inputs", **labels)
            measured = [row for row in some if row["status"] == "ok"]
            title = f"floor as a share of the median: {mode}, {precision}"
            draw(f"floor-{end}", measured, _floor_bars, ylabel="floor / median, %", title=title)
        for end, field in (("", ""), ("-gradient", "gradient_")):
            known = [row for row in of_mode if row.get(f"{field}error")]
            subject = "the gradient that is worst against its budget" if field else "the output"
            title = f"error of {subject}, largest of all cases: {mode}"
            label = "error against float64 / budget"
            draw(f"error-{slug}{end}", known, _errors(field), ylabel=label, title=title)
    return written


def save_figure(figure: Any, row: Row, path: Path) -> Path:
    """Write a figure with the environment of one of its rows below it; return the path."""
    from matplotlib import pyplot

    text = f"{row['hardware']}, {row['threads']} threads, torch {row['torch']}, {row['commit']}"
    figure.supxlabel(text, fontsize=7, color="grey")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _lines(field: str) -> Painter:
    """A line for each provider over N, on logarithmic axes.

    A marker at the end of a line shows why it ends. Points with an error over the budget are hollow.
    """

    def paint(axes: Any, rows: list[Row], colours: Colours) -> None:
        axes.set(xscale="log", yscale="log")
        legend: dict[str, dict[str, Any]] = {}
        for name, colour in colours.items():
            of_provider = sorted((r for r in rows if r["provider"] == name), key=lambda r: r["nodes"])
            points = [r for r in of_provider if (r.get(field) or 0) > 0]
            if not points:
                continue
            x, y = [r["nodes"] for r in points], [r[field] for r in points]
            width = 2.5 if points[0]["ours"] else 1.2
            axes.plot(x, y, "o-", color=colour, linewidth=width, markersize=4, label=name)
            for row in points:
                if _over_budget(row):
                    hollow = {"marker": "o", "markersize": 6, "markerfacecolor": "white"}
                    axes.plot(row["nodes"], row[field], color=colour, **hollow)
                    legend["error over the budget"] = hollow
            beyond = [r for r in of_provider if r["nodes"] > x[-1]]
            for status, marker in (("out of memory", "x"), ("too slow", "|")):
                if beyond and beyond[0]["status"].startswith(status):
                    end = {"marker": marker, "markersize": 13, "markeredgewidth": 2}
                    axes.plot(x[-1], y[-1], color=colour, **end)
                    legend[f"{status} beyond"] = end
        for label, style in legend.items():
            axes.plot([], [], color="black", linestyle="none", label=label, **style)

    return paint


def _floor_bars(axes: Any, rows: list[Row], colours: Colours) -> None:
    """The floor as a share of the median: a group of bars for each case, a bar for each provider."""
    cases = list(dict.fromkeys(_case_label(row) for row in rows))
    present = [name for name in colours if any(row["provider"] == name for row in rows)]
    width = 0.8 / len(present)
    for i, name in enumerate(present):
        of_provider = [row for row in rows if row["provider"] == name]
        positions = [cases.index(_case_label(row)) + (i + 0.5) * width for row in of_provider]
        heights = [100 * row["floor"] / row["median"] for row in of_provider]
        bars = axes.bar(positions, heights, width, label=name, color=colours[name])
        for bar, row in zip(bars, of_provider, strict=True):
            if _over_budget(row):
                bar.set(fill=False, edgecolor=colours[name], hatch="////")
    if any(_over_budget(row) for row in rows):
        hatched = {"fill": False, "edgecolor": "black", "hatch": "////"}
        axes.bar(width / 2, 0, width, label="error over the budget", **hatched)
    axes.set_xticks([i + 0.4 for i in range(len(cases))], cases, fontsize=8)


def _over_budget(row: Row) -> bool:
    return row["error"] is not None and not row["within"]


def _case_label(row: Row) -> str:
    return f"{row['case']}\nB = {row['batch']}, N = {row['nodes']:,}"


def _errors(field: str) -> Painter:
    """The largest error of each provider over its budget, at each precision."""

    def share(row: Row) -> float:
        return row[f"{field}error"] / row[f"{field}allowed"]

    def paint(axes: Any, rows: list[Row], colours: Colours) -> None:
        precisions = [p for p in PRECISIONS if any(format_precision(row) == p for row in rows)]
        present = [name for name in colours if any(row["provider"] == name for row in rows)]
        axes.set_yscale("log")
        for i, name in enumerate(present):
            for j, precision in enumerate(precisions):
                shares = [
                    share(row)
                    for row in rows
                    if row["provider"] == name and format_precision(row) == precision
                ]
                if not shares:
                    continue
                largest = max(shares)
                x = j + 0.8 * (i + 0.5) / len(present) - 0.4
                marker = {"marker": "o" if largest <= 1 else "X", "s": 45, "color": colours[name]}
                first = name not in axes.get_legend_handles_labels()[1]
                axes.scatter(x, largest, label=name if first else None, **marker)
        axes.axhline(1, color="black", linewidth=1.5, label="the budget")
        if not all(share(row) <= 1 for row in rows):
            axes.scatter([], [], marker="X", color="black", label="over the budget")
        axes.set_xticks(range(len(precisions)), precisions)

    return paint
