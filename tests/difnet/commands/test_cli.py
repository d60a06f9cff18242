"""The commands train, evaluate, predict and explain, called as by a user."""

import io
import json
import os
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import make_folder, tiny, write_pair

from difnet import create_model, evaluate, explain, load_model, predict, save_model, train
from difnet.utils.console import run_command
from difnet.utils.files import distinct_names
from difnet_kernels import transition_rows


def test_evaluate_repeats_the_training_metrics(trained, tmp_path, capsys):
    root, run = trained
    options = ["--checkpoint", str(run), "--dataset", "folder", "--data-root", str(root), "--workers", "0"]
    assert evaluate.main([*options, "--out", str(tmp_path / "metrics.json")]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    record = max((r for r in records if r["kind"] == "val"), key=lambda r: r["mean_iou"])
    assert found == {name: record[name] for name in found}
    assert "before diffusion" in capsys.readouterr().out

    assert evaluate.main([*options, "--multi-scale", "--flip", "--out", str(tmp_path / "views.json")]) == 0
    views = json.loads((tmp_path / "views.json").read_text())
    assert "seed_mean_iou" not in views
    assert 0.0 <= views["mean_iou"] <= 1.0


def test_evaluate_refuses_other_classes(trained, capsys):
    assert evaluate.main(["--checkpoint", str(trained[1]), "--dataset", "scenes"]) == 1
    assert "was trained on the classes left, right, block; scenes has sky" in capsys.readouterr().err


def test_evaluate_without_checkpoint(tmp_path, capsys):
    assert evaluate.main(["--checkpoint", str(tmp_path / "none")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("explain", ["street.png", "--point", "56,0", "--out", "out"], "--point 56,0: outside the image"),
        ("explain", ["street.png", "--point", "0,0", "--out", "out", "--device", "toast"], "--device toast"),
        ("evaluate", ["--dataset", "scenes"], "choose the data it was trained for"),
        ("predict", ["--out", "out"], "name at least one image file"),
        ("train", ["--data-root", "data"], "leave --data-root out"),
    ],
)
def test_errors_of_a_module_are_one_line(trained, command, arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (56, 40)).save("street.png")
    checkpoint = [] if command == "train" else ["--checkpoint", str(trained[1])]
    monkeypatch.setattr(sys, "argv", [command, *arguments, *checkpoint])
    monkeypatch.delitem(sys.modules, f"difnet.{command}", raising=False)  # runpy warns of a second copy
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"difnet.{command}", run_name="__main__")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"difnet.{command}: error: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "bug",
    [
        lambda: int("three"),
        lambda: transition_rows(torch.zeros(2, 2), torch.tensor([0])),
    ],
    ids=["Python", "operator"],
)
def test_bugs_keep_their_traceback(bug, capsys):
    with pytest.raises(ValueError, match=r"invalid literal|expected 3 axes"):
        run_command(bug, "difnet.test")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "hints"),
    [
        (train, ["8 for scenes, 16 for photographs", "0.003 for scenes, 0.0025", "start a new run"]),
        (evaluate, ["the best one present", "not written"]),
        (predict, ["the best one present"]),
        (explain, ["the best one present"]),
    ],
)
def test_help_explains_defaults(command, hints, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "default: None" not in words
    for hint in hints:
        assert f"(default: {hint}" in words


def test_predict_any_size_and_equal_names(trained, tmp_path, capsys):
    _, run = trained
    images = []
    for folder, size in (("a", (57, 31)), ("b", (40, 90)), ("c", (1, 9))):
        (tmp_path / folder).mkdir()
        images.append(tmp_path / folder / "photo.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(
            images[-1]
        )
    out = tmp_path / "out"
    assert predict.main(["--checkpoint", str(run), *map(str, images), "--out", str(out)]) == 0
    for path, stem in zip(images, ("photo", "photo-2", "photo-3"), strict=True):
        label = Image.open(out / f"{stem}.labels.png")
        assert label.mode == "P"
        assert label.size == Image.open(path).size == Image.open(out / f"{stem}.overlay.png").size
        assert set(np.unique(np.array(label))) <= {0, 1, 2}
    assert len(list(out.iterdir())) == 6


def test_predict_takes_folders(trained, tmp_path, capsys):
    root, run = trained
    photos, out = tmp_path / "photos", tmp_path / "photos" / "out"
    (photos / "rome").mkdir(parents=True)
    for name in ("1.png", "rome/1.png", "rome_1.png"):
        shutil.copy(root / "images/train/view0.png", photos / name)
    (photos / "notes.txt").touch()
    (photos / os.fsdecode(b"\xff.txt")).touch()  # not UTF-8, but named too
    arguments = ["--checkpoint", str(run), str(photos), "--out", str(out)]
    for _ in range(2):  # the second time, the folder holds the results of the first
        assert predict.main(arguments) == 0
        names = {path.name.partition(".")[0] for path in out.iterdir()}
        assert names == {"1", "rome_1", "rome_1-2"}
        assert "not read in" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert predict.main(["--checkpoint", str(run), str(tmp_path / "none"), "--out", str(out)]) == 1
    assert f"{tmp_path / 'none'} holds no image; images end in" in capsys.readouterr().err


def test_predict_continues_after_a_bad_image(trained, tmp_path, capsys):
    root, run = trained
    (tmp_path / "bad.png").write_bytes(b"no")
    good, out = root / "images/train/view0.png", tmp_path / "out"
    arguments = ["--checkpoint", str(run), str(tmp_path / "bad.png"), str(good), "--out", str(out)]
    assert predict.main(arguments) == 1
    error = capsys.readouterr().err
    assert "1 of 2 images are labelled: 1 item(s) cannot be used" in error
    assert f"{tmp_path / 'bad.png'} is not an image" in error
    assert (out / "view0.labels.png").is_file()


def test_predict_does_not_replace_its_inputs(trained, tmp_path, capsys):
    for name in ("x.png", "x.labels.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    images = [str(tmp_path / name) for name in ("x.png", "x.labels.png")]
    assert predict.main(["--checkpoint", str(trained[1]), *images, "--out", str(tmp_path)]) == 1
    assert f"{tmp_path / 'x.labels.png'} would be replaced by a labelled picture" in capsys.readouterr().err
    assert predict.main(["--checkpoint", str(trained[1]), "gone.png", "--out", str(tmp_path)]) == 1
    assert "gone.png does not exist" in capsys.readouterr().err


def test_pipe_is_not_read_as_a_picture(trained, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    arguments = ("--checkpoint", str(trained[1]), str(tmp_path / "pipe.png"), "--out", str(tmp_path / "out"))
    assert predict.main(arguments) == 1
    assert explain.main([*arguments, "--point", "1,2"]) == 1
    words = f"{tmp_path / 'pipe.png'} is neither a file nor a folder; save the picture in a file"
    assert capsys.readouterr().err.count(words) == 2


def test_explain_refuses_a_folder(trained, tmp_path, capsys):
    arguments = [
        "--checkpoint",
        str(trained[1]),
        str(tmp_path),
        "--point",
        "1,1",
        "--out",
        str(tmp_path / "o"),
    ]
    assert explain.main(arguments) == 1
    assert f"{tmp_path} is a folder; name an image file in it" in capsys.readouterr().err


def test_home_folder_is_expanded_in_every_path(trained, tmp_path, monkeypatch, capsys):
    root, run = trained
    home = tmp_path / "home"
    home.mkdir()
    (home / "data").symlink_to(root)
    (home / "run").symlink_to(run)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    picture = "~/data/images/train/view0.png"
    data = ["--dataset", "folder", "--data-root=~/data", "--workers", "0"]
    assert predict.main(["--checkpoint=~/run", picture, "--out=~/labelled"]) == 0
    assert explain.main(["--checkpoint=~/run", picture, "--point", "1,1", "--out=~/explained"]) == 0
    assert evaluate.main(["--checkpoint=~/run", *data, "--out=~/new/metrics.json"]) == 0
    assert (
        train.main([*tiny(root, tmp_path / "x", "--max-steps", "1"), "--data-root=~/data", "--out=~/trained"])
        == 0
    )
    assert train.main(["--resume=~/trained", "--workers", "0"]) == 0
    assert {path.name for path in home.iterdir()} == {
        *("data", "run", "labelled", "explained", "new", "trained")
    }
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("command", ["evaluate", "predict", "explain", "train"])
def test_outputs_are_checked_before_the_work(trained, command, tmp_path, capsys, monkeypatch):
    root, run = trained
    for module in (evaluate, predict, explain):
        monkeypatch.setattr(module, "load_for_pictures", None)  # must not be called
    taken = tmp_path / "taken"
    taken.mkdir() if command == "evaluate" else taken.touch()
    image = str(root / "images/train/view0.png")
    arguments = {
        "evaluate": ["--checkpoint", str(run), "--dataset", "folder", "--data-root", str(root)],
        "predict": ["--checkpoint", str(run), image],
        "explain": ["--checkpoint", str(run), image, "--point", "1,1"],
        "train": tiny(root, taken),
    }[command]
    module = {"evaluate": evaluate, "predict": predict, "explain": explain, "train": train}[command]
    assert module.main([*arguments, "--out", str(taken)]) == 1
    error = capsys.readouterr().err
    assert str(taken) in error
    assert error.count("\n") == 1


def test_evaluate_batches_pictures_of_several_sizes(trained, tmp_path):
    root, run = trained
    data = shutil.copytree(root, tmp_path / "data")
    write_pair(data, "val", "view1", (44, 60), np.random.default_rng(1))
    found = []
    for size in ("1", "4"):
        options = ["--dataset", "folder", "--data-root", str(data), "--batch-size", size, "--workers", "0"]
        out = tmp_path / f"{size}.json"
        assert evaluate.main(["--checkpoint", str(run), *options, "--out", str(out)]) == 0
        found.append(json.loads(out.read_text()))
    assert found[0]["iou"] == pytest.approx(found[1]["iou"], abs=1e-3)
    assert found[0]["mean_iou_classes"] == 3


def test_predict_names_the_bad_image(trained, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no")
    assert predict.main(["--checkpoint", str(trained[1]), str(bad), "--out", str(tmp_path / "out")]) == 1
    assert f"{bad} is not an image that Pillow can read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--workers", "-1"),
            "--workers must not be negative and --batch-size must be positive, got -1 and 1",
        ),
        (
            ("--batch-size", "0"),
            "--workers must not be negative and --batch-size must be positive, got 2 and 0",
        ),
        (("--device", "meta"), "--device meta cannot be used on this machine: Tensor.item()"),
        (
            ("--device", "hpu"),
            "--device hpu cannot be used on this machine: No module named 'torch.hpu'; choose ",
        ),
        (("--device", "privateuseone"), "--device privateuseone cannot be used on this machine: "),
        (("--device", "xla"), "from the 'XLA' backend; choose "),
        (("--device", "mps"), "--device mps cannot be used on this machine: "),
    ],
)
def test_settings_of_evaluate_are_checked_before_the_data(trained, capsys, options, words):
    if options[1] == "mps" and torch.backends.mps.is_available():
        pytest.skip("mps works here")
    data = ("--dataset", "folder", "--data-root", str(trained[0]))
    assert evaluate.main(["--checkpoint", str(trained[1]), *data, *options]) == 1
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert "checking" not in printed.out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes(trained, tmp_path, capsys, dtype):
    root, run = trained
    model, metadata = load_model(run)
    weights, image = tmp_path / "other.safetensors", str(root / "images/val/view0.png")
    save_model(model.to(dtype), weights, metadata=metadata)
    for checkpoint, out in ((run, "plain"), (weights, "other")):
        given = ("--checkpoint", str(checkpoint))
        assert predict.main([image, *given, "--out", str(tmp_path / out)]) == 0
        data = ("--dataset", "folder", "--data-root", str(root), "--workers", "0")
        assert evaluate.main([*given, *data, "--out", str(tmp_path / out / "record.json")]) == 0
        assert explain.main([image, *given, "--point", "1,2", "--out", str(tmp_path / out)]) == 0
    pictures = [np.array(Image.open(tmp_path / out / "view0.labels.png")) for out in ("plain", "other")]
    assert (pictures[0] == pictures[1]).mean() > 0.98
    records = [json.loads((tmp_path / out / "record.json").read_text()) for out in ("plain", "other")]
    assert records[0]["accuracy"] == pytest.approx(records[1]["accuracy"], abs=0.01)


