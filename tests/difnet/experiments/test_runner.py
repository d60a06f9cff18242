"""Whole experiments: what they write, how they go on, how they fail."""

import json
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import REPOSITORY, make_folder, start

from difnet.evaluate import EvaluateConfig, evaluate_checkpoint
from difnet.experiment import ExperimentConfig, run_experiment
from difnet.experiments import records, runner
from difnet.experiments.plan import Experiment, Variant
from difnet.training.run_folder import RunError
from difnet.utils.console import Reporter

EXPERIMENT = Experiment(
    name="small",
    title="A small experiment",
    question="Do walks help?",
    variants=(Variant("no walks", {"diffusion": False}), Variant("two walks", {"walk_sources": (0, 2)})),
    baseline="no walks",
    columns=("mean_iou", "difference", "gain", "boundary_f", "trimap", "fragments"),
    settings={
        **{"model": "test_resnet", "crop": 32, "batch_size": 4, "lr": 0.05, "max_steps": 2, "workers": 0},
        **{"log_every": 1, "overlays": 0},
    },
    datasets=("folder",),
)


class Lines(Reporter):
    """Keeps the printed lines."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def one_thread():
    """Trainings in other processes take one thread each, and import this package."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("OMP_NUM_THREADS", "1"), ("PYTHONPATH", path), ("CUDA_VISIBLE_DEVICES", "")):
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread):
    """Options, folder and printed lines of an experiment of two variants and two seeds that has ended."""
    folder = tmp_path_factory.mktemp("whole")
    config = ExperimentConfig(data_root=make_folder(folder / "data"), seeds=2, out=folder / "out")
    report = Lines()
    table = run_experiment(EXPERIMENT, config, report=report)
    return config, folder / "out", report.lines, table


@pytest.mark.slow
def test_every_run_is_trained_evaluated_and_recorded(whole):
    config, out, lines, table = whole
    assert sorted(path.parent.relative_to(out).as_posix() for path in out.glob("*/*/record.json")) == [
        *("no-walks/seed-0", "no-walks/seed-1", "two-walks/seed-0", "two-walks/seed-1"),
    ]
    assert [line for line in lines if " of 4: " in line][2] == (
        f"3 of 4: two walks, seed 0, 2 steps, in {out / 'two-walks/seed-0'}"
    )
    assert "two walks, seed 1: mean IoU " in "\n".join(lines)
    assert (out / "table.md").read_text() == table
    for row in json.loads((out / "table.json").read_text())["rows"]:
        assert all(row["values"][key]["mean"] is not None for key in ("boundary_f", "trimap", "fragments"))
    record = json.loads((out / "two-walks/seed-1/record.json").read_text())
    assert (record["variant"], record["seed"], record["run"]) == ("two walks", 1, "two-walks/seed-1")
    assert (record["steps"], record["starts"], record["config"]["seed"]) == (2, 1, 1)
    assert record["config"]["data_root"] == "data"
    assert record["seconds"] > 0.0
    assert record["flops"]["image_size"] == [40, 56]
    assert [it["step"] for it in record["curve"]["train"]] == [1, 2]
    (validation,) = record["curve"]["val"]
    assert validation["step"] == 2
    assert len(validation["mu"]) == len(validation["walk_mean_iou"]) == 2
    run = out / record["run"]
    request = EvaluateConfig(
        checkpoint=run / "last.safetensors",
        dataset="folder",
        data_root=config.data_root,
        workers=0,
        measures=True,
    )
    assert record["evaluation"] == evaluate_checkpoint(request)
    assert len(record["evaluation"]["measures"]["walks"]) == 2
    assert set(record["curve"]["train"][0]["gradient_norms"]) >= {"mu_logit", "beta_logit", "seed_branch"}
    assert record["environment"][0]["images"] == "8 training, 3 validation"
    assert "command" not in record["environment"][0]
    text = (run / "record.json").read_text()
    assert str(out.parent) not in text
    assert "/" not in " ".join(it for it in record["command"] if it != record["run"])
    assert (run / "log.txt").read_text().startswith(f"$ {sys.executable} -m difnet.train --dataset folder ")


