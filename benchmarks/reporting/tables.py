"""Write the documents that show rows: results/MACHINE/REPORT.md, parts of other documents (DOCUMENTS).

    python -m reporting.tables             # from benchmarks/: write them and draw the plots; `make tables`
    python -m reporting.tables --check     # ends with status 1 if a document differs from the rows

A generated part of a document stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. The rest is text
without measured numbers. A report is generated as a whole.
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.rows import RESULTS, ROOT, RUNS, Row, load

from difnet_kernels.info import CHANGED
from reporting.model_report import (
    ARRANGEMENT_HEADINGS,
    arrangement_lines,
    network_table,
    plot_networks,
    rows_by_mode,
)
from reporting.plots import plot_operator
from reporting.report import (
    best_rival,
    describe_missing,
    format_errors,
    format_floor_share,
    format_group,
    format_memory,
    format_number,
    format_precision,
    group_rows,
    markdown_table,
    speedup,
)
from reporting.steps import steps_table

DOCUMENTS = ("README.md", "docs/benchmarks.md", "docs/cpu.md")
REPORT = "REPORT.md"
README_HEADINGS = [
    "", "backend", "ms", "n", "peak MiB", "best rival", "ms", "n", "peak MiB", "ratio", "eager ms",
    "peak MiB", "% of floor", "output error", "gradient error",
]  # fmt: skip
SUMMARY_CASES = ("paper-inference", "paper-training", "full-resolution")
OPERATOR, NETWORK = "rw", "model"

Files = dict[Path, list[Row]]


def read(folder: Path = RESULTS) -> Files:
    """The rows of every file of every machine.

    Raises:
        SystemExit: rows were measured on a tree that differs from its commit.
    """
    paths = [path for path in sorted(folder.glob("*/*.jsonl")) if path.parent != RUNS]
    files = {path: rows for path in paths if (rows := load([path]))}
    for path, rows in files.items():
        if changed := next((row["commit"] for row in rows if row["commit"].endswith(CHANGED)), None):
            raise SystemExit(
                f"{path}: measured on {changed}, a tree with changes; commit them and measure again"
            )
    return files


def rows_of(files: Files, benchmark: str) -> Files:
    """The files of one benchmark."""
    return {path: rows for path, rows in files.items() if rows[0]["benchmark"] == benchmark}


def describe_machine(row: Row, threads: Sequence[int] = ()) -> str:
    """Hardware, versions, commit and date of a row.

    `threads` are the numbers of threads of all rows of a run, where they differ.
    """
    count = " and ".join(map(str, threads or [row["threads"]]))
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    driver = f", driver {row['driver']}" if row["driver"] else ""
    return (
        f"{row['hardware']}, {count} threads, Python {row['python']}, torch {row['torch']}, "
        f"{versions}{driver}; commit {row['commit']}, {row['date']}"
    )


def heading(path: Path, rows: list[Row]) -> list[str]:
    """The heading of a file's rows: their cases or networks, how they were measured, and what is missing."""
    first = rows[0]
    names = dict.fromkeys(row.get("case") or row["network"] for row in rows)
    threads = list(dict.fromkeys(row["threads"] for row in rows))
    lines = [
        f"### {', '.join(names)}",
        f"{describe_machine(first, threads)}. Rows: `{path.name}`, by `{command(first)}`{duration(rows)}.",
        missing_note(rows),
    ]
    return [text for line in lines if line for text in (line, "")]


def command(row: Row) -> str:
    """The command that measured a row, without --out."""
    return re.sub(r" --out \S+", "", row["command"])


def duration(rows: list[Row]) -> str:
    """How long the run took; empty if the rows do not have the time."""
    return f", in {rows[-1]['elapsed'] / 60:.1f} minutes" if "elapsed" in rows[-1] else ""


def missing_note(rows: list[Row]) -> str:
    """The sentence of `describe_missing` in bold; empty if nothing is missing."""
    text = describe_missing(rows)
    return f"**{text}**" if text else ""


def summary_table(files: Files) -> str:
    """For README.md: the paper's cases by our default backend, the best rival and eager PyTorch."""
    parts = []
    machines: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for rows in rows_of(files, OPERATOR).values():
        machines[rows[0]["hardware"], rows[0]["threads"]] += [r for r in rows if r["case"] in SUMMARY_CASES]
    for rows in machines.values():
        rows.sort(key=lambda row: SUMMARY_CASES.index(row["case"]))
        lines = [line for group in group_rows(rows).values() if (line := summary_line(group))]
        if lines:
            measured_on = dict.fromkeys(describe_machine(row) for row in rows)
            parts += [f"{'; '.join(measured_on)}:", "", markdown_table(README_HEADINGS, lines), ""]
    return "\n".join(parts) or NO_ROWS


