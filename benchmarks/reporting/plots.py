"""Plots from result rows, as PNG files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting.report import Row, kind

PRECISIONS = ["bfloat16", "float16", "float32 (medium)", "float32 (high)", "float32 (highest)"]


def plot(rows: list[Row], folder: Path) -> list[Path]:
    """All plots for which there are rows, in `folder`; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["provider"] for row in rows))
    colours = {name: pyplot.get_cmap("tab20")(i % 20) for i, name in enumerate(names)}
    written: list[Path] = []

    def draw(name: str, some: list[Row], painter: Callable[..., None], **texts: str) -> None:
        if not some:
            return
        figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
        painter(axes, some, colours)
        first = some[0]
        axes.set(**texts)
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        text = f"{first['hardware']}, {first['threads']} threads, torch {first['torch']}, {first['commit']}"
        figure.supxlabel(text, fontsize=7, color="grey")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=110)
        pyplot.close(figure)
        written.append(folder / f"{name}.png")

    for mode in dict.fromkeys(row["mode"] for row in rows):
        slug = mode.replace("+", "-")
        of_mode = [row for row in rows if row["mode"] == mode]
        for dtype in dict.fromkeys(kind(row) for row in of_mode):
            some = [row for row in of_mode if kind(row) == dtype]
            end = f"{slug}-{dtype.replace(' (', '-').strip(')')}"
            sweep = [row for row in some if row["case"] == "sweep"]
            about = {"xlabel": "nodes N", "title": f"one walk, d = 64, k = 21: {mode}, {dtype}"}
            draw(f"time-{end}", sweep, _lines("median"), ylabel="ms, median", **about)
            draw(f"memory-{end}", sweep, _lines("memory"), ylabel="MiB above the inputs", **about)
            share = [row for row in some if row["status"] == "ok"]
            title = f"share of the floor: {mode}, {dtype}"
            draw(f"floor-{end}", share, _bars, ylabel="floor / median, %", title=title)
        for end, field in (("", ""), ("-gradient", "gradient_")):
            errors = [row for row in of_mode if row.get(f"{field}error")]
            of = "the gradient nearest to its budget" if field else "the output"
            title = f"error of {of}, largest share of all cases: {mode}"
            label = "error against float64 / budget"
            draw(f"error-{slug}{end}", errors, _errors(field), ylabel=label, title=title)
    return written


def _lines(field: str) -> Callable[[Any, list[Row], dict[str, Any]], None]:
    """Against N, on logarithmic axes. A line says why it ends; points of wrong results are hollow."""

    def paint(axes: Any, rows: list[Row], colours: dict[str, Any]) -> None:
        axes.set(xscale="log", yscale="log")
        legend: dict[str, dict[str, Any]] = {}
        for name, colour in colours.items():
            mine = sorted((r for r in rows if r["provider"] == name), key=lambda r: r["nodes"])
            points = [r for r in mine if (r.get(field) or 0) > 0]
            if not points:
                continue
            x, y = [r["nodes"] for r in points], [r[field] for r in points]
            width = 2.5 if points[0]["ours"] else 1.2
            axes.plot(x, y, "o-", color=colour, linewidth=width, markersize=4, label=name)
            for row in points:
                if _wrong(row):
                    hollow = {"marker": "o", "markersize": 6, "markerfacecolor": "white"}
                    axes.plot(row["nodes"], row[field], color=colour, **hollow)
                    legend["error over the budget"] = hollow
            after = [r for r in mine if r["nodes"] > x[-1]]
            for status, marker in (("out of memory", "x"), ("too slow", "|")):
                if after and after[0]["status"].startswith(status):
                    end = {"marker": marker, "markersize": 13, "markeredgewidth": 2}
                    axes.plot(x[-1], y[-1], color=colour, **end)
                    legend[f"{status} beyond"] = end
        for label, style in legend.items():
            axes.plot([], [], color="black", linestyle="none", label=label, **style)

    return paint


def _bars(axes: Any, rows: list[Row], colours: dict[str, Any]) -> None:
    """Share of the floor, one group of bars for each case."""
    labels = list(dict.fromkeys(_place(r) for r in rows))
    present = [name for name in colours if any(r["provider"] == name for r in rows)]
    width = 0.8 / len(present)
    for i, name in enumerate(present):
        mine = [r for r in rows if r["provider"] == name]
        places = [labels.index(_place(r)) + (i + 0.5) * width for r in mine]
        heights = [100 * r["floor"] / r["median"] for r in mine]
        bars = axes.bar(places, heights, width, label=name, color=colours[name])
        for bar, row in zip(bars, mine, strict=True):
            if _wrong(row):
                bar.set(fill=False, edgecolor=colours[name], hatch="////")
    if any(_wrong(row) for row in rows):
        axes.bar(
            width / 2, 0, width, fill=False, edgecolor="black", hatch="////", label="error over the budget"
        )
    axes.set_xticks([i + 0.4 for i in range(len(labels))], labels, fontsize=8)


def _wrong(row: Row) -> bool:
    return row["error"] is not None and not row["within"]


def _place(row: Row) -> str:
    return f"{row['case']}\nB = {row['batch']}, N = {row['nodes']:,}"


def _errors(field: str) -> Callable[[Any, list[Row], dict[str, Any]], None]:
    """The largest share of its budget that an error of a provider takes, at each precision."""

    def share(row: Row) -> float:
        return row[f"{field}error"] / row[f"{field}allowed"]

    def paint(axes: Any, rows: list[Row], colours: dict[str, Any]) -> None:
        labels = [p for p in PRECISIONS if any(kind(r) == p for r in rows)]
        present = [name for name in colours if any(r["provider"] == name for r in rows)]
        axes.set_yscale("log")
        for i, name in enumerate(present):
            for j, label in enumerate(labels):
                mine = [r for r in rows if r["provider"] == name and kind(r) == label]
                if not mine:
                    continue
                largest = max(share(r) for r in mine)
                x = j + 0.8 * (i + 0.5) / len(present) - 0.4
                marker = {"marker": "o" if largest <= 1 else "X", "s": 45, "color": colours[name]}
                first = not any(text == name for text in axes.get_legend_handles_labels()[1])
                axes.scatter(x, largest, label=name if first else None, **marker)
        axes.axhline(1, color="black", linewidth=1.5, label="the budget")
        if not all(share(r) <= 1 for r in rows):
            axes.scatter([], [], marker="X", color="black", label="over the budget")
        axes.set_xticks(range(len(labels)), labels)

    return paint