def test_nan_weights_are_reported(trained, tmp_path, capsys):
    root, run = trained
    model, metadata = load_model(run)
    with torch.no_grad():
        model.classifier.branches[0].bias[1] = torch.nan
    weights, image = tmp_path / "nan.safetensors", str(root / "images/val/view0.png")
    save_model(model, weights, metadata=metadata)
    data = ("--dataset", "folder", "--data-root", str(root), "--workers", "0")
    for command, arguments in (
        (predict, (image, "--out", str(tmp_path / "out"))),
        (explain, (image, "--point", "1,2", "--out", str(tmp_path / "out"))),
        (evaluate, data),
        (evaluate, (*data, "--flip")),
    ):
        assert command.main([*arguments, "--checkpoint", str(weights)]) == 1
        assert "error: the logits of the network are NaN or infinite" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"classes": [1, 2, 3]},
        {"classes": ["only"]},
        {"classes": {"0": "a", "1": "b", "2": "c"}},
        {"classes": ["stra\xdfe", "\u4e2d", "\u56fd"], "palette": [[0, 0, 0], [9, 9, 9], [255, 0, 0]]},
    ],
)
def test_weights_with_other_metadata(metadata, trained, tmp_path, monkeypatch, capsys):
    root, run = trained
    model, _ = load_model(run)
    weights, image = tmp_path / "own.safetensors", str(root / "images/val/view0.png")
    save_model(model, weights, metadata=metadata)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    for command, options in ((predict, ()), (explain, ("--point", "1,2"))):
        out = ("--out", str(tmp_path / "out"))
        assert command.main([image, "--checkpoint", str(weights), *out, *options]) == 0
    data = ("--dataset", "folder", "--data-root", str(root), "--workers", "0")
    assert evaluate.main(["--checkpoint", str(weights), *data]) == (1 if "classes" in metadata else 0)
    assert ("choose the data it was trained for" in capsys.readouterr().err) == ("classes" in metadata)


