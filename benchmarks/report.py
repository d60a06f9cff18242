"""Tables and plots from result rows."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def speedup(row: Row, group: list[Row]) -> tuple[float, float, float] | None:
    """Best rival's median over ours, and the same with the quartiles that make it smallest and largest.

    None for a rival, for one of ours whose error is over the budget, and where no rival is left to compare
    with: a rival over the budget counts for nothing either.
    """
    rivals = [r for r in group if not r["ours"] and r["status"] == "ok" and r["within"]]
    if not row["ours"] or row["status"] != "ok" or not row["within"] or not rivals:
        return None
    best = min(rivals, key=lambda r: r["median"])
    return (
        best["median"] / row["median"],
        best["lower"] / row["upper"],
        best["upper"] / row["lower"],
    )


def groups(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows measured side by side: same case, mode, dtype and precision."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = (row["case"], row["batch"], row["nodes"], row["walks"], row["classes"])
        found[(*key, row["mode"], row["dtype"], row["precision"])].append(row)
    return found


def print_table(key: tuple[Any, ...], group: list[Row], console: Console) -> None:
    """One group as a table for the terminal."""
    case, batch, nodes, walks, classes, mode, dtype, precision = key
    title = f"{case}: B = {batch}, N = {nodes}, T = {walks}, k = {classes}, {mode}, {dtype} ({precision})"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("provider")
    for name in ("median ms", "quartiles", "x best rival", "% of floor", "error", "peak MiB"):
        table.add_column(name, justify="right")
    for row in group:
        if row["status"] != "ok":
            table.add_row(row["provider"], f"[dim]{row['status']}", "", "", "", "", "")
            continue
        ratio = speedup(row, group)
        error = "unknown" if row["error"] is None else f"{row['error']:.1e}"
        table.add_row(
            f"[bold]{row['provider']}" if row["ours"] else row["provider"],
            f"{row['median']:.1f}",
            f"{row['lower']:.1f} - {row['upper']:.1f}",
            "" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f} - {ratio[2]:.2f})",
            f"{100 * row['floor'] / row['median']:.0f}",
            error if row["within"] else f"[red]{error}",
            "" if row.get("memory") is None else f"{row['memory']:.0f}",
        )
    console.print(table)


def markdown(rows: list[Row]) -> str:
    """The rows as Markdown tables, for the documents."""
    lines: list[str] = []
    for key, group in groups(rows).items():
        case, batch, nodes, walks, classes, mode, dtype, precision = key
        first = group[0]
        lines += [
            f"**{case}, {mode}, {dtype} ({precision})**: "
            f"B = {batch}, N = {nodes}, T = {walks}, k = {classes}; "
            f"{first['hardware']}, {first['threads']} threads, torch {first['torch']}, "
            f"commit {first['commit']}, {first['date']}",
            "",
            "| provider | ms, median (quartiles) | times the best rival | % of floor | error | peak MiB |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in group:
            if row["status"] != "ok":
                lines.append(f"| {row['provider']} | {row['status']} | | | | |")
                continue
            ratio = speedup(row, group)
            error = "unknown" if row["error"] is None else f"{row['error']:.1e}"
            cells = (
                row["provider"],
                f"{row['median']:.1f} ({row['lower']:.1f} - {row['upper']:.1f})",
                "" if ratio is None else f"{ratio[0]:.2f}",
                f"{100 * row['floor'] / row['median']:.0f}",
                error if row["within"] else f"{error}, over the budget",
                "" if row.get("memory") is None else f"{row['memory']:.0f}",
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[Row], folder: Path) -> list[Path]:
    """Time and memory against N, error and share of the floor, as PNG files in `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    names = list(dict.fromkeys(row["provider"] for row in rows))
    colours = {name: pyplot.get_cmap("tab20")(i % 20) for i, name in enumerate(names)}
    for (mode, dtype), some in _by(rows, "mode", "dtype").items():
        good = [row for row in some if row["status"] == "ok"]
        sweep = [row for row in good if row["case"] == "sweep"]
        for quantity, label in (("median", "ms"), ("memory", "MiB above the inputs")):
            points = [row for row in sweep if row.get(quantity)]
            if not points:
                continue
            figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
            for name, line in _by(points, "provider").items():
                style = {"color": colours[name[0]], "linewidth": 2.5 if line[0]["ours"] else 1.2}
                axes.loglog(
                    [r["nodes"] for r in line], [r[quantity] for r in line], "o-", label=name[0], **style
                )
                ended = [r for r in some if r["provider"] == name[0] and r["status"] == "out of memory"]
                if ended:
                    axes.plot(line[-1]["nodes"], line[-1][quantity], "x", markersize=14, color=style["color"])
                    axes.annotate("out of memory", (line[-1]["nodes"], line[-1][quantity]))
            axes.set(xlabel="N", ylabel=label, title=f"one walk, {mode}, {dtype}")
            axes.grid(True, which="major", alpha=0.3)
            axes.legend(fontsize=8)
            written.append(_save(figure, folder / f"{quantity}-{_slug(mode)}-{dtype}.png"))
        others = [row for row in good if row["case"] != "sweep"]
        for quantity, label in (("error", "relative error"), ("share", "% of floor")):
            figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
            cases = list(dict.fromkeys(row["case"] for row in others))
            drawn = [r for r in others if quantity == "share" or r["error"]]
            if not drawn:
                pyplot.close(figure)
                continue
            present = [name for name in names if any(r["provider"] == name for r in drawn)]
            width = 0.8 / len(present)
            for i, name in enumerate(present):
                bars = [r for r in drawn if r["provider"] == name]
                values = [r["error"] if quantity == "error" else 100 * r["floor"] / r["median"] for r in bars]
                places = [cases.index(r["case"]) + i * width for r in bars]
                axes.bar(places, values, width, label=name, color=colours[name])
            if quantity == "error":
                axes.set_yscale("log")
            axes.set_xticks([i + 0.4 for i in range(len(cases))], cases)
            axes.set(ylabel=label, title=f"{mode}, {dtype}")
            axes.legend(fontsize=8)
            written.append(_save(figure, folder / f"{quantity}-{_slug(mode)}-{dtype}.png"))
    return written


def _by(rows: list[Row], *fields: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[field] for field in fields)].append(row)
    return found


def _slug(mode: str) -> str:
    return mode.replace("+", "-")


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
