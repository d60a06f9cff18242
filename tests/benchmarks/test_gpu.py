"""tools/gpu_checks.py: which rows the documents get, how stages are bounded. A rehearsal runs its stages."""

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu_checks as gpu
import pytest
from reporting import tables

ROW = {"benchmark": "rw", "device": "cuda", "commit": "1234567", "status": "ok", "versions": {"triton": "3"}}


@pytest.fixture
def rows(tmp_path):
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
    assert "make tables" in gpu.publish(rows(), "passed", results)
    ((path, found),) = tables.of(tables.read(results), "rw").items()
    assert path.name == "rw-gpu.jsonl"
    assert [row["commit"] for row in found] == ["1234567"], "half a line is no row"


@pytest.mark.parametrize(
    ("values", "result", "reason"),
    [
        ({"device": "cpu"}, "passed", "not measured on a GPU"),  # a rehearsal
        ({"commit": "1234567+changes"}, "passed", "the tree is no commit's"),
        ({"commit": "unknown"}, "passed", "the tree is no commit's"),
        ({"status": "out of memory"}, "passed", "nothing was measured"),
        ({}, "stopped after 100 s", "the benchmark stopped after 100 s"),
    ],
)
def test_other_rows_are_not(rows, results, values, result, reason):
    assert gpu.publish(rows(**values), result, results).endswith(reason)
    assert not list(results.iterdir())


def test_nothing_is_written_where_the_documents_are_made_from(monkeypatch, capsys):
    before = sorted(gpu.RESULTS.iterdir())
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--rehearse", "--out", str(gpu.RESULTS)])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "give another folder" in capsys.readouterr().err
    assert sorted(gpu.RESULTS.iterdir()) == before


def test_git_ignores_what_is_written_by_default():
    path = gpu.RESULTS / "runs" / "gpu" / "walks.jsonl"
    command = ["git", "-C", str(gpu.ROOT), "check-ignore", "-q", str(path)]
    if not (gpu.ROOT / ".git").exists():
        pytest.skip("not in a clone")
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("rehearse", [True, False])
def test_tuning_is_last_and_has_what_is_left(rehearse, monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name)
    *others, tuning = gpu.stages(rehearse, Path("out"))
    assert tuning.name == "tuning"
    assert "tuning" not in {stage.name for stage in others}
    longest = sum(stage.seconds for stage in others)
    assert gpu.bounded(tuning, longest).seconds >= tuning.seconds
    for spent in (0.0, 100.0, longest):
        stage = gpu.bounded(tuning, spent)
        assert spent + stage.seconds < gpu.LIMIT
        assert stage.command[-2] == "--minutes"
        assert 60 * float(stage.command[-1]) < stage.seconds


def test_a_stage_is_stopped_with_its_children(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    stage = gpu.Stage("sleep", 1, [sys.executable, "-c", parent], {})
    assert gpu.run(stage, {}, tmp_path / "sleep.log") == "stopped after 1 s"
    time.sleep(3)
    assert not mark.exists()
