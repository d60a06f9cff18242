"""A run from start to end: which files it writes, how it resumes, how it fails."""

import errno
import json
import os
import re
import shutil
import signal
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import make_folder, start, tiny, write_pair

from difnet import create_model, evaluate, load_model, save_model, train
from difnet.data import DataError
from difnet.training import state as state_file
from difnet.training.config import SCENES, TrainConfig
from difnet.training.data_check import class_weights
from difnet.training.run_folder import RunError, RunFolder
from difnet.training.state import read_state
from difnet.training.trainer import Trainer
from difnet.utils import files
from difnet_kernels.backends import choose


def losses(run: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


def assert_same_run(one: Path, other: Path) -> None:
    """Check that losses, weights, optimizer state and random states are bitwise equal."""
    assert losses(one) == losses(other)
    first, second = (load_file(run / "state.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert any(name.startswith("optimizer.") for name in first)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def stop_after(monkeypatch, step: int) -> None:
    """Send a SIGINT to this process while `step` is logged."""
    original = RunFolder.log

    def log(self, record):
        original(self, record)
        if record["step"] == step and record["kind"] == "train":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunFolder, "log", log)


def test_best_weights_are_kept_when_the_log_is_lost(data_root, tmp_path):
    """A run that has lost metrics.jsonl does not replace its best weights with worse ones."""
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--epochs", "2")) == 0
    best = run / "best.safetensors"
    model, metadata = load_model(best)
    save_model(model, best, metadata=metadata | {"mean_iou": 0.999, "step": 1})
    content = best.read_bytes()
    (run / "metrics.jsonl").unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"epochs": 3}))
    assert train.main(["--resume", str(run)]) == 0
    assert best.read_bytes() == content
    assert (run / "metrics.jsonl").read_text().count('"kind": "val"') >= 1


