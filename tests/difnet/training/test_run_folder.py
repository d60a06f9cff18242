"""The run folder: which folders are refused, and errors of damaged files."""

import errno
import json
import os
import shutil
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import resume_error, start, tiny

from difnet import train
from difnet.training.config import TrainConfig
from difnet.training.run_folder import RunError
from difnet_kernels.backends import choose


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "camvid"], "needs a folder; give --data-root"),
        (["--dataset", "folder", "--data-root", "/nonexistent"], "/nonexistent does not exist"),
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
        (["--void-value", "0"], "--void-value is for --dataset folder, and not for scenes; leave it out"),
        (["--resume", "runs/x", "--void-value", "0"], "leave out every other option except"),
        (["--batch-size", "5000"], "batch_size 5000 is larger than the 1920"),
        (
            ["--class-weights", "1,2,x"],
            "neither none, median-frequency, sqrt-median-frequency, numbers, nor a",
        ),
        (["--precision", "fp16"], "needs a CUDA"),
        (["--init-from", "nowhere"], "nowhere: no such file or run folder"),
        (["--resume", "runs/x", "--init-from", "x"], "leave out every other option except"),
        (["--batch-size", "1", "--crop", "8"], "'resnet10t' cannot be trained on one image of 8 x 8"),
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


@pytest.mark.parametrize(
    "place", ["images", "images/train/run", "labels/run", "link", "masks/run", "train/x"]
)
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
def test_damaged_state_is_an_error_of_one_line(finished_runs, tmp_path, capsys, change, words):
    """The checksum is removed, as in a state of an earlier version, so that the other checks are reached."""
    run = shutil.copytree(finished_runs / "sgd", tmp_path / "run")
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


def test_state_without_checksum_can_be_continued(finished_runs, tmp_path):
    run = shutil.copytree(finished_runs / "sgd", tmp_path / "run")
    file = run / "state.safetensors"
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["difnet.state"])
    del header["checksum"]
    save_file(load_file(file), file, metadata={"difnet.state": json.dumps(header)})
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0


def test_state_whose_end_is_lost_is_refused(finished_runs, tmp_path, capsys):
    run = shutil.copytree(finished_runs / "sgd", tmp_path / "run")
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
def test_damaged_record_is_an_error_of_one_line(finished_runs, tmp_path, capsys, record, words):
    run = shutil.copytree(finished_runs / "sgd", tmp_path / "run")
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "val", "step": 2, **record}) + "\n")
    error = resume_error(run, capsys)
    assert f"{run / 'metrics.jsonl'}: the evaluation of step 2 {words}; restore the file" in error
    assert error.count("\n") == 1


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
