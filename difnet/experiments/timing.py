"""The paper's Table 4: time, parameters and operations of networks, by the benchmark in the clone."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from difnet.experiments.runner import locked
from difnet.training.run_folder import RunError
from difnet.utils.console import Reporter
from difnet.utils.files import write_atomically

NAME = "table4"
TITLE = "Time of the networks (Table 4 of the paper)"
QUESTION = "How long do the parts of a DifNet take in inference, beside a Sim-DeepLab?"

_NETWORKS = ("difnet18", "difnet34", "difnet50", "simdeeplab50", "simdeeplab101")
_PARTS = ("seed branch", "similarity branch", "diffusion", "total")
_ROOT = Path(__file__).resolve().parents[2]


def command(out: Path) -> list[str]:
    """Return the command line of the benchmark, which measures inference of all networks.

    Raises:
        RunError: there are no benchmarks beside this package.
    """
    script = _ROOT / "benchmarks" / "bench_model.py"
    if not script.is_file():
        raise RunError(
            f"{NAME} is measured by {script}, which does not exist; run it in a clone of the repository, "
            "because an installed package is without the benchmarks"
        )
    options = ["--networks", *_NETWORKS, "--modes", "inference", "--minutes", "60", "--arrangements"]
    return [sys.executable, str(script), *options, "--out", str(out / "model.jsonl")]


def describe(out: Path) -> str:
    """Say what would run."""
    if (out / "model.jsonl").is_file():
        return f"done: {out / 'model.jsonl'}; remove it to measure again"
    return f"some minutes on a CPU:\n  {shlex.join(command(out))}"


def run(out: Path, report: Reporter) -> str:
    """Measure, unless it is done, and return the table as Markdown.

    Raises:
        RunError: there are no benchmarks, or they failed.
        WriteError: a file cannot be written.
    """
    rows = out / "model.jsonl"
    words = [] if rows.is_file() else command(out)
    with locked(out / ".lock") as ours:
        if not ours:
            raise RunError(
                f"another process measures in {out}; wait until it has ended, or choose another --out"
            )
        if words:
            report.line(shlex.join(words))
            partial = rows.with_suffix(".partial")
            words[-1] = str(partial)
            path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            status = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
            if status != 0 or not partial.is_file():
                raise RunError(f"the benchmark failed with status {status}; see what it printed")
            partial.replace(rows)
        return report_rows(out)


def report_rows(out: Path) -> str:
    """Make the table from the rows of the benchmark, write it, and return it as Markdown.

    Raises:
        RunError: there are no rows, or a row is damaged.
        WriteError: a file cannot be written.
    """
    file = out / "model.jsonl"
    if not file.is_file():
        raise RunError(f"{file} does not exist; run the experiment without --report first")
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        table = make_table(rows)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(
            f"{file} holds no rows of the benchmark ({error!r}); remove it and measure again"
        ) from error
    text = to_markdown(table)
    write_atomically(out / "table.json", json.dumps(table, indent=1) + "\n")
    write_atomically(out / "table.md", text)
    return text


def make_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect the rows of inference in the arrangement "plain".

    Times are medians in milliseconds. Those of diffusion and total are with the backend of the first total,
    which is the preferred one.
    """
    wanted = [
        r for r in rows if r["table"] == "networks" and r["mode"] == "inference" and r["status"] == "ok"
    ]
    lines = []
    for network in dict.fromkeys(row["network"] for row in wanted):
        own = [row for row in wanted if row["network"] == network]
        backend = next((row["backend"] for row in own if row["part"] == "total"), None)
        medians = {row["part"]: row["median"] for row in own if row["backend"] in (None, backend)}
        lines.append(
            {
                "network": network,
                "parameters": own[0]["parameters"],
                "flops": own[0]["flops"] + own[0]["walk_flops"],
                "backend": backend,
                "milliseconds": {part: medians[part] for part in _PARTS if part in medians},
            }
        )
    first = wanted[0]
    machine = {key: first[key] for key in ("hardware", "threads", "torch", "commit", "date", "size")}
    return {"experiment": NAME, "title": TITLE, "question": QUESTION, "machine": machine, "rows": lines}


def to_markdown(table: dict[str, Any]) -> str:
    """Format the table as Markdown."""
    machine, size = table["machine"], table["machine"]["size"]
    lines = [f"# {table['title']}", "", table["question"], ""]
    lines += [
        f"One image of {size} x {size}, 21 classes, median times. "
        f"{machine['hardware']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"commit {machine['commit']}, {machine['date']}.",
        "",
        f"| network | parameters, M | GFLOPs | {' | '.join(f'{part}, ms' for part in _PARTS)} | walks by |",
        f"| --- |{' ---: |' * (len(_PARTS) + 2)} --- |",
    ]
    for row in table["rows"]:
        times = [f"{row['milliseconds'][p]:.4g}" if p in row["milliseconds"] else "-" for p in _PARTS]
        cells = [row["network"], f"{1e-6 * row['parameters']:.1f}", f"{1e-9 * row['flops']:.0f}", *times]
        lines.append(f"| {' | '.join(cells)} | {row['backend'] or '-'} |")
    return "\n".join([*lines, "", "Rows: model.jsonl beside this table."]) + "\n"