@pytest.mark.parametrize(
    "palette",
    [
        [[0, 0, 0]],
        [[0, 0, 0], [1, 1], [2, 2, 2]],
        [[0, 0, 300]] * 3,
        [[0, 0, -1]] * 3,
        [[0.5, 0, 1]] * 3,
        {},
        [],
    ],
)
def test_invalid_palette_is_refused(palette, trained, tmp_path, capsys):
    root, run = trained
    weights, image = tmp_path / "own.safetensors", str(root / "images/val/view0.png")
    save_model(load_model(run)[0], weights, metadata={"palette": palette})
    for command, options in ((predict, ()), (explain, ("--point", "1,2"))):
        out = ("--out", str(tmp_path / "out"))
        assert command.main([image, "--checkpoint", str(weights), *out, *options]) == 1
        assert "error: the palette saved with the weights is not one colour" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "values", "options"),
    [
        ("classes", (3, "abc", {"a": 1}), ()),
        ("void_value", (255, "255", [255.0], ["255"], [True]), ("--void-value", "255")),
        ("label_offset", ("0", 0.0, [0], True), ("--label-offset", "0")),
    ],
)
def test_invalid_metadata_is_refused_by_evaluate(key, values, options, trained, tmp_path, capsys):
    root, run = trained
    model, _ = load_model(run)
    weights = tmp_path / "own.safetensors"
    data = ("--checkpoint", str(weights), "--dataset", "folder", "--data-root", str(root), "--workers", "0")
    for value in values:
        for metadata in ({key: value}, {"reading": {key: value}})[: 2 if options else 1]:
            save_model(model, weights, metadata=metadata)
            assert evaluate.main([*data]) == 1
            message = f"error: {weights}: its metadata hold {key} = {value!r}, expected a"
            assert message in capsys.readouterr().err
            if options:
                assert evaluate.main([*data, *options]) == 0
    save_model(model, weights, metadata={key: None})
    assert evaluate.main([*data]) == 0


