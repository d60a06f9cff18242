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
from PIL import Image
from safetensors.torch import load_file
from small_runs import assert_same_run, edit_config, losses, start, tiny, write_pair

from difnet import create_model, evaluate, load_model, save_model, train
from difnet.data import DataError
from difnet.training import state as state_file
from difnet.training.run_folder import RunFolder
from difnet.training.state import read_state
from difnet.training.trainer import Trainer
from difnet.utils import files
from difnet_kernels.backends import choose


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


@pytest.mark.parametrize("recipe", ["paper", "tuned"])  # the losses of "tuned" draw random numbers
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_interrupted_run_continues_bitwise(data_root, tmp_path, monkeypatch, capsys, optimizer, recipe):
    options = ("--epochs", "3", "--optimizer", optimizer, "--accumulation", "2", "--checkpoint-every", "100")
    options += ("--recipe", recipe)
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
        ("cut_log", 1, "3 of 3 steps done; the last checkpoint is intact, continue with --resume {}"),
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
    kept = f"the last checkpoint is intact, continue with --resume {run}"
    assert f"{where}; free some space; {kept}\n" in message
    assert read_state(run / "state.safetensors").header["step"] == 2
    assert [path.name for path in run.glob(".*")] == [".lock"]
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]


def test_small_scale_is_reported(data_root, tmp_path, capsys):
    line = "shrinks training images such as view0, of 40 x 56 pixels, to"
    for number, low in enumerate(("0.001", "0.15", "0.2")):
        options = ("--max-steps", "1", "--scale", low, "1")
        assert train.main(tiny(data_root, tmp_path / str(number), *options)) == 0
    printed = capsys.readouterr().out
    assert f"--scale 0.001 {line} 1 x 1; raise it if that shows too little" in printed
    assert f"--scale 0.15 {line} 6 x 8; raise it if that shows too little" in printed
    assert "--scale 0.2 shrinks" not in printed


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
    assert f"the last checkpoint is intact, continue with --resume {run}" in printed.out + printed.err
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
    assert "File name too long; the last checkpoint is intact, continue with " in (capsys.readouterr().err)
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
    assert "the last checkpoint is intact, continue with --resume" in error
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


def test_run_does_not_start_from_nan_weights(finished_runs, tmp_path, capsys):
    model, metadata = load_model(finished_runs / "sgd")
    with torch.no_grad():
        model.classifier.branches[0].bias[0] = torch.nan
    save_model(model, tmp_path / "nan.safetensors", metadata=metadata)
    run = tmp_path / "run"
    arguments = tiny(
        finished_runs / "data", run, "--max-steps", "1", "--init-from", str(tmp_path / "nan.safetensors")
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
    assert f"{data_root} is read with void_value (0,), label_offset 1, as in training" in printed
    assert evaluate.main([*arguments, "--void-value", "255", "--label-offset", "0"]) == 1
    assert "label value(s) 3 outside the 3 classes (0 to 2, 255 = void)" in capsys.readouterr().err


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


def test_each_process_restores_its_own_random_state(tmp_path):
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
    saved = state_file.State(tmp_path / "state.safetensors", {"rng.cpu": torch.stack(states)}, {})
    for process in (1, 2, 0):
        saved.restore_random_states(process, torch.device("cpu"))
        assert torch.equal(torch.get_rng_state(), states[process])


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
    assert "newly initialised: classifier, importance (3 classes there, 4 here)" in printed
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