@pytest.mark.slow
def test_finished_runs_are_not_run_again(whole, monkeypatch):
    config, out, _, table = whole
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *_, **__: pytest.fail("a run was started again"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*")}
    report = Lines()
    assert run_experiment(EXPERIMENT, config, report=report) == table
    assert report.lines == ["4 of 4 runs are finished already"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/*")} == before
    (out / "table.md").unlink()
    assert run_experiment(EXPERIMENT, replace(config, report=True)) == table
    assert (out / "table.md").read_text() == table
    listed = run_experiment(EXPERIMENT, replace(config, dry_run=True))
    assert listed.count(": done, ") == 4
    assert "4 runs, 4 of them done in " in listed
    assert "left" not in listed


@pytest.mark.slow
def test_a_trained_run_without_a_record_is_evaluated_again(whole, monkeypatch):
    config, out, _, table = whole
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *_, **__: pytest.fail("a run was started again"))
    file = out / "no-walks/seed-1/record.json"
    content = file.read_text()
    file.unlink()
    assert run_experiment(EXPERIMENT, config) == table
    assert file.read_text() == content


@pytest.mark.slow
def test_other_settings_are_refused(whole):
    config = whole[0]
    other = replace(EXPERIMENT, settings={**EXPERIMENT.settings, "lr": 0.01})
    for options in (config, replace(config, dry_run=True)):
        with pytest.raises(
            RunError, match=r"no-walks/seed-0 holds a run with lr = 0.05, the experiment needs 0.01"
        ):
            run_experiment(other, options)


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_others_go_on(data_root, tmp_path, one_thread):
    variants = (Variant("diverges", {"lr": 1e37}), Variant("works", {"diffusion": False}))
    experiment = replace(EXPERIMENT, variants=variants, baseline="works")
    launcher = f"env DIFNET_BACKEND=reference {sys.executable}"
    config = ExperimentConfig(data_root=data_root, seeds=1, out=tmp_path / "out", launcher=launcher)
    report = Lines()
    with pytest.raises(
        RunError, match=r"the table is not complete: 1 of 2 runs \(diverges, seed 0\) failed; correct"
    ):
        run_experiment(experiment, config, report=report)
    printed = "\n".join(report.lines)
    log = tmp_path / "out/diverges/seed-0/log.txt"
    assert f"diverges, seed 0 failed: its exit status is 1; the end of {log}:" in printed
    assert re.search(r"difnet\.train: error: .*start again with a lower --lr", printed)
    assert "| diverges | 0 of 1 | - | - | - | - | - | - |" in (tmp_path / "out/table.md").read_text()
    assert "- diverges: none; missing: seed 0" in (tmp_path / "out/table.md").read_text()
    record = json.loads((tmp_path / "out/works/seed-0/record.json").read_text())
    assert record["launcher"] == f"env DIFNET_BACKEND=reference {Path(sys.executable).name}"


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on_where_it_stopped(data_root, tmp_path):
    arguments = [
        *("ablations", "--dataset", "folder", "--data-root", str(data_root), "--out", str(tmp_path / "out")),
        *("--seeds", "1", "--only", "no-walks", "--workers", "0", "--", "--model", "test_resnet"),
        *("--crop", "32", "--batch-size", "4", "--lr", "0.001", "--max-steps", "150", "--log-every", "1"),
        *("--checkpoint-every", "1000", "--eval-every", "1000", "--overlays", "0"),
    ]
    run = tmp_path / "out/no-walks/seed-0"
    process = start("difnet.experiment", *arguments)
    deadline = time.monotonic() + 180
    while not ((run / "log.txt").is_file() and "step 3/150 " in (run / "log.txt").read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 130, printed
    assert "stopped with 0 of 1 runs finished; the same command goes on from the last checkpoint" in printed
    log = (run / "log.txt").read_text()
    assert log.count("stopping after this step") == 1  # the signal reached the training once
    assert "with a checkpoint, nothing is lost" in log
    assert (run / "state.safetensors").is_file()

    again = start("difnet.experiment", *arguments)
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0, printed
    record = json.loads((run / "record.json").read_text())
    assert (record["starts"], len(record["environment"])) == (2, 2)
    assert [it["step"] for it in record["curve"]["train"]] == list(range(1, 151))
    assert (run / "log.txt").read_text().count(" --resume ") >= 1
    first, second = json.loads((run / "starts.json").read_text())
    assert record["seconds"] == pytest.approx(first + second)


def test_processes_share_the_runs(data_root, tmp_path, monkeypatch):
    """A run that another process has taken is left to it, the others are carried out."""
    config = ExperimentConfig(data_root=data_root, seeds=2, out=tmp_path / "out")
    runs = [f"{variant.slug}/seed-{seed}" for variant in EXPERIMENT.variants for seed in (0, 1)]
    carried_out = []

    def carry_out(run, out, *_):
        carried_out.append(str(run.folder))
        (out / run.folder).mkdir(parents=True)
        (out / run.folder / "record.json").touch()

    monkeypatch.setattr(runner, "_carry_out", carry_out)
    monkeypatch.setattr(runner, "_table", lambda *_: "the table")
    monkeypatch.setattr(runner, "check_folder", lambda *_: None)  # the records here are empty
    variant, seed = runs[1].split("/")
    with (
        runner.locked(tmp_path / "out" / variant / f".{seed}.lock"),
        pytest.raises(RunError, match=r"1 of \d+ runs \(.*, seed 1\) are left to other processes"),
    ):
        run_experiment(EXPERIMENT, config)
    assert carried_out == [runs[0], *runs[2:]]
    assert run_experiment(EXPERIMENT, config) == "the table"
    assert carried_out == [runs[0], *runs[2:], runs[1]]


def test_an_unknown_launcher_is_refused(data_root, tmp_path):
    config = ExperimentConfig(
        data_root=data_root, out=tmp_path / "out", launcher="torchrunn --nproc-per-node 2"
    )
    with pytest.raises(ValueError, match="there is no command torchrunn; install it"):
        run_experiment(EXPERIMENT, config)


def test_the_log_is_read_without_incomplete_lines(tmp_path):
    assert records.read_log(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 1}\n{"kind": "tra\n{"kind": "val", "step": 2}\n'
    )
    assert [it["step"] for it in records.read_log(tmp_path)] == [1, 2]