def test_options_of_the_training_that_do_not_fit_are_left_out(trained, tmp_path, capsys):
    """A network trained on polygons is evaluated on masks, which take other options."""
    root, run = trained
    model, _ = load_model(run)
    weights = tmp_path / "own.safetensors"
    save_model(model, weights, metadata={"reading": {"unannotated": "void", "void_value": [255, 9]}})
    data = ["--checkpoint", str(weights), "--dataset", "folder", "--data-root", str(root), "--workers", "0"]
    assert evaluate.main(data) == 0
    assert "is read with void_value (255, 9), as in training" in capsys.readouterr().out
    assert evaluate.main([*data, "--unannotated", "void"]) == 1
    assert "--unannotated changes nothing in how a folder of masks" in capsys.readouterr().err


def test_network_with_too_many_classes_for_8_bits(trained, tmp_path, capsys):
    weights = tmp_path / "many.safetensors"
    save_model(create_model("test_resnet", 256, walk_sources=(0,)), weights)
    arguments = (str(trained[0] / "images/val/view0.png"), "--checkpoint", str(weights))
    assert predict.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "its network has 256 classes, and 8-bit label pictures hold 255" in capsys.readouterr().err


def test_distinct_names():
    assert distinct_names(["x", "x", "x-2", "X", "a/b", "a_b"]) == [
        "x",
        "x-2",
        "x-2-2",
        "X-3",
        "a_b",
        "a_b-2",
    ]
    long = distinct_names(["\u4e2d" * 70 + "/end", "\u4e2d" * 71 + "/end"])
    assert long == ["\u4e2d" * 65 + "_end", "\u4e2d" * 65 + "_end-2"]


