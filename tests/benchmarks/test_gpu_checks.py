"""tools/gpu_checks.py: publishing of rows, time limits of stages. `make rehearse` runs the stages."""

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu_checks
import pytest
from reporting import tables

ROW = {"benchmark": "rw", "device": "cuda", "hardware": "NVIDIA H100 80GB HBM3", "commit": "1234567"}
ROW |= {"status": "ok", "versions": {"triton": "3"}}


@pytest.fixture
def rows(tmp_path):
    """Writes a file of one row and half of another."""

    def write(**values):
        path = tmp_path / "out" / "walks.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(ROW | values) + "\n" + '{"benchmark": "rw", "versions": {}')
        return path

    return write


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def test_rows_of_a_commit_on_a_gpu_are_published(rows, results):
    assert "make tables" in gpu_checks.publish(rows(), "passed", results)
    ((path, found),) = tables.rows_of(tables.read(results), "rw").items()
    assert path == results / "nvidia-h100-80gb-hbm3" / "rw.jsonl"
    assert [row["commit"] for row in found] == ["1234567"], "half a line is not a row"


@pytest.mark.parametrize(
    ("values", "result", "reason"),
    [
        ({"device": "cpu"}, "passed", "not measured on a GPU"),  # a rehearsal
        ({"commit": "1234567+changes"}, "passed", "not measured on a commit without changes"),
        ({"commit": "unknown"}, "passed", "not measured on a commit without changes"),
        ({"status": "out of memory"}, "passed", "nothing was measured"),
        ({}, "stopped after 100 s", "the benchmark stopped after 100 s"),
    ],
)
def test_other_rows_are_not_published(rows, results, values, result, reason):
    assert gpu_checks.publish(rows(**values), result, results).endswith(reason)
    assert not list(results.iterdir())


@pytest.mark.parametrize("machine", ["", "amd-epyc-avx2"])
def test_output_among_the_published_rows_is_refused(monkeypatch, capsys, machine):
    before = sorted(gpu_checks.RESULTS.rglob("*"))
    out = str(gpu_checks.RESULTS / machine)
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py", "--rehearse", "--out", out])
    with pytest.raises(SystemExit):
        gpu_checks.main()
    assert "give another folder" in capsys.readouterr().err
    assert sorted(gpu_checks.RESULTS.rglob("*")) == before


def test_git_ignores_the_default_output():
    path = gpu_checks.RUNS / "gpu" / "walks.jsonl"
    command = ["git", "-C", str(gpu_checks.ROOT), "check-ignore", "-q", str(path)]
    if not (gpu_checks.ROOT / ".git").exists():
        pytest.skip("not in a clone")
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("rehearse", [True, False])
def test_tuning_is_the_last_stage_and_gets_the_remaining_time(rehearse, monkeypatch):
    monkeypatch.setattr(gpu_checks.shutil, "which", lambda name: name)
    *others, tuning = gpu_checks.list_stages(rehearse, Path("out"))
    assert tuning.name == "tuning"
    assert "tuning" not in {stage.name for stage in others}
    longest = sum(stage.seconds for stage in others)
    assert gpu_checks.with_remaining_time(tuning, longest).seconds >= tuning.seconds
    for spent in (0.0, 100.0, longest):
        stage = gpu_checks.with_remaining_time(tuning, spent)
        assert spent + stage.seconds < gpu_checks.TOTAL_SECONDS
        assert stage.command[-2] == "--minutes"
        assert 60 * float(stage.command[-1]) < stage.seconds


def test_stage_is_stopped_with_its_child_processes(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    stage = gpu_checks.Stage("sleep", 1, [sys.executable, "-c", parent], {})
    assert gpu_checks.run(stage, {}, tmp_path / "sleep.log") == "stopped after 1 s"
    time.sleep(3)
    assert not mark.exists()