def test_run_writes_all_files(data_root, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--epochs", "2", "--overlays", "2")) == 0
    assert sorted(path.name for path in run.iterdir()) == [
        *(".lock", "best.safetensors", "config.json", "environment.json", "last.safetensors"),
        *("metrics.jsonl", "overlays", "state.safetensors", "tensorboard"),
    ]
    config = json.loads((run / "config.json").read_text())
    assert config["crop"] == 32
    assert config["weight_decay"] == 5e-4  # from the paper's recipe
    (environment,) = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch")
    assert environment["walks"].partition(" ")[0] == choose(None, torch.device("cpu"))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in records] == [
        *(("train", 1), ("train", 2), ("val", 2), ("train", 3), ("train", 4), ("val", 4)),
    ]
    assert [r["lr"] for r in records if r["kind"] == "train"] == [0.05 * (1 - i / 4) ** 0.9 for i in range(4)]
    final = records[-1]
    assert set(final["iou"]) == {"left", "right", "block"}
    assert len(final["mu"]) == len(final["beta"]) == len(final["walk_mean_iou"]) == 2
    assert final["walk_mean_iou"][-1] == final["mean_iou"]
    assert len(list((run / "overlays").iterdir())) == 2
    assert list((run / "tensorboard").glob("**/events*"))
    printed = capsys.readouterr().out
    assert re.search(r"step 4/4 .* \d+\.\d\d s/step  0:00:00 left", printed)
    assert "a checkpoint every 1 steps, at evaluations and on Ctrl-C" in printed
    assert f"walks by {environment['walks']}" in printed
    assert "before diffusion" in printed
    assert "after walk 2" in printed


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_interrupted_run_continues_bitwise(data_root, tmp_path, monkeypatch, capsys, optimizer):
    options = ("--epochs", "3", "--optimizer", optimizer, "--accumulation", "2", "--checkpoint-every", "100")
    assert train.main(tiny(data_root, tmp_path / "whole", *options)) == 0
    with monkeypatch.context() as patched:
        stop_after(patched, step=2)
        # Step 2 ends an epoch. The run notices the signal after step 3, in the middle of the next epoch.
        assert train.main(tiny(data_root, tmp_path / "cut", *options)) == 130
    stopped = "stopped after step 3 of 6 with a checkpoint, nothing is lost; continue with --resume"
    assert stopped in capsys.readouterr().err
    assert train.main(["--resume", str(tmp_path / "cut"), "--workers", "2"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert len(json.loads((tmp_path / "cut/environment.json").read_text())) == 2


@pytest.mark.parametrize(
    ("place", "every", "message"),
    [
        ("add_environment", 1, "0 of 3 steps done; there is no checkpoint yet, --resume {} starts over"),
        ("log", 100, "1 of 3 steps done; there is no checkpoint yet, --resume {} starts over"),
        ("save", 1, "1 of 3 steps done; there is no checkpoint yet, --resume {} starts over"),
        ("cut_log", 1, "3 of 3 steps done; the last checkpoint is whole, continue with --resume {}"),
    ],
)
def test_stop_at_once_says_what_is_on_disk(data_root, tmp_path, monkeypatch, capsys, place, every, message):
    """A second Ctrl-C stops the run at once, and so does one before the first step."""

    def interrupt(*_arguments):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    arguments = tiny(data_root, run, "--max-steps", "3", "--checkpoint-every", str(every))
    if "3 of 3" in message:
        assert train.main(arguments) == 0
        arguments = ["--resume", str(run)]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer if place == "save" else RunFolder, place, interrupt)
        assert train.main(arguments) == 130
    assert f"stopped at once, {message.format(run)}" in capsys.readouterr().err
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert [step for step, _ in losses(run)] == [1, 2, 3]


def test_killed_run_continues_bitwise(data_root, tmp_path):
    options = ("--epochs", "20", "--eval-every", "5")
    cut = start("difnet.train", *tiny(data_root, tmp_path / "cut", *options))
    metrics = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() or metrics.read_text().count("\n") < 7:
        assert cut.poll() is None, cut.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    cut.kill()  # SIGKILL
    cut.communicate()
    state = read_state(tmp_path / "cut/state.safetensors")
    assert 5 <= state.header["step"] < 40
    assert train.main(tiny(data_root, tmp_path / "whole", *options)) == 0
    with metrics.open("a") as file:
        file.write('{"kind": "train", "step": 9')  # a line cut short by the kill
    again = start("difnet.train", "--resume", str(tmp_path / "cut"))
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert "changed since" not in output
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_kill_before_the_first_checkpoint(data_root, tmp_path):
    assert train.main(tiny(data_root, tmp_path / "run", "--max-steps", "2")) == 0
    for name in ("state", "last", "best"):
        (tmp_path / "run" / f"{name}.safetensors").unlink()
    leftover = tmp_path / "run" / ".state.safetensors.abc.tmp"
    leftover.write_bytes(b"half a file")
    before = losses(tmp_path / "run")
    assert train.main(["--resume", str(tmp_path / "run"), "--workers", "0"]) == 0
    assert losses(tmp_path / "run") == before
    assert not leftover.exists()


def test_full_disk(data_root, tmp_path, monkeypatch, capsys):
    """Without space for the third checkpoint, the run fails with a message, and the second stays whole."""
    count = 0
    original = state_file.write_atomically

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(path, content):
        nonlocal count
        count += path.name == "state.safetensors"
        with pytest.MonkeyPatch.context() as full:
            if count == 3:
                full.setattr(files.os, "fsync", refuse)
            original(path, content)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(state_file, "write_atomically", write)
        assert train.main(tiny(data_root, run, "--epochs", "2")) == 1
    message = capsys.readouterr().err
    where = f"step 3: {run / 'state.safetensors'} cannot be written (No space left on device)"
    kept = f"the last checkpoint is whole, continue with --resume {run}"
    assert f"{where}; free some space; {kept}\n" in message
    assert read_state(run / "state.safetensors").header["step"] == 2
    assert [path.name for path in run.glob(".*")] == [".lock"]
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "camvid"], "needs a folder; give --data-root"),
        (["--dataset", "folder", "--data-root", "/nonexistent"], "/nonexistent is not a folder"),
        (["--out", "/proc/nowhere/run"], "cannot be written"),
        (
            ["--resume", "nowhere"],
            "nowhere is not a folder; --resume takes the folder of a run, training with",
        ),
        (["--resume", "."], ". holds no run (config.json is missing); --resume takes the folder of a run"),
        (["--resume", "runs/x", "--lr", "1"], "leave out every other option except"),
        (["--lr", "-1"], "--lr must be positive, got -1"),
        (["--lr", "nan"], "--lr must be finite, got nan"),
        (["--momentum", "inf"], "--momentum must be finite, got inf"),
        (["--scale", "1", "inf"], "--scale must be finite, got (1.0, inf)"),
        (["--seed", "99999999999"], "--seed must be below 2^32, got 99999999999"),
        (["--void-value", "0"], "--void-value and --label-offset are for --dataset folder; scenes numbers"),
        (["--resume", "runs/x", "--void-value", "0"], "leave out every other option except"),
        (["--batch-size", "5000"], "batch_size 5000 is larger than the 1920"),
        (["--class-weights", "1,2,x"], "neither none, median-frequency, numbers, nor a readable file"),
        (["--precision", "fp16"], "needs a CUDA"),
        (["--init-from", "nowhere"], "nowhere: no such file or run folder"),
        (["--resume", "runs/x", "--init-from", "x"], "leave out every other option except"),
        (["--batch-size", "1", "--crop", "8"], "'resnet18.tv_in1k' cannot be trained on one image of 8 x 8"),
    ],
)
def test_clear_errors(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "fp16" in arguments and torch.cuda.is_available():
        pytest.skip("fp16 works here")
    assert train.main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "name",
    [
        *("state.safetensors", "last.safetensors", "best.safetensors", "metrics.jsonl", "environment.json"),
        *("overlays", "tensorboard"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_folder_with_a_part_of_another_run_is_refused(data_root, tmp_path, capsys, name, kind):
    run = tmp_path / "run"
    run.mkdir()
    if kind == "file":
        (run / name).write_bytes(b"other")
    elif kind == "folder":
        (run / name).mkdir()
    else:
        (run / name).symlink_to("gone")
    (run / "notes.txt").touch()
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 1
    printed = capsys.readouterr()
    assert f"{run} holds {name} of another run; move it away or choose another --out\n" in printed.err
    assert "checking" not in printed.out
    assert {path.name for path in run.iterdir()} == {"notes.txt", name}


@pytest.mark.parametrize("kind", ["folder", "broken link"])
def test_config_json_that_is_not_a_file_is_refused(data_root, tmp_path, capsys, kind):
    config = tmp_path / "run" / "config.json"
    config.parent.mkdir()
    config.mkdir() if kind == "folder" else config.symlink_to("gone")
    assert train.main(tiny(data_root, config.parent, "--max-steps", "1")) == 1
    assert f"{config.parent} holds config.json of another run; move it away or" in capsys.readouterr().err


def test_all_parts_of_another_run_are_named(data_root, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    (run / "config.json").unlink()
    log = (run / "metrics.jsonl").read_bytes()
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 1
    assert (
        f"{run} holds environment.json, metrics.jsonl, state.safetensors, last.safetensors, "
        "best.safetensors, tensorboard, overlays of another run; move them away or choose another --out\n"
    ) in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("name", ["metrics.jsonl", "last.safetensors", "overlays", "tensorboard"])
def test_resume_checks_its_files_before_it_reads_the_data(data_root, tmp_path, capsys, name):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    (run / name).rename(tmp_path / "away")
    (run / name).touch() if (tmp_path / "away").is_dir() else (run / name).mkdir()
    capsys.readouterr()
    assert train.main(["--resume", str(run), "--workers", "0"]) == 1
    printed = capsys.readouterr()
    assert f"{run / name} is a f" in printed.err
    assert printed.err.count("\n") == 1
    assert "checking" not in printed.out


@pytest.mark.parametrize("place", ["images", "images/train/run", "labels/run", "link"])
def test_run_folder_among_the_data_is_refused(data_root, tmp_path, capsys, place):
    (data_root / "link").symlink_to("images/val")
    before = sorted(data_root.rglob("*"))
    assert train.main(tiny(data_root, data_root / place, "--max-steps", "1")) == 1
    error = capsys.readouterr().err
    assert f"run folder {data_root / place} is in {data_root}/" in error
    assert "its pictures would be taken for data; choose another --out\n" in error
    assert sorted(data_root.rglob("*")) == before


def test_run_folder_whose_name_is_not_utf8_is_refused(data_root, tmp_path, capsys):
    run = tmp_path / os.fsdecode(b"x\xff")
    config = TrainConfig(dataset="folder", data_root=data_root, out=run, batch_size=4)
    with pytest.raises(
        RunError, match="its name is not UTF-8, and TensorBoard cannot write to such a folder"
    ):
        train.train(config)
    assert "checking" not in capsys.readouterr().out
    assert not run.exists()


def test_one_process_writes_to_a_run(data_root, tmp_path, capsys):
    """--resume is refused while another process trains, and works once that process is killed."""
    run = tmp_path / "run"
    first = start("difnet.train", *tiny(data_root, run, "--max-steps", "500", "--workers", "1"))
    deadline = time.monotonic() + 60
    while not (run / "state.safetensors").exists():
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert train.main(["--resume", str(run)]) == 1
    words = f"another process, or another training in this one, is writing to {run}; wait until it has ended"
    assert words in capsys.readouterr().err
    assert first.poll() is None
    first.kill()  # SIGKILL
    first.communicate()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"max_steps": 1}))
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0


def test_small_scale_is_reported(data_root, tmp_path, capsys):
    line = "shrinks training images such as view0, of 40 x 56 pixels, to"
    for number, low in enumerate(("0.001", "0.15", "0.2")):
        options = ("--max-steps", "1", "--scale", low, "1")
        assert train.main(tiny(data_root, tmp_path / str(number), *options)) == 0
    printed = capsys.readouterr().out
    assert f"--scale 0.001 {line} 1 x 1; raise it if that shows too little" in printed
    assert f"--scale 0.15 {line} 6 x 8; raise it if that shows too little" in printed
    assert "--scale 0.2 shrinks" not in printed


def test_error_of_tensorboard_names_its_folder(data_root, tmp_path, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("difnet.training.setup.Accelerator.init_trackers", fail)
        assert train.main(tiny(data_root, run, "--max-steps", "1")) == 1
    words = f"{run / 'tensorboard'} cannot be written (No space left on device); free some space\n"
    assert words in capsys.readouterr().err
    assert not run.exists()
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0


def test_run_folder_is_never_overwritten(data_root, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 1
    assert "holds a run already; continue it with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["--model", "difnet7"], {}, "difnet7"),
        (["--walk-sources", "5"], {}, "5"),
        ([], {"DIFNET_BACKEND": "tritn"}, "DIFNET_BACKEND='tritn' is unknown; expected one of native"),
        ([], {"DIFNET_CPU_ISA": "vax"}, "DIFNET_CPU_ISA=vax cannot run here; expected one of"),
    ],
)
@pytest.mark.parametrize("existed", [False, True])
def test_run_that_cannot_begin_leaves_its_folder_free(
    data_root, tmp_path, capsys, monkeypatch, options, variables, words, existed
):
    if "DIFNET_CPU_ISA" in variables and choose(None, torch.device("cpu")) != "native":
        pytest.skip("there are no compiled kernels here")
    run = tmp_path / "run"
    if existed:
        run.mkdir()
        (run / "notes.txt").touch()
    with monkeypatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        assert train.main(tiny(data_root, run, "--max-steps", "1", *options)) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert [path.name for path in run.iterdir()] == ["notes.txt"] if existed else not run.exists()
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0


def test_validation_pictures_of_several_sizes(data_root, tmp_path):
    write_pair(data_root, "val", "view1", (44, 60), np.random.default_rng(1))
    records = []
    for size in ("1", "4"):
        run = tmp_path / size
        assert train.main(tiny(data_root, run, "--max-steps", "1", "--eval-batch-size", size)) == 0
        records.append(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]))
    assert records[0]["iou"] == pytest.approx(records[1]["iou"], abs=1e-3)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            OSError(errno.EIO, "broken disk"),
            1,
            "system refused at step 2: [Errno 5] broken disk; the last",
        ),
        (
            PermissionError(errno.EACCES, "locked"),
            1,
            "step 2: [Errno 13] locked; make the folder writable",
        ),
        (RuntimeError("CUDA out of memory. Tried"), 1, "memory ran out at step 2; lower --eval-batch-size"),
        (DataError("x.png cannot be read"), 1, "step 2: x.png cannot be read"),
        (ZeroDivisionError("a bug"), None, "an error ended the run at step 2"),
        (KeyboardInterrupt(), 130, "stopped at once, 2 of 3 steps done"),
    ],
)
def test_failed_evaluation_loses_nothing(data_root, tmp_path, monkeypatch, capsys, error, status, words):
    """State and weights of the step are on disk, and a continued run repeats the evaluation."""
    options = ("--max-steps", "3", "--checkpoint-every", "100")
    assert train.main(tiny(data_root, tmp_path / "whole", *options)) == 0
    run = tmp_path / "cut"

    def fail(*_arguments, **_options):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("difnet.training.trainer.evaluate", fail)
        if status is None:
            with pytest.raises(ZeroDivisionError):
                train.main(tiny(data_root, run, *options))
        else:
            assert train.main(tiny(data_root, run, *options)) == status
    printed = capsys.readouterr()
    assert words in printed.out + printed.err
    assert f"the last checkpoint is whole, continue with --resume {run}" in printed.out + printed.err
    model, metadata = load_model(run)
    assert metadata["step"] == 2
    assert model.num_classes == 3
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert_same_run(tmp_path / "whole", run)
    both = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-4:] for name in ("whole", "cut")]
    assert [json.loads(line) for line in both[0]] == [json.loads(line) for line in both[1]]