def test_picture_names_fit_the_file_system(trained, tmp_path, capsys):
    """Names made of many folders are shortened, and names of different pictures stay distinct."""
    root, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(trained[0], root)
    deep = f"{'d' * 130}/{'e' * 130}"
    for kind in ("images", "labels"):
        folder = root / kind / "val"
        (folder / deep).mkdir(parents=True)
        (folder / "view0.png").rename(folder / deep / "view0.png")
        (folder / "a").mkdir()
        (folder / "view1.png").rename(folder / "a" / "b.png")
        (folder / "view2.png").rename(folder / "a_b.png")
        shutil.copy(folder / "a_b.png", folder / f"{'x' * 240}.png")
    assert train.main(tiny(root, run, "--max-steps", "1")) == 0
    names = sorted(path.name for path in (run / "overlays").iterdir())
    assert names == [
        "a_b-2.png",
        "a_b.png",
        f"{('d' * 130 + '_' + 'e' * 130 + '_view0')[-200:]}.png",
        f"{'x' * 200}.png",
    ]
    given = ("--checkpoint", str(run), "--out", str(tmp_path / "out"))
    assert predict.main([str(root / "images/val"), *given]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 8
    assert explain.main([str(root / f"images/val/{'x' * 240}.png"), *given, "--point", "1,2"]) == 0
    assert (tmp_path / "out" / f"{'x' * 200}.importance.png").is_file()


@pytest.fixture(scope="module")
def halonet(tmp_path_factory):
    """A network that only takes sides of 64, 128, 192, ... pixels, and a data set of 64 x 64 pictures."""
    folder = tmp_path_factory.mktemp("halonet")
    root = make_folder(folder / "data", val=1, size=(64, 64))
    model = create_model("halonet26t", 3, aspp=False, walk_sources=(0,))
    save_model(model, folder / "model.safetensors", metadata={"classes": ["left", "right", "block"]})
    return root, folder / "model.safetensors"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], None),
        (
            ["--multi-scale"],
            "a view of 64 x 64 pixels (--multi-scale and --image-scale resize pictures): backbone "
            "'halonet26t' does not take images of 32 x 32 pixels (height x width); it takes 64 x 64",
        ),
    ],
)
def test_views_of_unsupported_sizes(halonet, options, words, tmp_path, capsys):
    root, checkpoint = halonet
    data = ["--dataset", "folder", "--data-root", str(root), "--workers", "0"]
    assert evaluate.main(["--checkpoint", str(checkpoint), *data, *options]) == (words is not None)
    picture = root / "images/val/view0.png"
    target = ["--checkpoint", str(checkpoint), "--out", str(tmp_path), *options]
    status = predict.main([str(picture), *target])
    assert status == (words is not None)
    error = capsys.readouterr().err
    if words:
        evaluated = f"difnet.evaluate: error: val image view0: {words}\n"
        assert error == f"{evaluated}difnet.predict: error: {picture}: {words}\n"


def test_picture_of_unsupported_size_is_named(halonet, tmp_path, capsys):
    pictures = [tmp_path / "good.png", tmp_path / "bad.png"]
    for picture, side in zip(pictures, (64, 65), strict=True):
        Image.new("RGB", (side, side)).save(picture)
    out = ["--checkpoint", str(halonet[1]), "--out", str(tmp_path / "out")]
    assert predict.main([*map(str, pictures), *out]) == 1
    assert f"{pictures[1]}: backbone 'halonet26t' does not take images of 65 x 65" in capsys.readouterr().err
    assert (tmp_path / "out/good.labels.png").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict", "explain"])
def test_commands_refuse_networks_of_other_channels(command, trained, tmp_path, capsys):
    checkpoint = tmp_path / "four.safetensors"
    save_model(create_model("test_resnet", 3, walk_sources=(0,), in_chans=4), checkpoint, metadata={})
    Image.new("RGB", (56, 40)).save(tmp_path / "a.png")
    options = {
        "evaluate": ["--dataset", "folder", "--data-root", str(trained[0])],
        "predict": [str(tmp_path / "a.png"), "--out", str(tmp_path / "out")],
        "explain": [str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--point", "1,1"],
    }[command]
    main = {"evaluate": evaluate, "predict": predict, "explain": explain}[command].main
    assert main(["--checkpoint", str(checkpoint), *options]) == 1
    assert "four.safetensors: its network takes images of 4 channels, and pictures" in capsys.readouterr().err


def test_classes_in_another_order_are_called_so(trained, tmp_path, capsys):
    root, run = trained
    weights = tmp_path / "own.safetensors"
    save_model(load_model(run)[0], weights, metadata={"classes": ["right", "left", "block"]})
    data = ("--dataset", "folder", "--data-root", str(root), "--workers", "0")
    assert evaluate.main(["--checkpoint", str(weights), *data]) == 1
    assert "was trained on the same classes in another order, right, left, block; " in capsys.readouterr().err
