"""Where results are written: what is replaced, what is refused, and how failures are reported."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from small_runs import tiny

from difnet import create_model, evaluate, explain, load_model, predict, save_model, train
from difnet.utils.files import WriteError, write_atomically


@contextlib.contextmanager
def small_files():
    """Limit files to 1000 bytes, so that the system refuses writes as it does on a full disk.

    This is not a fixture, because pytest itself may write to a longer file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def make_special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # the system takes at most 107 bytes
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("target"))
        path.symlink_to("target")
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a pipe", "folder"])
def test_folders_pipes_and_sockets_are_not_replaced(tmp_path, kind):
    path = tmp_path / "out"
    make_special(path, kind)
    before = path.stat().st_mode
    with pytest.raises(WriteError, match=rf"^{path} is a (device or a pipe|folder).*; name a file$"):
        write_atomically(path, "x")
    assert path.stat().st_mode == before
    assert {item.name for item in tmp_path.iterdir()} <= {"out", "target"}


@pytest.mark.parametrize("there", [True, False])
def test_links_are_written_through(tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link, first = tmp_path / "far/target", tmp_path / "link", tmp_path / "first"
    if there:
        target.write_text("old")
    link.symlink_to("far/target")
    first.symlink_to("link")
    write_atomically(first, "new")
    assert target.read_text() == "new"
    assert link.is_symlink()
    assert first.is_symlink()
    assert [item.name for item in target.parent.iterdir()] == ["target"]


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(WriteError, match=rf"^{tmp_path / 'a'} cannot be written .*links on its path"):
        write_atomically(tmp_path / "a", "x")


@pytest.mark.parametrize("length", [250, 255])
def test_long_names(tmp_path, length):
    write_atomically(tmp_path / ("m" * length), "x")
    assert [len(item.name) for item in tmp_path.iterdir()] == [length]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m" * 256, "File name too long); choose a shorter name"),
        ("file/x", "Not a directory); a part of its path is not a folder; choose another path"),
        ("gone/x", "No such file or directory); create its folder first, or choose another"),
    ],
)
def test_errors_name_the_given_path(tmp_path, name, words):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError) as error:
        write_atomically(tmp_path / name, "x")
    assert str(error.value) == f"{tmp_path / name} cannot be written ({words}"
    assert error.value.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOENT)


def data_options(root: Path) -> list[str]:
    return ["--dataset", "folder", "--data-root", str(root), "--workers", "0", "--device", "cpu"]