def test_failed_overlays_lose_nothing(data_root, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def fail(*_arguments):
        raise OSError(errno.ENAMETOOLONG, "File name too long")

    with monkeypatch.context() as patched:
        patched.setattr("difnet.training.trainer.save_overlays", fail)
        assert train.main(tiny(data_root, run, "--max-steps", "2")) == 1
    assert "File name too long; the last checkpoint is whole, continue with " in (capsys.readouterr().err)
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert list((run / "overlays").iterdir())
    assert [record["step"] for record in RunFolder(run).evaluations(9)] == [2]


def test_data_damaged_during_training(data_root, tmp_path, monkeypatch, capsys):
    """An image is damaged after the check: the error names it, even from a worker, and what is on disk."""
    original = RunFolder.cut_log

    def damage(self, step):
        original(self, step)
        for path in (data_root / "images/val").iterdir():
            path.write_bytes(b"x")

    monkeypatch.setattr(RunFolder, "cut_log", damage)
    assert train.main(tiny(data_root, tmp_path / "run", "--max-steps", "2", "--workers", "1")) == 1
    error = capsys.readouterr().err
    assert re.match(r"difnet.train: error: step 2: \S+/val/view\d.png is not an image that Pillow", error)
    assert "the last checkpoint is whole, continue with --resume" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("source", ["weights", "log"])
def test_best_evaluation_is_restored(data_root, tmp_path, capsys, source):
    """The best evaluation is saved with the best weights; in earlier versions only the log held it."""
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--epochs", "1")) == 0
    record = {"iou": {"left": 1.0, "right": 1.0, "block": None}, "mean_iou": 1.0}
    model, metadata = load_model(run)
    kept = {name: value for name, value in metadata.items() if name not in record}
    save_model(model, run / "best.safetensors", metadata=kept | (record if source == "weights" else {}))
    if source == "log":
        log = run / "metrics.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps(line | record) + "\n" for line in lines))
    edit_config(run, epochs=2)
    best = (run / "best.safetensors").read_bytes()
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert (run / "best.safetensors").read_bytes() == best
    assert "best 100.00% over 2 of 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-9] + b"xxxxxxxxx")]
)
@pytest.mark.parametrize("epochs", [2, 3])
def test_lost_best_weights_are_reported_and_replaced(data_root, tmp_path, capsys, damage, epochs):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--epochs", "2")) == 0
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace('"mean_iou": ', '"mean_iou": 1', 1))  # more than 100 %
    damage(run / "best.safetensors")
    damage(run / "last.safetensors")
    edit_config(run, epochs=epochs)
    capsys.readouterr()
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert f"{run}/best.safetensors is missing or damaged: the weights of the best" in capsys.readouterr().out
    metadata, last = load_model(run / "best.safetensors")[1], load_model(run / "last.safetensors")[1]
    assert metadata["step"] >= 4
    assert last["step"] == 2 * epochs
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert f"best {100 * metadata['mean_iou']:.2f}% over" in capsys.readouterr().out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Two finished runs of two steps, one with each optimizer."""
    folder = tmp_path_factory.mktemp("stopped")
    root = make_folder(folder / "data")
    for name, rate in (("sgd", "0.05"), ("adamw", "0.001")):
        AcceleratorState._reset_state(reset_partial_state=True)
        options = ("--max-steps", "2", "--overlays", "0", "--optimizer", name, "--lr", rate)
        assert train.main(tiny(root, folder / name, *options)) == 0
    return folder


def edit_config(run: Path, **changes) -> None:
    file = run / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def resume_error(run: Path, capsys) -> str:
    capsys.readouterr()
    assert train.main(["--resume", str(run), "--workers", "0"]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("optimizer", "changes", "words"),
    [
        ("sgd", {"model": "resnet18"}, "of another network than"),
        ("sgd", {"model": "simdeeplab18"}, "restore model, aspp and walk_sources there"),
        ("sgd", {"walk_sources": [0]}, "(as mu_logit shows)"),
        ("sgd", {"walk_sources": [2, 0]}, "(as embeddings.0.project.weight shows)"),
        ("sgd", {"aspp": False}, "(as classifier.branches.1.bias shows)"),
        ("sgd", {"optimizer": "adamw"}, "of another optimizer than"),
        ("adamw", {"optimizer": "sgd"}, "of another optimizer than"),
        ("sgd", {"max_steps": "4"}, "(max_steps is '4', expected int | None)"),
        ("sgd", {"seed": "x"}, "(seed is 'x', expected int)"),
        ("sgd", {"model": 3}, "(model is 3, expected str)"),
        ("sgd", {"walk_sources": ["0"]}, "(walk_sources is ('0',), expected tuple[int, ...])"),
        ("sgd", {"walk_sources": None}, "(walk_sources is None, expected tuple[int, ...])"),
        ("sgd", {"scale": [1.0]}, "(scale is (1.0,), expected tuple[float, float] | None)"),
        ("sgd", {"dataset": "foo"}, "(dataset is 'foo', expected Literal['scenes', 'camvid', 'folder'])"),
        ("sgd", {"data_root": 3}, "(data_root is 3, expected pathlib.Path | None)"),
        ("sgd", {"eval_every": 0}, "(--eval-every must be positive, got 0)"),
    ],
)
def test_edited_configuration_is_an_error_of_one_line(stopped, tmp_path, capsys, optimizer, changes, words):
    run = shutil.copytree(stopped / optimizer, tmp_path / "run")
    edit_config(run, **({"max_steps": 4} | changes))
    error = resume_error(run, capsys)
    assert words in error
    assert str(run / "config.json") in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header, _: header.pop("step"), "(its header holds step = None)"),
        (lambda header, _: header.update(step="4"), "(its header holds step = '4')"),
        (lambda header, _: header.update(step=-1), "(its header holds step = -1)"),
        (lambda header, _: header.update(classes=3), "(its header holds classes = 3)"),
        (lambda _, tensors: tensors.pop("rng.cpu"), "(rng, the random states: 'cpu')"),
        (lambda _, tensors: tensors["rng.cpu"].zero_(), "(rng, the random states: Invalid mt19937 state)"),
        (
            lambda _, tensors: tensors.update({"optimizer.0.momentum_buffer": torch.zeros(3)}),
            "(optimizer.0.momentum_buffer is of shape (3,))",
        ),
        (lambda header, _: header.update(checksum="0"), "(its checksum is "),
    ],
)
def test_damaged_state_is_an_error_of_one_line(stopped, tmp_path, capsys, change, words):
    """The checksum is removed, as in a state of an earlier version, so that the other checks are reached."""
    run = shutil.copytree(stopped / "sgd", tmp_path / "run")
    file = run / "state.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["difnet.state"])
    del header["checksum"]
    change(header, tensors)
    save_file(tensors, file, metadata={"difnet.state": json.dumps(header)})
    error = resume_error(run, capsys)
    assert f"difnet.train: error: {file} is damaged {words}" in error
    assert error.count("\n") == 1


def test_state_without_checksum_can_be_continued(stopped, tmp_path):
    run = shutil.copytree(stopped / "sgd", tmp_path / "run")
    file = run / "state.safetensors"
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["difnet.state"])
    del header["checksum"]
    save_file(load_file(file), file, metadata={"difnet.state": json.dumps(header)})
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0


def test_state_whose_end_is_lost_is_refused(stopped, tmp_path, capsys):
    run = shutil.copytree(stopped / "sgd", tmp_path / "run")
    file = run / "state.safetensors"
    content = file.read_bytes()
    for cut in (3000, len(content) // 2):
        file.write_bytes(content[:-cut] + bytes(cut))
        assert f"{file} is damaged (its checksum is " in resume_error(run, capsys)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "has mean_iou = None"),
        ({"mean_iou": None, "iou": {}}, "has mean_iou = None"),
        ({"mean_iou": "x", "iou": {}}, "has mean_iou = 'x'"),
        ({"mean_iou": 0.5, "iou": [1]}, "has iou = [1]"),
    ],
)
def test_damaged_record_is_an_error_of_one_line(stopped, tmp_path, capsys, record, words):
    run = shutil.copytree(stopped / "sgd", tmp_path / "run")
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "val", "step": 2, **record}) + "\n")
    error = resume_error(run, capsys)
    assert f"{run / 'metrics.jsonl'}: the evaluation of step 2 {words}; restore the file" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lr", "1e39"), "--lr must be from 1e-37 to 1e+37, got 1e+39"),
        (("--lr", "1e-50"), "--lr must be from 1e-37 to 1e+37, got 1e-50"),
        (("--weight-decay", "1e300"), "--weight-decay must be from 0 to 1e+37, got 1e+300"),
        (("--momentum", "1e300"), "--momentum must be from 0 to 1e+37"),
        (("--head-lr-multiplier", "1e300"), "--lr times --head-lr-multiplier must be from"),
        (("--lr", "1e30", "--head-lr-multiplier", "1e30"), "--lr times --head-lr-multiplier must be from"),
        (("--lr", "1e-30", "--head-lr-multiplier", "1e-30"), "--lr times --head-lr-multiplier must be from"),
        (
            ("--optimizer", "adamw", "--lr", "1e20", "--weight-decay", "1e30"),
            "--lr times --weight-decay must be",
        ),
    ],
)
def test_rates_outside_float32_are_refused(data_root, tmp_path, capsys, options, words):
    assert train.main([*tiny(data_root, tmp_path / "run"), *options]) == 1
    assert f"difnet.train: error: {words}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--weight-decay", "1e37"), ("--weight-decay", "0")])
@pytest.mark.parametrize("rate", ["1e37", "1e-37"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_extreme_rates_train_or_fail_with_one_line(data_root, tmp_path, capsys, options, rate, optimizer):
    arguments = tiny(
        data_root, tmp_path / "run", "--max-steps", "2", "--overlays", "0", "--optimizer", optimizer
    )
    status = train.main([*arguments, "--lr", rate, *options])
    assert status == 0 or capsys.readouterr().err.count("\n") == 1


def test_run_does_not_start_from_nan_weights(stopped, tmp_path, capsys):
    model, metadata = load_model(stopped / "sgd")
    with torch.no_grad():
        model.classifier.branches[0].bias[0] = torch.nan
    save_model(model, tmp_path / "nan.safetensors", metadata=metadata)
    run = tmp_path / "run"
    arguments = tiny(
        stopped / "data", run, "--max-steps", "1", "--init-from", str(tmp_path / "nan.safetensors")
    )
    assert train.main(arguments) == 1
    assert "nan.safetensors: classifier.branches.0.bias holds values that are NaN" in capsys.readouterr().err
    assert not run.exists()


def test_label_numbering_is_saved_with_the_run(data_root, tmp_path, capsys):
    """Labels are 1 to 3, and 0 is void."""
    for path in sorted(data_root.glob("labels/*/*.png")):
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 255, 0, label + 1).astype(np.uint8)).save(path)
    run = tmp_path / "run"
    options = ("--label-offset", "1", "--void-value", "0")
    assert train.main(tiny(data_root, run, "--max-steps", "1", *options)) == 0
    assert "3 of 3 classes occur; 0 is void: " in capsys.readouterr().out
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    arguments = [
        "--checkpoint",
        str(run),
        "--dataset",
        "folder",
        "--data-root",
        str(data_root),
        "--workers",
        "0",
    ]
    assert evaluate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"{data_root} is read with 0 as void and 1 as the first class" in printed
    assert evaluate.main([*arguments, "--void-value", "255", "--label-offset", "0"]) == 1
    assert "label value(s) 3 outside the 3 classes (0 to 2, 255 = void)" in capsys.readouterr().err


def test_label_numbering_is_saved_in_the_configuration(tmp_path):
    config = TrainConfig(dataset="folder", void_value=(0, 255), label_offset=1).resolved()
    (tmp_path / "config.json").write_text(config.to_json())
    assert TrainConfig.from_json(tmp_path / "config.json") == config
    old = json.loads(config.to_json())
    del old["void_value"], old["label_offset"]  # as in a run of an earlier version
    (tmp_path / "config.json").write_text(json.dumps(old))
    again = TrainConfig.from_json(tmp_path / "config.json")
    assert (again.void_value, again.label_offset) == ((255,), 0)


def test_resume_refuses_other_classes(data_root, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    (data_root / "classes.txt").write_text("right\nleft\nblock\n")
    assert train.main(["--resume", str(run), "--workers", "0"]) == 1
    words = f"{run} was trained on the classes left, right, block; the data have right, left, block; continue"
    assert words in capsys.readouterr().err


def test_resume_with_other_images_is_reported(data_root, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        assert train.main(tiny(data_root, run, "--epochs", "4", "--eval-every", "9")) == 130
    for kind in ("images", "labels"):
        for number in range(4):
            (data_root / kind / "train" / f"view{number}.png").unlink()
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    changed = "images: 8 training, 3 validation -> 4 training, 3 validation"
    assert f"changed since the last start, so not bitwise the same: {changed}" in printed
    assert "done: mean IoU" in printed  # 4 images make 4 steps, and 5 steps are done


def test_class_weights_and_absent_classes(data_root, tmp_path, capsys):
    for path in (data_root / "labels/train").iterdir():
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 2, 255, label).astype(np.uint8)).save(path)
    for weights in ("0,0,1", "1,0,1"):
        options = ("--max-steps", "1", "--class-weights", weights)
        assert train.main(tiny(data_root, tmp_path / "run", *options)) == 1
        error = capsys.readouterr().err
        assert f"--class-weights {weights} leaves weight to fewer than two of the classes that occur" in error
    options = ("--max-steps", "1", "--class-weights", "median-frequency")
    assert train.main(tiny(data_root, tmp_path / "run", *options)) == 0
    printed = capsys.readouterr().out
    assert "train labels: 2 of 3 classes occur, class 2 (block) in no training label; 255 is void" in printed
    assert "val labels: 3 of 3 classes occur; 255 is void" in printed
    assert "also training images" not in printed
    assert re.search(r"done: mean IoU \S+% over 3 of 3 classes, best \S+% over 3 of 3 classes;", printed)


def test_truncated_state(data_root, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    (run / "state.safetensors").write_bytes((run / "state.safetensors").read_bytes()[:1000])
    assert train.main(["--resume", str(run)]) == 1
    assert "state.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe{", b"[1]", b"3"])
def test_damaged_text_files(data_root, tmp_path, capsys, name, damage):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    (run / name).write_bytes(damage)
    assert train.main(["--resume", str(run), "--workers", "0"]) == 1
    remedy = "is not the configuration of a run" if name == "config.json" else "is damaged ("
    assert f"difnet.train: error: {run / name} {remedy}" in capsys.readouterr().err
    if name == "environment.json":
        (run / name).unlink()
        assert train.main(["--resume", str(run), "--workers", "0"]) == 0


@pytest.mark.parametrize(("every", "kept"), [("1", "is untouched"), ("100", "No checkpoint was written yet")])
def test_diverging_run_says_so(data_root, tmp_path, capsys, every, kept):
    options = ("--epochs", "4", "--lr", "1e30", "--checkpoint-every", every)
    assert train.main(tiny(data_root, tmp_path / "run", *options)) == 1
    error = capsys.readouterr().err
    assert "start again with a lower --lr" in error
    assert kept in error


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (
            "1e36",
            "validation after step 1: the logits of the network are NaN or infinite, as after a training",
        ),
        ("1e37", "the weights are NaN or infinite after step 1; start again with a lower --lr"),
    ],
)
def test_diverging_last_step_says_so(data_root, tmp_path, capsys, rate, words):
    options = ("--max-steps", "1", "--lr", rate, "--weight-decay", "1e3" if rate == "1e37" else "0")
    assert train.main(tiny(data_root, tmp_path / "run", *options)) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "start again with a lower --lr (it was" in error
    assert (tmp_path / "run/state.safetensors").exists() == (rate == "1e36")
    assert not (tmp_path / "run/best.safetensors").exists()


def test_recipes(tmp_path):
    assert TrainConfig().resolved().recipe() == SCENES
    config = TrainConfig(dataset="camvid", crop=65, data_root=tmp_path).resolved()
    assert (config.lr, config.batch_size, config.optimizer, config.crop) == (2.5e-3, 16, "sgd", 65)
    (tmp_path / "config.json").write_text(config.to_json())
    assert TrainConfig.from_json(tmp_path / "config.json") == config


def test_class_weights(tmp_path, monkeypatch):
    (tmp_path / "weights.txt").write_text("1\n2.5\n")
    assert class_weights("none", 2) is None
    assert class_weights("median-frequency", 2) is None
    assert class_weights("1,0.5", 2) == [1.0, 0.5]
    assert class_weights(str(tmp_path / "weights.txt"), 2) == [1.0, 2.5]
    (tmp_path / "weights.txt").write_bytes(b"\xef\xbb\xbf1\r\n2.5\r\n")  # with a byte order mark
    assert class_weights(str(tmp_path / "weights.txt"), 2) == [1.0, 2.5]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert class_weights("~/weights.txt", 2) == [1.0, 2.5]
    (tmp_path / "weights.txt").write_text("1\ntwo\n")
    with pytest.raises(ValueError, match="must hold nothing but numbers"):
        class_weights(str(tmp_path / "weights.txt"), 2)
    long = ",".join(["0.123456"] * 60)
    assert len(class_weights(long, 60)) == 60
    for bad in ("1,2,3", "1,-1", "1,nan", "1,1e39", "1,1e-50"):
        with pytest.raises(ValueError, match=f"--class-weights {bad} must hold 2 non-negative numbers"):
            class_weights(bad, 2)
    (tmp_path / "weights.txt").write_text("1\n2\n3\n")
    with pytest.raises(ValueError, match=r"--class-weights, ~/weights\.txt, must hold 2 .* but holds 3: \[1"):
        class_weights("~/weights.txt", 2)


@pytest.mark.parametrize(
    "text", ["1.5\n2\n0.5\n", "1.5\r\n2\r\n0.5", "1.5, 2 ,0.5\n", "1.5,\n2,\n0.5,\n", "1.5  2 0.5"]
)
def test_class_weights_separated_in_one_way(tmp_path, text):
    (tmp_path / "weights.txt").write_text(text)
    assert class_weights(str(tmp_path / "weights.txt"), 3) == [1.5, 2.0, 0.5]


@pytest.mark.parametrize(
    "text", ["1,5\n2,5\n0,5\n", "0 1.0\n1 2.0\n2 3.0\n", "1,5 2,5 0,5", "0, 1\n1, 2\n2, 3", "1,5,\n2,5,\n0,5"]
)
def test_ambiguous_class_weights_are_refused(tmp_path, text):
    (tmp_path / "weights.txt").write_text(text)
    with pytest.raises(
        ValueError, match=r"file of --class-weights, .*weights\.txt, separates numbers in several"
    ):
        class_weights(str(tmp_path / "weights.txt"), 6)


def test_class_weights_are_read_before_the_data(data_root, tmp_path, capsys):
    (data_root / "images/train/view0.png").write_bytes(b"damaged")
    arguments = tiny(data_root, tmp_path / "run", "--max-steps", "1", "--class-weights", "1,2")
    assert train.main(arguments) == 1
    printed = capsys.readouterr()
    assert "--class-weights 1,2 must hold 3 non-negative numbers, one per class" in printed.err
    assert "checking" not in printed.out


@pytest.mark.parametrize("way", ["link", "copy", "other name"])
def test_validation_images_among_the_training_images_are_named(data_root, tmp_path, capsys, way):
    for kind in ("images", "labels"):
        train_folder, val_folder = data_root / kind / "train", data_root / kind / "val"
        if way == "link":
            shutil.rmtree(val_folder)
            val_folder.symlink_to(train_folder)
        else:
            name = "view1.png" if way == "copy" else "zebra.png"
            shutil.copy(train_folder / "view1.png", val_folder / name)
    assert train.main(tiny(data_root, tmp_path / "run", "--max-steps", "1")) == 0
    shared = {
        "link": "8 of 8 validation images are also training images "
        "(view0, view1, view2, view3, view4 and 3 more)",
        "copy": "1 of 3 validation images are also training images (view1)",
        "other name": "1 of 4 validation images are also training images (zebra)",
    }[way]
    printed = capsys.readouterr().out
    assert f"{shared}: the evaluation" in printed
    assert printed.index(shared) < printed.index("step 1/1")


def test_two_processes_agree_with_one(data_root, tmp_path):
    """Two processes with gloo start from the same weights and train on the same images as one process."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    options = ("--max-steps", "2", "--eval-every", "1")
    two = start("difnet.train", *tiny(data_root, tmp_path / "two", *options), prefix=launcher)
    output, _ = two.communicate(timeout=90)
    assert two.returncode == 0, output
    assert output.count("done: mean IoU") == 1
    assert load_file(tmp_path / "two/state.safetensors")["rng.cpu"].shape[0] == 2
    assert train.main(tiny(data_root, tmp_path / "one", *options)) == 0
    # Batch statistics are over 2 images instead of 4.
    assert losses(tmp_path / "two")[0][1] == pytest.approx(losses(tmp_path / "one")[0][1], rel=0.2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--model", "halonet26t"],
            "--crop 32 in micro-batches of 4 .* does not take images of 32 x 32 .*64 x 64",
        ),
        (
            ["--model", "halonet26t", "--crop", "64"],
            "val image view0: .* does not take images of 40 x 56 .*64",
        ),
        (
            ["--model", "rexnet_100", "--accumulation", "4"],
            "micro-batches of 1 .* 'rexnet_100' .*at least two",
        ),
        (
            ["--model", "convnext_atto", "--walk-sources", "--crop", "8", "--accumulation", "4"],
            "one node, and the batch norm",
        ),
    ],
)
def test_unsupported_image_sizes_are_found_before_the_first_step(data_root, tmp_path, capsys, options, words):
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1", *options)) == 1
    error = capsys.readouterr().err
    assert re.search(words, error)
    assert error.count("\n") == 1
    assert not run.exists()


