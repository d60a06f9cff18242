"""Tables and plots from made-up rows, and small runs of pytest-benchmark and bench_model.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.rows import load
from reporting import tables
from reporting.plots import plot_operator
from reporting.report import format_group, group_rows

ROOT = Path(__file__).parents[2]
BFLOAT16 = "bfloat16, channels-last"


def row(provider, nodes, **values):
    return {
        "benchmark": "rw", "device": "cpu", "hardware": "a CPU", "threads": 2, "torch": "2", "python": "3",
        "versions": {}, "driver": None, "command": "python bench.py", "planned": 1,
        "commit": "abc", "date": "2026-01-01", "case": "sweep", "batch": 1, "nodes": nodes,
        "walks": 1, "classes": 21, "mode": "forward", "dtype": "float32", "precision": "highest",
        "sharpness": "mixed", "flops": 1e9, "exponentials": 1e6, "bytes": 2**20, "floor": 1.0,
        "floor_rates": {"flops": 1e12, "exponentials": 1e9, "source": "a loop"}, "provider": provider,
        "ours": provider.startswith("difnet"), "default": provider == "difnet native", "status": "ok",
        "error": 1e-7, "allowed": 3e-7, "gradient": None, "gradient_error": None, "gradient_allowed": None,
        "within": True, "median": 2.0, "lower": 1.5, "upper": 3.0, "repetitions": 5, "memory": 10.0, **values,
    }  # fmt: skip


ROWS = [
    row("difnet native", 1024),
    row("eager", 1024, median=6.0, lower=5.0, upper=7.0, memory=100.0),
    row("wrong", 1024, median=0.1, error=1.0, within=False),
    row("difnet native", 4096, median=30.0),
    row("eager", 4096, status="out of memory", error=None, within=False, median=None, memory=None),
]


def test_wrong_result_is_not_the_best_rival():
    first, second = (format_group(group) for group in group_rows(ROWS).values())
    assert "| difnet native | 2 | 1.5 - 3 | 5 | 3.00 (1.67 - 4.67) | 50 | 1.0e-07 of 3.0e-07 | 10 |" in first
    assert "**1.0e+00 of 3.0e-07**" in first
    assert "Not measured: eager: out of memory." in second


def test_errors_of_output_and_gradient_have_separate_budgets():
    values = {"mode": "forward+backward", "gradient": "features[0]", "gradient_error": 2e-6}
    text = format_group([row("difnet native", 1024, **values, gradient_allowed=1e-6, within=False)])
    assert "| output error | gradient error |" in text
    assert "| 1.0e-07 of 3.0e-07 | **2.0e-06 of 1.0e-06 (features[0])** |" in text
    text = format_group([row("difnet native", 1024, **values, gradient_allowed=3e-6)])
    assert "| 1.0e-07 of 3.0e-07 | 2.0e-06 of 3.0e-06 (features[0]) |" in text
    unknown = {"mode": "forward+backward", "error": None, "allowed": None, "within": False}
    assert "| unknown | unknown |" in format_group([row("eager", 1024, **unknown)])
    assert "gradient" not in format_group([row("eager", 1024)])


@pytest.mark.parametrize(("ours", "rival"), [(2, 5), (5, 2)])
def test_two_repetitions_have_no_quartiles(ours, rival):
    text = format_group(
        [row("difnet native", 9, repetitions=ours), row("eager", 9, median=6.0, repetitions=rival)]
    )
    line = next(line for line in text.splitlines() if "difnet native" in line)
    assert "| 3.00 |" in line
    assert "(" not in line


def test_summary_shows_the_default_backend_even_if_another_is_faster(tmp_path):
    rows = [row("difnet native", 9, case="paper-inference", error=1.0, within=False)]
    rows.append(row("difnet blockwise", 9, case="paper-inference", median=0.5))
    text = tables.summary_table(written(tmp_path, rows))
    assert "blockwise" not in text
    assert "| native | 2 | 5 | 10 | none |" in text
    assert "**1.0e+00 of 3.0e-07**" in text


def test_plots_are_drawn_although_a_provider_ran_out_of_memory(tmp_path):
    pytest.importorskip("matplotlib")
    names = {path.name for path in plot_operator(ROWS, tmp_path)}
    end = "forward-float32-highest.png"
    assert names == {f"time-{end}", f"memory-{end}", f"floor-{end}", "error-forward.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


def written(folder, rows):
    """The rows after they were written to the folder of a machine and read again."""
    machine = folder / "machine"
    machine.mkdir(exist_ok=True)
    (machine / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tables.read(folder)


def test_rows_of_a_tree_with_changes_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"rows.jsonl: measured on abc\+changes"):
        written(tmp_path, [ROWS[0], row("eager", 1024, commit="abc+changes")])


def test_report_names_the_command_and_what_is_missing(tmp_path):
    common = {"command": "python benchmarks/bench_rw.py --minutes 1 --out rows.jsonl", "driver": "570.1"}
    common |= {"elapsed": 90.0}
    whole = [r | common | {"planned": 2, "providers": n} for n, r in zip((3, 3, 3, 2, 2), ROWS, strict=True)]
    text = tables.write_report(written(tmp_path, whole))
    assert text.startswith("# a CPU\n")
    assert "Rows: `rows.jsonl`, by `python benchmarks/bench_rw.py --minutes 1`, in 1.5 minutes." in text
    assert "driver 570.1; commit abc" in text
    assert "Incomplete" not in text
    cut = tables.write_report(written(tmp_path, [r | {"planned": 9} for r in whole[:4]]))
    assert "**Incomplete, the run was ended after 2 of 9 tables; 1 of 2 providers of sweep, forward" in cut


def test_lower_bound_of_memory_is_marked():
    text = format_group([row("eager", 9, memory_by="getrusage ru_maxrss, at least")])
    assert "| >= 10 |" in text


def test_documents_follow_the_rows(tmp_path):
    files = written(tmp_path, [r | {"case": "paper-inference"} for r in ROWS[:2]])
    text = "before\n<!-- begin summary -->\n| typed | 99 |\n<!-- end summary -->\nafter"
    filled = tables.fill(text, files)
    assert "typed" not in filled
    assert (
        "| 2 | 5 | 10 | eager | 6 | 5 | 100 | 3.00 (1.67 - 4.67) | 6 | 100 | 50 | 1.0e-07 of 3.0e-07 |"
        in filled
    )
    assert filled.startswith("before")
    assert filled.endswith("after")
    assert tables.fill(filled, files) == filled


@pytest.mark.slow
def test_pytest_benchmark_compares_runs(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "--benchmark-only",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--cases", "tiny", "--dtypes", "float32", "-k", "blockwise", "--benchmark-autosave"]
    command += [f"--benchmark-storage={tmp_path}"]
    # pytest-benchmark measures nothing in what pytest-xdist starts, which it sees by this variable.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}

    def run(*more: str) -> str:
        done = subprocess.run(
            [*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run()
    assert "Comparing against benchmarks from" in run("--benchmark-compare")


@pytest.mark.slow
def test_network_is_measured_in_parts_and_arrangements(tmp_path):
    out = tmp_path / "rows.jsonl"
    options = ["--size", "65", "--seconds", "0.01", "--no-memory"]
    options += ["--networks", "test_resnet", "--arrange", "test_resnet"]
    command = [sys.executable, "benchmarks/bench_model.py", *options, "--out", str(out)]
    command += ["--arrangements", "plain", BFLOAT16]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = load([out])
    parts = {row["part"] for row in rows if row["table"] == "networks"}
    assert parts == {"seed branch", "similarity branch", "diffusion", "total"}
    arrangements = {row["arrangement"]: row for row in rows if row["table"] == "arrangements"}
    assert arrangements["plain"]["within"]
    assert not arrangements[BFLOAT16]["within"], "bfloat16's error exceeds the budget of float32"
