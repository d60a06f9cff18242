"""Tables and a plot of the network's rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting.report import Row, digits, memory, print_table, quartiles

ARRANGEMENT_HEADINGS = ["arrangement", "median ms", "quartiles", "n", "x plain", "error", "peak MiB"]
NETWORK_HEADINGS = [
    "network", "M parameters", "GFLOP of branches", "of walks", "seed ms", "similarity ms", "diffusion ms",
    "total ms", "n", "share", "eager P", "total, eager P", "peak MiB", "eager P",
]  # fmt: skip


def arrangement_cells(rows: list[Row]) -> list[list[str]]:
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
                digits(row["median"]),
                quartiles(row),
                str(row["repetitions"]),
                f"{plain['median'] / row['median']:.2f}" if plain else "",
                f"{row['error']:.1e}" + ("" if row["within"] else " *"),
                memory(row),
            ]
        )
    return lines


def network_cells(rows: list[Row]) -> list[list[str]]:
    """One line for each network in one mode: with the preferred backend, and beside it with P stored."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network and row["status"] == "ok"]
        default = next((r["backend"] for r in mine if r["backend"]), None)

        def of(part: str, backend: str | None, mine: list[Row] = mine) -> Row | None:
            return next((r for r in mine if (r["part"], r["backend"]) == (part, backend)), None)

        total = of("total", default)
        if total is None:
            lines.append([network, "not run", *[""] * (len(NETWORK_HEADINGS) - 2)])
            continue
        diffusion, eager = of("diffusion", default), of("total", "reference")
        lines.append(
            [
                network,
                f"{1e-6 * total['parameters']:.1f}",
                f"{1e-9 * total['flops']:.0f}",
                f"{1e-9 * total['walk_flops']:.1f}" if default else "",
                _median(of("seed branch", None)),
                _median(of("similarity branch", None)),
                _median(diffusion),
                _median(total),
                str(total["repetitions"]),
                f"{100 * diffusion['median'] / total['median']:.1f} %" if diffusion else "",
                _median(of("diffusion", "reference")),
                _median(eager),
                memory(total),
                memory(eager) if eager else "",
            ]
        )
    return lines


def _median(row: Row | None) -> str:
    return "" if row is None else digits(row["median"])


def by_mode(rows: list[Row], table: str) -> dict[str, list[Row]]:
    """Rows of one table, inference first."""
    mine = [row for row in rows if row["table"] == table]
    return {mode: [r for r in mine if r["mode"] == mode] for mode in dict.fromkeys(r["mode"] for r in mine)}


def print_arrangements(rows: list[Row]) -> None:
    """One table on the terminal."""
    first = rows[0]
    print_table(
        f"{first['network']} at {first['size']}: {first['mode']}",
        ARRANGEMENT_HEADINGS,
        arrangement_cells(rows),
    )
    if not all(row["within"] for row in rows if row["status"] == "ok"):
        print("* further from float64 than twice (gradients: three times) as plain")


def print_networks(rows: list[Row]) -> None:
    """One table for each mode on the terminal."""
    for mode, some in by_mode(rows, "networks").items():
        print_table(
            f"plain, [3, {some[0]['size']}, {some[0]['size']}]: {mode}", NETWORK_HEADINGS, network_cells(some)
        )
        for row in some:
            if row["status"] != "ok":
                print(f"{row['network']}, {row['part']}: {row['status']}")


def plot_networks(rows: list[Row], folder: Path) -> list[Path]:
    """Where the time of each network goes, by backend, as PNG; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    whole = [row for row in rows if row.get("part") == "total" and row["status"] == "ok"]
    for mode, some in by_mode(rows, "networks").items():
        if not any(row["mode"] == mode for row in whole):
            continue
        figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
        _stack(axes, some)
        first = some[0]
        axes.set(ylabel="ms, median", title=f"one image [3, {first['size']}, {first['size']}]: {mode}")
        axes.grid(True, axis="y", alpha=0.3)
        axes.legend(fontsize=8)
        text = f"{first['hardware']}, {first['threads']} threads, torch {first['torch']}, {first['commit']}"
        figure.supxlabel(text, fontsize=7, color="grey")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"networks-{mode.replace(' ', '-')}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        written.append(path)
    return written


def _stack(axes: Any, rows: list[Row]) -> None:
    """Seed branch, similarity branch, diffusion and the rest of the total on top of each other."""
    rows = [row for row in rows if row["status"] == "ok"]
    bars = [(r["network"], r["backend"], r["median"]) for r in rows if r["part"] == "total"]
    bottoms = [0.0] * len(bars)
    ticks = range(len(bars))

    def part(name: str, of: Callable[[str, str | None], float]) -> None:
        heights = [of(network, by) for network, by, _ in bars]
        axes.bar(ticks, heights, 0.7, bottom=bottoms, label=name)
        for i, height in enumerate(heights):
            bottoms[i] += height

    for name in ("seed branch", "similarity branch", "diffusion"):

        def median(network: str, by: str | None, name: str = name) -> float:
            key = (network, name, by if name == "diffusion" else None)
            return next((r["median"] for r in rows if (r["network"], r["part"], r["backend"]) == key), 0.0)

        part(name, median)
    totals = {(network, by): total for network, by, total in bars}
    index = {(network, by): i for i, (network, by, _) in enumerate(bars)}
    part(
        "the rest; all, without branches",
        lambda network, by: max(0.0, totals[network, by] - bottoms[index[network, by]]),
    )
    # Parts that are timed alone may take longer than in the whole.
    axes.scatter(ticks, [total for *_, total in bars], 900, "black", "_", label="the whole", zorder=3)
    axes.set_ylim(0, 1.05 * max(bottoms))
    axes.set_xticks(
        ticks, [network if by is None else f"{network}\n{by}" for network, by, _ in bars], fontsize=8
    )