def summary_line(group: list[Row]) -> list[str] | None:
    """The line of one table in the summary; None if our default backend was not measured."""
    measured = [row for row in group if row["status"] == "ok"]
    default = next((row for row in measured if row["default"]), None)
    if default is None:
        return None
    rival = best_rival(group)
    eager = next((row for row in measured if row["provider"] == "eager"), None)
    return [
        f"{default['case']}, {default['mode']}, {format_precision(default)}",
        default["provider"].removeprefix("difnet "),
        format_number(default["median"]),
        str(default["repetitions"]),
        format_memory(default),
        rival["provider"] if rival else "none",
        format_number(rival["median"]) if rival else "",
        str(rival["repetitions"]) if rival else "",
        format_memory(rival) if rival else "",
        speedup(default, group),
        format_number(eager["median"]) if eager else "",
        format_memory(eager) if eager else "",
        format_floor_share(default),
        *format_errors(default),
    ]


def list_reports(files: Files) -> str:
    """For docs/benchmarks.md: links to the reports of all machines."""
    lines = []
    for folder, of_machine in files_by_machine(files).items():
        link = f"../{(folder / REPORT).relative_to(ROOT)}"
        commits = dict.fromkeys(
            f"{row['commit']}, {row['date']}" for rows in of_machine.values() for row in rows
        )
        lines.append(f"- [{hardware(of_machine)}]({link}): commit {'; '.join(commits)}")
    return "\n".join(lines) or NO_ROWS


def files_by_machine(files: Files) -> dict[Path, Files]:
    """The files of each machine's folder."""
    machines: dict[Path, Files] = defaultdict(dict)
    for path, rows in files.items():
        machines[path.parent][path] = rows
    return machines


def hardware(files: Files) -> str:
    """The hardware of a machine, as its rows name it."""
    return "; ".join(dict.fromkeys(rows[0]["hardware"] for rows in files.values()))


def write_report(files: Files) -> str:
    """The report of one machine."""
    parts = [
        f"# {hardware(files)}",
        "",
        "`make tables` writes this report from the rows beside it.",
        "[docs/benchmarks.md](../../../docs/benchmarks.md) explains the measurement and the columns.",
        "",
    ]
    if operator := operator_section(files):
        parts += ["## The operator", "", operator]
    if network := network_section(files):
        parts += ["## The network", "", network]
    return "\n".join(parts).rstrip() + "\n"


def operator_section(files: Files) -> str:
    """Plots and tables of the operator's rows."""
    parts = []
    for path, rows in rows_of(files, OPERATOR).items():
        parts += heading(path, rows)
        sources = dict.fromkeys(row["floor_rates"]["source"] for row in rows)
        parts += [f"Rates of the floor: {'; '.join(sources)}.", "", *plot_links(path)]
        parts += [format_group(group, "#### ") for group in group_rows(rows).values()]
    return "\n".join(parts)


def network_section(files: Files) -> str:
    """Plots and tables of the network's rows: the networks of the paper's Table 4, and the arrangements."""
    parts = []
    for path, rows in rows_of(files, NETWORK).items():
        first = rows[0]
        parts += [*heading(path, rows), *plot_links(path)]
        shape = f"[3, {first['size']}, {first['size']}]"
        for mode, some in rows_by_mode(rows, "networks").items():
            table = markdown_table(*network_table(some))
            parts += [f"#### Networks, {mode}, one image {shape}", "", table, ""]
        for mode, some in rows_by_mode(rows, "arrangements").items():
            table = markdown_table(ARRANGEMENT_HEADINGS, arrangement_lines(some))
            parts += [f"#### Arrangements of {some[0]['network']}, {mode}, one image {shape}", "", table, ""]
    return "\n".join(parts)


def plot_links(path: Path) -> list[str]:
    """Links from the report beside a file of rows to its plots."""
    plots = sorted(path.with_suffix("").glob("*.png"))
    lines = [f"![{plot.stem.replace('-', ' ')}]({plot.relative_to(path.parent)})" for plot in plots]
    return [*lines, ""] if lines else []


NO_ROWS = "No rows yet: `make bench` measures them."
SECTIONS: dict[str, Callable[[Files], str]] = {
    "summary": summary_table,
    "reports": list_reports,
    "steps": lambda _: steps_table(),
}


def fill(text: str, files: Files) -> str:
    """A document with its generated parts replaced."""

    def section(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- begin {name} -->\n\n{SECTIONS[name](files).strip()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", section, text, flags=re.S)


def make_documents(files: Files) -> dict[Path, str]:
    """The text of every document and report."""
    documents = {ROOT / name: fill((ROOT / name).read_text(encoding="utf-8"), files) for name in DOCUMENTS}
    reports = {
        folder / REPORT: write_report(of_machine) for folder, of_machine in files_by_machine(files).items()
    }
    return documents | reports


def draw_plots(files: Files) -> None:
    """Draw the plots of all rows, and delete plots that are no longer drawn."""
    for benchmark, draw in ((OPERATOR, plot_operator), (NETWORK, plot_networks)):
        for path, rows in rows_of(files, benchmark).items():
            drawn = draw(rows, path.with_suffix(""))
            for old in set(path.with_suffix("").glob("*.png")) - set(drawn) if drawn else ():
                old.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    files = read()
    if not options.check:
        draw_plots(files)
    different = []
    for path, text in make_documents(files).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            different.append(str(path.relative_to(ROOT)))
            if not options.check:
                path.write_text(text, encoding="utf-8")
    print(f"{'differ from the rows' if options.check else 'written'}: {', '.join(different) or 'none'}")
    return int(options.check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
