"""Exports and folders written as plain folders."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import train_and_evaluate

from difnet import evaluate, load_model, save_model
from difnet.data import create_dataset
from difnet.data.__main__ import main


def coco(root: Path, names: list[str], classes: tuple[str, ...] = ("left", "right")) -> Path:
    """Write a COCO export whose images have two rectangles."""
    images, annotations = [], []
    for number, name in enumerate(names):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path, "PNG")
        images.append({"id": number, "file_name": name, "height": 24, "width": 32})
        for half in range(2):
            box = [16 * half, 2, 16 * half + 16, 2, 16 * half + 16, 24, 16 * half, 24]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": half, "segmentation": [box]}
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "result.json").write_text(json.dumps(content))
    return root


def test_an_export_becomes_a_folder(tmp_path):
    root = coco(tmp_path / "export", [f"{number}.png" for number in range(6)])
    plain = tmp_path / "plain"
    assert main(["convert", str(root), "--to", str(plain), "--val-share", "0.4"]) == 0
    assert (plain / "classes.txt").read_text() == "background\nleft\nright\n"
    label = create_dataset("folder", plain, "train").read(0)[1].numpy()
    assert (label[:2] == 0).all()
    assert (label[2:, :16] == 1).all()
    assert (label[2:, 16:] == 2).all()
    train_and_evaluate("folder", plain, tmp_path / "run")


@pytest.mark.parametrize("share", ["0", "1", "7", "-0.5", "nan"])
def test_share_of_the_validation_split(tmp_path, share, capsys):
    root = coco(tmp_path / "export", ["a.png", "b.png"])
    assert main(["convert", str(root), "--to", str(tmp_path / "plain"), "--val-share", share]) == 1
    assert "--val-share must lie between 0 and 1, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".b.png", r"\.b\.png has a name that begins with a dot, which folders of data pass over; rename it"),
        ("x/.hidden/c.png", r"c\.png has a name that begins with a dot"),
        ("b.dat", r"b\.dat does not end as images do \(\.apng, .*; rename it"),
    ],
)
def test_names_that_a_folder_would_pass_over(tmp_path, name, words, capsys):
    root = coco(tmp_path / "export", ["a.png", name, "c.png"])
    assert main(["convert", str(root), "--to", str(tmp_path / "plain")]) == 1
    error = capsys.readouterr().err
    assert "nothing was written: 1 item(s) cannot be used" in error
    assert re.search(words, error)
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("name", ["\ufeffroad", "a\u200bb", "two\nlines"])
def test_classes_that_a_list_cannot_hold(tmp_path, name, capsys):
    root = coco(tmp_path / "export", ["a.png", "b.png"], ("left", name))
    assert main(["convert", str(root), "--to", str(tmp_path / "plain")]) == 1
    error = capsys.readouterr().err
    assert "cannot stand in a list of one name a line; rename it in the annotation tool" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


@pytest.mark.parametrize("target", ["folder", "link", "."])
def test_an_empty_folder_is_filled(tmp_path, target, monkeypatch):
    root = coco(tmp_path / "export", ["a.png", "b.png"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path / "folder" if target == "." else tmp_path)
    assert main(["convert", str(root), "--to", target]) == 0
    found = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert found == [".converted", "classes.txt", "images", "labels"]
    assert (tmp_path / "link").is_symlink()


def test_void_has_a_colour_of_its_own(tmp_path, data_root):
    (data_root / "classes.txt").unlink()
    (data_root / "labelmap.txt").write_text("left:0,0,0::\nright:0,0,9::\nblock:9,0,0::\nvoid:1,1,1::\n")
    colours = np.ones((256, 3), np.uint8)
    colours[:3] = [[0, 0, 0], [0, 0, 9], [9, 0, 0]]
    for path in [*(data_root / "labels").rglob("*.png")]:
        Image.fromarray(colours[np.array(Image.open(path))]).save(path)
    assert main(["convert", str(data_root), "--to", str(tmp_path / "plain")]) == 0
    with Image.open(tmp_path / "plain/labels/train/view0.png") as label:
        palette = np.array(label.getpalette()).reshape(-1, 3)
    assert palette[:3].tolist() == [[0, 0, 0], [0, 0, 9], [9, 0, 0]]
    assert palette[255].tolist() == [224, 224, 192]


def test_evaluation_of_a_converted_folder_takes_no_option_of_the_training(tmp_path, data_root, capsys):
    for path in [*(data_root / "labels").rglob("*.png")]:
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 255, 0, label + 1).astype(np.uint8)).save(path)
    options = ["--label-offset", "1", "--void-value", "0"]
    plain, run = tmp_path / "plain", tmp_path / "run"
    train_and_evaluate("folder", data_root, run, *options)
    assert main(["convert", str(data_root), "--to", str(plain), *options]) == 0
    records = []
    for root in (data_root, plain):
        capsys.readouterr()
        command = ["--checkpoint", str(run), "--dataset", "folder", "--data-root", str(root)]
        assert evaluate.main([*command, "--workers", "0", "--out", str(tmp_path / "m.json")]) == 0
        records.append(json.loads((tmp_path / "m.json").read_text()))
        assert ("is read with" in capsys.readouterr().out) == (root == data_root)
    assert records[0] == records[1]


def test_colours_of_the_training_are_found_from_elsewhere_and_can_be_left_out(
    tmp_path, data_root, monkeypatch
):
    """--colours is saved as an absolute path, and `none` reads numbers."""
    (tmp_path / "table.csv").write_text("name,r,g,b\nleft,1,1,1\nright,2,2,2\nblock,3,3,3\nvoid,0,0,0\n")
    table = np.zeros((256, 3), np.uint8)
    table[:3] = [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    (tmp_path / "numbers").mkdir()
    shutil.copytree(data_root, tmp_path / "numbers", dirs_exist_ok=True)
    for path in [*(data_root / "labels").rglob("*.png")]:
        Image.fromarray(table[np.array(Image.open(path))]).save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    train_and_evaluate("folder", data_root, tmp_path / "run", "--colours", "~/table.csv")
    saved = load_model(tmp_path / "run")[1]["reading"]
    assert saved == {"colours": str(tmp_path / "table.csv")}
    monkeypatch.chdir("/")
    command = ["--checkpoint", str(tmp_path / "run"), "--dataset", "folder", "--workers", "0"]
    assert evaluate.main([*command, "--data-root", str(data_root)]) == 0
    numbers = ["--data-root", str(tmp_path / "numbers")]
    assert evaluate.main([*command, *numbers]) == 1
    assert evaluate.main([*command, *numbers, "--colours", "none"]) == 0
    model, metadata = load_model(tmp_path / "run")
    save_model(model, tmp_path / "other.safetensors", metadata=metadata | {"dataset": "camvid"})
    command[1] = str(tmp_path / "other.safetensors")
    assert evaluate.main([*command, *numbers]) == 0  # options of another kind of data are not taken over


def test_few_images_are_divided_by_the_share_to_one_image(tmp_path):
    for count, expected in ((2, 1), (3, 1), (8, 2), (20, 4)):
        root = coco(tmp_path / str(count), [f"{number}.png" for number in range(count)])
        assert len(create_dataset("folder", root, "val")) == expected
        assert len(create_dataset("folder", root, "train")) == count - expected
