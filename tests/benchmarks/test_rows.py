"""Rows of results: how they are written, and the environment that they name."""

import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from harness import rows as rows_module
from harness.rows import RESULTS, Rows, load, machine_name, run_environment
from reporting.report import describe_missing

from difnet_kernels.info import CHANGED

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
QUICK = ["--seconds", "0.01", "--no-memory"]
QUICK += ["--without", "eager, compiled", "FlexAttention, compiled", "KeOps"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_run_leaves_valid_rows(tmp_path, stop):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "benchmarks/bench_rw.py", *QUICK, "--out", str(out)]
    command += ["--cases", "tiny", "native-walk", "--seconds", "600", "--dtypes", "float32"]
    command += ["--precisions", "highest", "--modes", "forward"]
    # A process that a shell starts in the background ignores SIGINT, and its children inherit that.
    reset = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=reset, **quiet)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (out.exists() and load([out])):
            time.sleep(0.1)
        process.send_signal(stop)
        assert process.wait(60) == (0 if stop == signal.SIGINT else -stop)
    finally:
        process.kill()
    with out.open("a", encoding="utf-8") as file:
        file.write('{"cut sho')
    rows = load([out])
    assert rows
    names = {"provider", "status", "hardware", "commit", "date", "threads", "driver", "command"}
    assert all(names <= row.keys() for row in rows)
    assert rows[0]["command"].startswith("python benchmarks/bench_rw.py --seconds 0.01")
    assert describe_missing(rows).startswith("Incomplete, the run was ended after 1 of ")


def test_rows_of_an_earlier_run_are_kept_until_the_first_new_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"old": 1}\n')
    rows = Rows(path, {})
    assert load([path]) == [{"old": 1}]
    rows.add(new=2)
    rows.add(new=3)
    loaded = [row | {"elapsed": 0} for row in load([path])]
    assert loaded == [{"new": 2, "elapsed": 0}, {"new": 3, "elapsed": 0}]
    path.write_text('{"old": 1}\n{"cut\n{"new": 2}\n')
    with pytest.raises(ValueError, match="line 2: not a row"):
        load([path])


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_changed_tree_is_marked_but_changed_results_are_not(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code, results = tmp_path / "code.py", tmp_path / "benchmarks/results/rows.jsonl"
    results.parent.mkdir(parents=True)
    code.write_text("1")
    results.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(rows_module, "ROOT", tmp_path)
    results.write_text("2")
    commit = run_environment(CPU)["commit"]
    assert git("rev-parse", "HEAD").startswith(commit)
    assert len(commit) == 7
    code.write_text("2")
    assert run_environment(CPU)["commit"] == commit + CHANGED
    code.write_text("1")
    (tmp_path / "new.py").touch()
    assert run_environment(CPU)["commit"] == commit + CHANGED


def test_commit_is_unknown_outside_of_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "ROOT", tmp_path)
    assert run_environment(CPU)["commit"] == "unknown"


def test_driver_is_recorded_if_nvidia_smi_tells_it(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.1\necho 570.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    cuda = torch.device("cuda")
    assert run_environment(cuda)["driver"] == "570.1"
    assert run_environment(CPU)["driver"] is None
    program.write_text("#!/bin/sh\nexit 1\n")
    assert run_environment(cuda)["driver"] is None


def test_machine_names_are_readable(monkeypatch):
    assert machine_name(gpu="NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    monkeypatch.setattr(rows_module, "cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(rows_module, "instruction_sets", lambda: ("avx512_bf16", "avx2"))
    assert machine_name() == "amd-epyc-avx512_bf16"
    assert (RESULTS / machine_name()).is_dir()
    monkeypatch.setattr(rows_module, "cpu_name", lambda: "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz")
    assert machine_name() == "intel-xeon-gold-6248-avx512_bf16"
    monkeypatch.setattr(rows_module, "cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(rows_module, "instruction_sets", lambda: ())
    assert machine_name() == f"amd-epyc-{torch.backends.cpu.get_cpu_capability().lower()}"