def test_run_starts_from_a_checkpoint_with_other_classes(data_root, tmp_path, capsys):
    """The first checkpoint holds the initial weights, so a run continues bitwise without their file."""
    source = tmp_path / "source"
    assert train.main(tiny(data_root, source, "--max-steps", "1", "--lr", "1e-9")) == 0
    (data_root / "classes.txt").write_text("left\nright\nblock\nnone\n")
    options = ("--epochs", "2", "--init-from", str(source), "--checkpoint-every", "100")
    assert train.main(tiny(data_root, tmp_path / "whole", *options)) == 0
    printed = capsys.readouterr().out
    assert "loaded mu_logit, beta_logit, seed_branch, normalize, similarity_branch, embeddings; " in printed
    assert "starting anew: classifier, importance (3 classes there, 4 here)" in printed
    assert json.loads((tmp_path / "whole/config.json").read_text())["init_from"] == str(source)

    with pytest.MonkeyPatch.context() as patched:

        def stop(self, record):
            raise KeyboardInterrupt

        patched.setattr(RunFolder, "log", stop)
        assert train.main(tiny(data_root, tmp_path / "cut", *options)) == 130
    state = read_state(tmp_path / "cut/state.safetensors")
    assert state.header["step"] == 0
    weights = load_model(source)[0].state_dict()
    for name in ("seed_branch.network.layer1.0.conv1.weight", "embeddings.1.project.weight"):
        assert torch.equal(state.tensors[f"model.{name}"], weights[name])
    for file in source.glob("*.safetensors"):
        file.unlink()
    capsys.readouterr()
    assert train.main(["--resume", str(tmp_path / "cut"), "--workers", "0"]) == 0
    assert "weights from" not in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_run_killed_before_its_first_checkpoint_starts_from_the_same_weights(
    data_root, tmp_path, monkeypatch
):
    """A run that starts over loads the same pretrained weights as a new run."""
    requested = []

    def build(*arguments, pretrained, **options):
        requested.append(pretrained)
        return create_model(*arguments, pretrained=False, **options)

    monkeypatch.setattr("difnet.training.setup.create_model", build)
    assert train.main(tiny(data_root, tmp_path / "run", "--max-steps", "1", "--pretrained")) == 0
    assert train.main(["--resume", str(tmp_path / "run"), "--workers", "0"]) == 0
    (tmp_path / "run/state.safetensors").unlink()
    assert train.main(["--resume", str(tmp_path / "run"), "--workers", "0"]) == 0
    assert requested == [True, False, True]


def test_run_of_an_earlier_version_is_continued(data_root, tmp_path):
    """config.json of earlier versions has no init_from, and calls walk_sources walks."""
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    config = json.loads((run / "config.json").read_text())
    del config["init_from"]
    config["walks"] = config.pop("walk_sources")
    (run / "config.json").write_text(json.dumps(config))
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