@pytest.mark.parametrize("name", ["pipe", "m" * 256, "file/x", "folder"])
def test_evaluate_checks_its_output_before_the_work(trained, tmp_path, capsys, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    out = tmp_path / name
    assert evaluate.main(["--checkpoint", str(trained[1]), *data_options(trained[0]), "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"difnet.evaluate: error: {out} ")
    assert printed.err.count("\n") == 1
    assert "checking" not in printed.out


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("run/best.safetensors", "--checkpoint"),
        ("run/metrics.jsonl", "--checkpoint"),
        ("run/config.json", "--checkpoint"),
        ("data/classes.txt", "--data-root"),
        ("data/images/val/view0.png", "--data-root"),
        ("link to classes.txt", "--data-root"),
    ],
)
def test_evaluate_replaces_neither_checkpoint_nor_data(trained, tmp_path, capsys, place, option):
    root, run = (Path(shutil.copytree(path, tmp_path / path.name)) for path in trained)
    (tmp_path / "link to classes.txt").symlink_to(root / "classes.txt")
    out = tmp_path / place
    shutil.copy(run / "best.safetensors", tmp_path / "weights")
    before = out.read_bytes()
    for checkpoint in (
        run,
        tmp_path / "weights",
    ):  # the files of the run are kept whichever weights are evaluated
        arguments = ["--checkpoint", str(checkpoint), *data_options(root), "--out", str(out)]
        assert evaluate.main(arguments) == 1
        printed = capsys.readouterr()
        owner = "the run" if option == "--checkpoint" and checkpoint != run else option
        assert f"--out {out} is a file of {owner} " in printed.err
        assert "checking" not in printed.out
        assert out.read_bytes() == before


def test_evaluate_keeps_the_weights_file_it_reads(trained, tmp_path, capsys):
    weights, link = tmp_path / "w.safetensors", tmp_path / "link"
    shutil.copy(trained[1] / "best.safetensors", weights)
    link.symlink_to(weights)
    before = weights.read_bytes()
    for checkpoint, out in ((weights, weights), (weights, link), (link, weights)):
        arguments = ["--checkpoint", str(checkpoint), *data_options(trained[0]), "--out", str(out)]
        assert evaluate.main(arguments) == 1
        assert f"--out {out} is a file of --checkpoint {checkpoint}; only reports" in capsys.readouterr().err
        assert weights.read_bytes() == before


def test_evaluate_replaces_its_own_report(trained, tmp_path):
    root, run = (Path(shutil.copytree(path, tmp_path / path.name)) for path in trained)
    (tmp_path / "link").symlink_to(run / "report.json")
    for out in (run / "report.json", run / "report.json", root / "report.json", root / "report.json"):
        assert evaluate.main(["--checkpoint", str(run), *data_options(root), "--out", str(out)]) == 0
    (run / "report.json").write_text('{"mean_iou": 0, "iou": {}}')
    arguments = ["--checkpoint", str(run), *data_options(root), "--out", str(tmp_path / "link")]
    assert evaluate.main(arguments) == 0
    assert (run / "report.json").read_text() == (root / "report.json").read_text()


def test_file_that_is_open_for_writing_is_not_replaced(tmp_path):
    """/dev/stdout may lead to a log that other programs write to."""
    with (tmp_path / "log").open("a") as log:
        log.write("old\n")
        log.flush()
        (tmp_path / "out").symlink_to(f"/proc/self/fd/{log.fileno()}")
        with pytest.raises(WriteError, match="out is already open for writing in a process; name a file"):
            write_atomically(tmp_path / "out", "x")
    assert (tmp_path / "log").read_text() == "old\n"


def test_predict_on_a_full_disk(trained, tmp_path, capsys):
    """Pictures are whole or absent; the message names the file, the reason and the number of images done."""
    root, run = trained
    images, out = [str(path) for path in sorted((root / "images/train").iterdir())], tmp_path / "out"
    with small_files():
        assert predict.main(["--checkpoint", str(run), *images, "--out", str(out), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert f"{out / 'view0.overlay.png'} cannot be written (File too large); raise the limit" in error
    assert error.endswith("; 0 of 8 images are labelled\n")
    assert error.count("\n") == 1
    assert [path.name for path in out.iterdir()] == ["view0.labels.png"]


def test_explain_on_a_full_disk(trained, tmp_path, capsys):
    image, out = str(trained[0] / "images/train/view0.png"), tmp_path / "out"
    arguments = ["--checkpoint", str(trained[1]), image, "--point", "1,1", "--out", str(out)]
    with small_files():
        assert explain.main(arguments) == 1
    error = capsys.readouterr().err
    assert f"difnet.explain: error: {out / 'view0.'}" in error
    assert " cannot be written (File too large); raise the limit on the size of files" in error
    assert all(path.stat().st_size > 0 and not path.name.startswith(".") for path in out.iterdir())


def test_predict_checks_every_output_before_the_work(trained, tmp_path, capsys, monkeypatch):
    root, run = trained
    monkeypatch.setattr(predict, "load_for_pictures", None)  # must not be called
    (tmp_path / "view2.overlay.png").mkdir()
    images = [str(root / f"images/train/view{number}.png") for number in range(3)]
    assert predict.main(["--checkpoint", str(run), *images, "--out", str(tmp_path)]) == 1
    assert f"error: {tmp_path / 'view2.overlay.png'} is a folder; name a file\n" in capsys.readouterr().err


def test_full_standard_output_is_named(trained, tmp_path, capsys, monkeypatch):
    """Standard output is a file on a full disk: the run cannot begin, and leaves its folder free."""
    output = open("/dev/full", "w")  # noqa: SIM115
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output)
        assert train.main(tiny(trained[0], tmp_path / "run", "--max-steps", "1")) == 1
    with pytest.raises(OSError, match="No space left"):
        output.close()
    words = "error: standard output cannot be written (No space left on device); free some space\n"
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_save_model_and_load_model_expand_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = create_model("test_resnet", 3, walk_sources=())
    save_model(model, "~/x.safetensors")
    loaded, _ = load_model("~/x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_save_model_names_the_given_path(tmp_path):
    model = create_model("test_resnet", 3, walk_sources=())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"^{tmp_path} is a folder; name a file$"):
        save_model(model, tmp_path)
    with pytest.raises(OSError, match=rf"^{tmp_path / 'file/x'} cannot be written \(Not a directory\); "):
        save_model(model, tmp_path / "file/x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (train, ["--out="]),
        (train, ["--resume", ""]),
        (evaluate, ["--checkpoint", "x", "--out="]),
        (predict, ["x.png", "--checkpoint", "x", "--out="]),
        (explain, ["x.png", "--checkpoint=", "--point", "1,1", "--out", "x"]),
    ],
)
def test_empty_path_is_not_the_current_folder(tmp_path, monkeypatch, capsys, module, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        module.main(arguments)
    assert end.value.code == 2
    words = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "expected a path, got nothing; write . for the current folder" in words
    assert not list(tmp_path.iterdir())
