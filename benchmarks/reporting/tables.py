"""Write the tables of docs/benchmarks.md and README.md from the rows in benchmarks/results, with the plots.

    python -m reporting.tables             # write; `make tables`
    python -m reporting.tables --check     # 1 if a document is not what the rows say

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. All else is text, without
measured numbers.
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.rows import DIRTY, RESULTS, ROOT, load

from reporting.model_report import (
    ARRANGEMENT_HEADINGS,
    NETWORK_HEADINGS,
    arrangement_cells,
    by_mode,
    network_cells,
    plot_networks,
)
from reporting.plots import plot
from reporting.report import (
    Row,
    best_rival,
    digits,
    errors,
    groups,
    incomplete,
    kind,
    markdown,
    markdown_table,
    memory,
    speedup,
)

DOCUMENTS = ("README.md", "docs/benchmarks.md")
README_HEADINGS = [
    "", "backend", "ms", "n", "peak MiB", "best rival", "ms", "n", "peak MiB", "ratio", "eager ms",
    "peak MiB", "% of floor", "output error", "gradient error",
]  # fmt: skip
SUMMARY_CASES = ("paper-inference", "paper-training", "full-resolution")

Files = dict[Path, list[Row]]


def read(folder: Path = RESULTS) -> Files:
    """The rows of every file in the folder; SystemExit where some are not those of a commit."""
    files = {path: rows for path in sorted(folder.glob("*.jsonl")) if (rows := load([path]))}
    for path, rows in files.items():
        if dirty := next((row["commit"] for row in rows if row["commit"].endswith(DIRTY)), None):
            raise SystemExit(
                f"{path}: measured on {dirty}, a tree with changes; commit them and measure anew"
            )
    return files


def of(files: Files, benchmark: str) -> Files:
    """The files of one benchmark."""
    return {path: rows for path, rows in files.items() if rows[0]["benchmark"] == benchmark}


def where(row: Row) -> str:
    """On what, with what and when rows were measured."""
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    driver = f", driver {row['driver']}" if row["driver"] else ""
    return (
        f"{row['hardware']}, {row['threads']} threads, Python {row['python']}, torch {row['torch']}, "
        f"{versions}{driver}; commit {row['commit']}, {row['date']}"
    )


def origin(path: Path, rows: list[Row]) -> list[str]:
    """Heading of a file's rows: where and how they were measured, and what is missing."""
    first = rows[0]
    measured = dict.fromkeys(row.get("case") or row["network"] for row in rows)
    lines = [
        f"### {', '.join(measured)}: {first['hardware']}",
        f"{where(first)}. Rows: `{path.relative_to(ROOT)}`, by `{command(first)}`{lasted(rows)}.",
        lacking(rows),
    ]
    return [text for line in lines if line for text in (line, "")]


def command(row: Row) -> str:
    """What was run, without the name of the file."""
    return re.sub(r" --out \S+", "", row["command"])


def lasted(rows: list[Row]) -> str:
    """How long that took, where rows tell."""
    return f", in {rows[-1]['elapsed'] / 60:.1f} minutes" if "elapsed" in rows[-1] else ""


def lacking(rows: list[Row]) -> str:
    """What the run was to measure and did not, in bold."""
    text = incomplete(rows)
    return f"**{text}**" if text else ""


def summary_table(files: Files) -> str:
    """For the README: the paper's cases, our default backend against the best rival, and eager."""
    parts = []
    machines = defaultdict(list)
    for rows in of(files, "rw").values():
        machines[rows[0]["hardware"], rows[0]["threads"]] += [r for r in rows if r["case"] in SUMMARY_CASES]
    for rows in machines.values():
        lines = []
        rows.sort(key=lambda row: SUMMARY_CASES.index(row["case"]))
        for group in groups(rows).values():
            measured = [r for r in group if r["status"] == "ok"]
            default = next((r for r in measured if r["default"]), None)
            if default is None:
                continue
            rival = best_rival(group)
            eager = next((r for r in measured if r["provider"] == "eager"), None)
            lines.append(
                [
                    f"{default['case']}, {default['mode']}, {kind(default)}",
                    default["provider"].removeprefix("difnet "),
                    digits(default["median"]),
                    str(default["repetitions"]),
                    memory(default),
                    rival["provider"] if rival else "none",
                    digits(rival["median"]) if rival else "",
                    str(rival["repetitions"]) if rival else "",
                    memory(rival) if rival else "",
                    speedup(default, group),
                    digits(eager["median"]) if eager else "",
                    memory(eager) if eager else "",
                    f"{100 * default['floor'] / default['median']:.0f}",
                    *errors(default),
                ]
            )
        if lines:
            measured_on = dict.fromkeys(where(row) for row in rows)
            parts += [f"{'; '.join(measured_on)}:", "", markdown_table(README_HEADINGS, lines), ""]
    return "\n".join(parts) or missing("rw")


def walk_tables(files: Files) -> str:
    """Every group of operator rows with plots."""
    parts = []
    for path, rows in of(files, "rw").items():
        parts += origin(path, rows)
        sources = dict.fromkeys(row["floor_rates"]["source"] for row in rows)
        parts += [f"Rates of the floor: {'; '.join(sources)}.", "", *pictures(path)]
        parts += [markdown(group, "#### ") for group in groups(rows).values()]
    return "\n".join(parts) or missing("rw")


def network_tables(files: Files) -> str:
    """Arrangements and Table 4."""
    parts = []
    for path, rows in of(files, "model").items():
        first = rows[0]
        parts += [*origin(path, rows), *pictures(path)]
        shape = f"[3, {first['size']}, {first['size']}]"
        for mode, some in by_mode(rows, "networks").items():
            table = markdown_table(NETWORK_HEADINGS, network_cells(some))
            parts += [f"#### Networks, {mode}, one image {shape}", "", table, ""]
        for mode, some in by_mode(rows, "arrangements").items():
            table = markdown_table(ARRANGEMENT_HEADINGS, arrangement_cells(some))
            parts += [f"#### Arrangements of {some[0]['network']}, {mode}, one image {shape}", "", table, ""]
    return "\n".join(parts) or missing("model")


def pictures(path: Path) -> list[str]:
    """Links to the plots beside a file of rows."""
    found = sorted(path.with_suffix("").glob("*.png"))
    lines = [f"![{p.stem.replace('-', ' ')}](../{p.relative_to(ROOT)})" for p in found]
    return [*lines, ""] if lines else []


def missing(benchmark: str) -> str:
    """What stands where nothing has been measured yet."""
    return f"No rows yet: `make bench` measures them ({benchmark}).\n"


SECTIONS: dict[str, Callable[[Files], str]] = {
    "summary": summary_table,
    "walks": walk_tables,
    "networks": network_tables,
}


def fill(text: str, files: Files) -> str:
    """The document with its generated parts made anew."""

    def section(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- begin {name} -->\n\n{SECTIONS[name](files).strip()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", section, text, flags=re.S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    files = read()
    if not options.check:
        for benchmark, draw in (("rw", plot), ("model", plot_networks)):
            for path, rows in of(files, benchmark).items():
                drawn = draw(rows, path.with_suffix(""))
                for old in set(path.with_suffix("").glob("*.png")) - set(drawn) if drawn else ():
                    old.unlink()
    different = []
    for name in DOCUMENTS:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = fill(old, files)
        if new != old:
            different.append(name)
            if not options.check:
                path.write_text(new, encoding="utf-8")
    print(f"{'differ from the rows' if options.check else 'written'}: {', '.join(different) or 'none'}")
    return int(options.check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
