"""Data sets: items, determinism, and errors of the data on disk."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import CLASSES, REPOSITORY, make_folder, write_pair

from difnet.data import (
    DataError,
    SeededView,
    StepSampler,
    create_dataset,
    eval_transform,
    evaluation_batches,
    make_loader,
    train_transform,
)
from difnet.data.checks.report import DataReport
from difnet.data.options import Reading
from difnet.data.registry import create_pair
from difnet.data.sampling import Draw
from difnet.data.sets.scenes import Scenes


def problem(root: Path, split: str = "train") -> str:
    """Return the message of the error that this folder raises when it is opened or checked."""
    with pytest.raises(DataError) as caught:
        create_dataset("folder", root, split).check()
    return str(caught.value)


def test_folder_items_and_names(data_root):
    dataset = create_dataset("folder", data_root, "train")
    image, label = dataset[3]
    assert len(dataset) == 8
    assert dataset.classes == list(CLASSES)
    assert dataset.item_name(3) == "view3"
    assert image.dtype == label.dtype == torch.uint8
    assert image.shape == (3, 40, 56)
    assert label.shape == (40, 56)
    assert set(label.unique().tolist()) == {0, 1, 2, 255}
    assert np.array_equal(label.numpy(), np.array(Image.open(data_root / "labels/train/view3.png")))
    assert len({tuple(colour) for colour in dataset.palette}) == 3


def test_check_counts_pixels(data_root):
    dataset = create_dataset("folder", data_root, "val")
    seen = []
    report = dataset.check(seen.append)
    labels = np.stack([dataset.read(i)[1].numpy() for i in range(3)])
    assert seen == [1, 2, 3]
    assert report.pixels.tolist() == [int((labels == c).sum()) for c in range(3)]
    assert report.present.tolist() == [int((labels != 255).sum())] * 3


def relabel(root: Path, split: str, old: int, new: int) -> None:
    """Write `new` in place of `old` in all labels of a split."""
    for path in (root / "labels" / split).iterdir():
        label = np.array(Image.open(path))
        label[label == old] = new
        Image.fromarray(label).save(path)


@pytest.mark.parametrize(("split", "word"), [("train", "training"), ("val", "validation")])
def test_check_names_classes_that_never_occur(data_root, split, word):
    relabel(data_root, split, 2, 255)
    report = create_dataset("folder", data_root, split).check()
    labels = [np.array(Image.open(path)) for path in (data_root / "labels" / split).iterdir()]
    share = 100 * np.mean([label == 255 for label in labels])
    assert report.void == sum((label == 255).sum() for label in labels)
    assert report.notes == (
        f"{split} labels: 2 of 3 classes occur, class 2 (block) in no {word} label; "
        f"255 is void: {share:.1f} % of the pixels",
    )


@pytest.mark.parametrize(("split", "word"), [("train", "training"), ("val", "validation")])
def test_single_class_is_refused(data_root, split, word):
    relabel(data_root, split, 2, 255)
    relabel(data_root, split, 1, 255)
    message = problem(data_root, split)
    absent = (
        f"folder {split}: 1 of 3 classes occur, classes 1 (right), 2 (block) in no {word} label; 255 is void:"
    )
    assert absent in message
    assert "a single class can be neither learned nor measured" in message
    assert "if 255 stands for a class here, write the class's number there" in message
    relabel(data_root, split, 255, 0)
    assert problem(data_root, split).endswith("because to predict it everywhere is always correct")


def test_masks_that_partly_use_255_for_the_class(data_root):
    """Two masks hold 0 and 255, the rest 0 and 1; 255 in a mask of both classes really means void."""
    (data_root / "classes.txt").write_text("ground\nblock\n")
    paths = sorted((data_root / "labels/train").iterdir())
    for index, path in enumerate(paths):
        block = np.array(Image.open(path)) == 2
        Image.fromarray((block * (255 if index < 2 else 1)).astype(np.uint8)).save(path)
    note = (
        "2 train label(s) hold void beside a single class (view0, view1), and no label of several classes "
        "holds void; if 255 stands for a class here, write the class's number there"
    )
    assert create_dataset("folder", data_root, "train").check().notes[1:] == (note,)
    label = np.array(Image.open(paths[5]))
    label[0] = 255
    Image.fromarray(label).save(paths[5])
    assert len(create_dataset("folder", data_root, "train").check().notes) == 1


def test_void_numbers_and_label_offset(data_root):
    usual = create_dataset("folder", data_root, "train")
    expected = [usual.read(i)[1] for i in range(8)]
    for old, new in ((2, 3), (1, 2), (0, 1), (255, 0)):
        relabel(data_root, "train", old, new)
    assert "label value(s) 3 outside the 3 classes (0 to 2, 255 = void)" in problem(data_root)
    numbered = create_dataset("folder", data_root, "train", reading=Reading(void_value=(0,), label_offset=1))
    for index, label in enumerate(expected):
        assert torch.equal(numbered.read(index)[1], label)
    assert numbered.check().notes[0].startswith("train labels: 3 of 3 classes occur; 0 is void: ")
    relabel(data_root, "train", 3, 0)
    assert "class 3 (block) in no training label" in numbered.check().notes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"void_value": (2,)}, "--void-value 2 is also the number of class 'block' in the labels"),
        ({"void_value": (255, 1), "label_offset": 1}, "--void-value 1 is also the number of class 'left'"),
        ({"void_value": (-1,)}, "--void-value must be a number that a PNG can hold, 0 to 65535, got -1"),
        ({"label_offset": -1}, "--label-offset must be a number that a PNG can hold"),
    ],
)
def test_contradicting_numbering_is_refused(data_root, options, words):
    shutil.rmtree(data_root / "labels")
    with pytest.raises(ValueError, match=re.escape(words)):
        create_dataset("folder", data_root, "train", reading=Reading(**options))


@pytest.mark.parametrize("name", ["scenes", "camvid"])
def test_numbering_is_only_for_folders(data_root, name):
    root = None if name == "scenes" else data_root
    for options in ({"void_value": (0,)}, {"label_offset": 1}):
        with pytest.raises(ValueError, match=f"is for --dataset folder, and not for {name}"):
            create_dataset(name, root, "train", reading=Reading(**options))


def test_palette_follows_the_offset(data_root):
    path = data_root / "labels/train/view0.png"
    label = Image.fromarray(np.array(Image.open(path)))
    label.putpalette([9, 9, 9, 10, 0, 0, 0, 20, 0, 0, 0, 30])
    label.save(path)
    palette = create_dataset("folder", data_root, "train", reading=Reading(label_offset=1)).palette
    assert palette.tolist() == [[10, 0, 0], [0, 20, 0], [0, 0, 30]]


def test_median_frequency_weights():
    # Frequencies 0.5, 0.25 and 0.125 in the images that show each class; the fourth class never occurs.
    report = DataReport(2, np.array([50, 25, 5, 0]), np.array([100, 100, 40, 0]))
    assert report.median_frequency_weights() == [0.5, 1.0, 2.0, 0.0]


def test_nested_folders_pair_by_relative_name(data_root):
    write_pair(data_root, "train/aachen", "view0", (40, 56), np.random.default_rng(1))
    dataset = create_dataset("folder", data_root, "train")
    assert "aachen/view0" in [dataset.item_name(i) for i in range(len(dataset))]
    dataset.check()


def test_links_to_folders_are_followed(data_root, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "city" / kind).mkdir(parents=True)
        shutil.move(data_root / kind / "train/view0.png", tmp_path / "city" / kind / "view0.png")
        (data_root / kind / "train/rome").symlink_to(tmp_path / "city" / kind)
        (data_root / kind / "train/loop").symlink_to(data_root / kind / "train")
    dataset = create_dataset("folder", data_root, "train")
    assert [dataset.item_name(i) for i in (0, 1, 7)] == ["rome/view0", "view1", "view7"]
    loops = dataset.check().notes[:2]
    for kind, note in zip(("images", "labels"), loops, strict=True):
        assert note.startswith(f"not read in {data_root / kind / 'train'}: loop (only")
        assert note.endswith("and linked folders unless they lead back)")


def test_files_that_are_not_read_are_named(data_root):
    for name in ("a.heic", "b.npy", ".DS_Store", "._view0.png", ".ipynb_checkpoints/view0.png", "Thumbs.db"):
        path = data_root / "images/train" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    report = create_dataset("folder", data_root, "train").check()
    assert report.images == 8
    assert report.notes[0].startswith(f"not read in {data_root}/images/train: Thumbs.db, a.heic, b.npy (only")
    assert len(report.notes) == 2


@pytest.mark.parametrize("suffix", [".JPG", ".jpe", ".gif", ".pgm"])
def test_all_suffixes_of_the_formats_are_read(data_root, suffix):
    path = data_root / "images/train/view0.png"
    Image.open(path).convert("L").save(path.with_suffix(suffix))
    path.unlink()
    assert create_dataset("folder", data_root, "train").check().images == 8


def test_unpaired_file_of_another_format_is_named(data_root):
    label, image = data_root / "labels/train/view1.png", data_root / "images/train/view2.png"
    Image.open(label).save(label.with_suffix(".tif"))
    label.unlink()
    image.rename(image.with_suffix(".heic"))
    message = problem(data_root)
    assert f"images/train/view1.png has no label; save {label.with_suffix('.tif')} again from its" in message
    assert f"labels/train/view2.png has no image; save {image.with_suffix('.heic')} as PNG or JPEG" in message


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_turned_photographs(data_root, orientation):
    """A label drawn on the stored pixels is recognised if its size differs from that of the turned image."""
    path = data_root / "images/train/view0.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)
    if orientation < 5:
        notes = create_dataset("folder", data_root, "train").check().notes
        note = "1 train image(s) are turned by an EXIF tag, which their size does not show (view0)"
        assert [note in text for text in notes] == ([False] if orientation == 1 else [False, True])
        return
    message = problem(data_root)
    assert f"before the turn by the EXIF tag (Orientation {orientation}): turn the label the same" in message
    assert "resize" not in message
    label = data_root / "labels/train/view0.png"
    stored = Image.open(label)
    stored.save(label, exif=exif)  # the same tag turns the label
    create_dataset("folder", data_root, "train").check()


def turn(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.open(path).copy()
    picture.save(path, exif=exif)


@pytest.mark.parametrize(
    ("of_image", "of_label", "size", "noted"),
    [
        (1, 3, (40, 56), True),
        (1, 6, (48, 48), True),
        (6, 8, (40, 56), True),
        (3, 2, (40, 56), True),
        (3, 3, (40, 56), False),
        (6, 6, (40, 56), False),
    ],
)
def test_labels_turned_differently_from_their_images(tmp_path, of_image, of_label, size, noted):
    root = make_folder(tmp_path / "data", 3, 1, size)
    turn(root / "images/train/view0.png", of_image)
    turn(root / "labels/train/view0.png", of_label)
    notes = create_dataset("folder", root, "train").check().notes[1:]
    note = "1 train label(s) carry an EXIF tag Orientation that their image does not have (view0)"
    assert [note in text for text in notes] == ([True] if noted else [])


def test_label_that_lies_on_its_side(data_root):
    path = data_root / "labels/train/view0.png"
    turn(path, 6)
    words = "turned by its own EXIF tag (Orientation 6), which its image lacks: remove the tag from the label"
    assert words in problem(data_root)
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=b"")
    message = problem(data_root)
    assert "is 40x56, its image" in message
    assert "one of them lies on its side: turn the label until it matches the image" in message
    assert "resize" not in message


def test_exif_rotation_is_applied(data_root):
    path = data_root / "images/train/view0.png"
    picture = Image.open(path).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees
    path.unlink()
    picture.save(path.with_suffix(".jpg"), exif=exif)
    assert "view0.png is 56x40" in problem(data_root)
    assert "is 40x56" in problem(data_root)


def test_missing_root(tmp_path):
    assert "nowhere does not exist" in problem(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_missing_folder(data_root, kind):
    shutil.rmtree(data_root / kind / "train")
    assert f"{kind}/train is missing" in problem(data_root)


def test_no_images(data_root):
    for path in (data_root / "images/train").iterdir():
        path.unlink()
    assert "images/train holds no image" in problem(data_root)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "masks/{}"),
        ("{}/images", "{}/masks"),
        ("{}/images", "{}/labels"),
        ("images/{}", "{}/labels"),
    ],
)
def test_other_names_of_the_folders(data_root, tmp_path, images, labels):
    expected = [create_dataset("folder", data_root, split).read(2) for split in ("train", "val")]
    root = tmp_path / "other"
    for split in ("train", "val"):
        for kind, form in (("images", images), ("labels", labels)):
            (root / form.format(split)).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(data_root / kind / split, root / form.format(split))
    shutil.copy(data_root / "classes.txt", root)
    for split, pair in zip(("train", "val"), expected, strict=True):
        found = create_dataset("folder", root, split).read(2)
        assert all(torch.equal(one, two) for one, two in zip(found, pair, strict=True))


def test_a_folder_with_pictures_goes_before_one_without(data_root):
    """YOLO keeps text files in labels, and masks lie beside."""
    shutil.copytree(data_root / "labels", data_root / "masks")
    message = problem(data_root)
    assert f"{data_root / 'labels/train'} and {data_root / 'masks/train'} both hold labels" in message
    for path in [*(data_root / "labels").rglob("*.png")]:
        path.rename(path.with_suffix(".txt"))
    assert create_dataset("folder", data_root, "train").check().images == 8


def test_a_validation_split_by_another_name(data_root):
    for kind in ("images", "labels"):
        (data_root / kind / "val").rename(data_root / kind / "valid")
    assert create_dataset("folder", data_root, "val").check().images == 3


def test_both_splits_are_read_by_colour_if_one_is_coloured(data_root):
    """Masks of the validation split are palette pictures of the same colours under other numbers."""
    (data_root / "labelmap.txt").write_text("left:9,0,0::\nright:0,9,0::\nblock:0,0,9::\nvoid:0,0,0::\n")
    colours = np.zeros((256, 3), np.uint8)
    colours[:3] = np.eye(3) * 9
    expected = {split: create_dataset("folder", data_root, split).read(0)[1] for split in ("train", "val")}
    for split in ("train", "val"):
        for path in (data_root / "labels" / split).iterdir():
            picture = Image.fromarray(colours[np.array(Image.open(path))])
            (picture if split == "train" else picture.quantize(4)).save(path)
    for split, label in expected.items():
        assert torch.equal(create_dataset("folder", data_root, split).read(0)[1], label)


@pytest.mark.parametrize(
    ("option", "value"), [("unannotated", "void"), ("unlabelled", "skip"), ("val_share", 0.5)]
)
def test_options_of_exports_are_refused_for_a_plain_folder(data_root, option, value):
    words = f"--{option.replace('_', '-')} changes nothing in how a folder of masks in two splits"
    with pytest.raises(ValueError, match=words):
        create_dataset("folder", data_root, "train", reading=Reading(**{option: value}))


def test_both_splits_are_opened_as_each_of_them(data_root):
    train, val = create_pair("folder", data_root)
    assert (train.split, len(train), val.split, len(val)) == ("train", 8, "val", 3)
    assert val.item_name(0) == create_dataset("folder", data_root, "val").item_name(0)
    train, val = create_pair("scenes", None, (None, eval_transform()))
    assert (len(train), len(val), val[0][0].dtype) == (1920, 96, torch.float32)


def test_image_without_label_and_reverse(data_root):
    (data_root / "labels/train/view1.png").unlink()
    (data_root / "images/train/view2.png").unlink()
    message = problem(data_root)
    assert "2 item(s)" in message
    assert "images/train/view1.png has no label; add" in message
    assert "labels/train/view2.png has no image; add" in message


@pytest.mark.parametrize(
    ("image", "label"),
    [("caf\u00e9", "cafe\u0301"), ("view", "View"), ("view", "view "), ("a/view", "A/view")],
)
def test_names_that_differ_slightly(data_root, image, label):
    for kind, name in (("images", image), ("labels", label)):
        path = data_root / kind / "train" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        (data_root / kind / "train/view0.png").rename(path)
    message = problem(data_root)
    assert "1 item(s) cannot be used" in message
    assert (
        f"labels/train/{label}.png has nearly the same name: {label!a} differs from {image!a} in case"
        in message
    )


def test_same_name_twice(data_root):
    shutil.copy(data_root / "images/train/view0.png", data_root / "images/train/view0.jpg")
    assert "share the name 'view0'" in problem(data_root)


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_unreadable_file(data_root, kind, damage):
    path = data_root / kind / "train/view5.png"
    path.write_bytes(path.read_bytes()[:-60] if damage == "truncated" else b"not a picture")
    message = problem(data_root)
    assert "1 item(s)" in message
    assert str(path) in message
    assert ("cannot be read" if damage == "truncated" else "not an image that Pillow can read") in message


def test_size_mismatch(data_root):
    path = data_root / "labels/train/view4.png"
    Image.open(path).resize((28, 20), Image.Resampling.NEAREST).save(path)
    message = problem(data_root)
    assert f"{path} is 28x20" in message
    assert "is 56x40" in message
    assert "nearest neighbour" in message


def test_label_outside_the_classes(data_root):
    path = data_root / "labels/train/view6.png"
    label = np.array(Image.open(path))
    label[7, 7], label[8, 8] = 3, 200
    Image.fromarray(label).save(path)
    message = problem(data_root)
    assert f"{path} holds label value(s) 3, 200 outside the 3 classes (0 to 2, 255 = void)" in message


def test_coloured_label(data_root):
    path = data_root / "labels/train/view6.png"
    Image.open(path).convert("RGB").save(path)
    assert "has mode RGB; a label is a palette or grey PNG" in problem(data_root)


def test_only_void(data_root):
    for path in (data_root / "labels/train").iterdir():
        Image.new("L", (56, 40), 255).save(path)
    assert "every pixel of the 8 labels is void" in problem(data_root)


def test_first_ten_of_many_errors(tmp_path):
    root = make_folder(tmp_path / "data", train=13)
    for path in (root / "labels/train").iterdir():
        path.write_bytes(b"broken")
    message = problem(root)
    assert message.startswith("folder train: 13 item(s) cannot be used")
    assert message.count("not an image") == 10
    assert message.endswith("and 3 more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "classes.txt is missing; write one class name per line"),
        ("", "names 0 class"),
        (" \n\n", "names 0 class"),
        ("one\n\n", "names 1 class"),
        ("a\nb\na\n", "names a more than once"),
        (
            "a\n \nb\nc\n",
            "has no name on line 2, and each line names a class; remove the line, or write the",
        ),
        ("\r\na\r\nb\r\nc", "has no name on line 1"),
        ("a\n\u200b\nb\n", "has no name on line 2"),
        ("# classes\na\nb\nc\n", "has a comment on line 1 ('# classes')"),
        ("a\n// b\nc\n", "has a comment on line 2 ('// b')"),
        (
            "id,name\n0,a\n1,b\n2,c\n",
            "has '0,a' on line 2, and the order of its lines makes that class 1; sort",
        ),
        ("2 c\n0 a\n1 b\n", "has '2 c' on line 1, and the order of its lines makes that class 0"),
        ("0: a\n2: b\n1: c\n", "has '2: b' on line 2, and the order of its lines makes that class 1"),
        ("1 a\n3 c\n2 b\n", "has '3 c' on line 2, and the order of its lines makes that class 1"),
        ("a\nb\na\u200b\n", "names a more than once (on lines 1, 3; names that look the same count as one)"),
        ("\u00e9\ne\u0301\nb\n", "names \u00e9 more than once (on lines 1, 2;"),
        ("a b\na\u00a0b\nc\n", "names a b more than once (on lines 1, 2;"),
    ],
)
def test_classes_file(data_root, text, words):
    path = data_root / "classes.txt"
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    assert words in problem(data_root)


@pytest.mark.parametrize(
    "names",
    [
        ["0 a", "1 b", "2 c"],
        ["ground", "1: a", "2: b"],
        ["1\ta", "2\tb", "3\tc"],
        ["1 cent", "2 cent"],
        ["2 wheels", "4 wheels", "tree"],
        ["4 wheels", "2 wheels"],
        ["3 wheels", "2 wheels"],
        ["C#", "a", "A"],
        ["3D", "2D", "1D"],
    ],
)
def test_names_may_begin_with_numbers(data_root, names):
    (data_root / "classes.txt").write_text("\n".join(names))
    assert create_dataset("folder", data_root, "train").classes == names


def test_numbered_names_follow_the_offset(data_root):
    (data_root / "classes.txt").write_text("1 a\n2 b\n3 c\n")
    options = {"void_value": (0,), "label_offset": 1}
    dataset = create_dataset("folder", data_root, "train", reading=Reading(**options))
    assert dataset.classes == ["1 a", "2 b", "3 c"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\r\n"])
def test_classes_file_from_any_editor(data_root, encoding, end):
    text = "".join(f"{name}{end}" for name in ("ä", "b", "c"))
    (data_root / "classes.txt").write_bytes(f"{text}{end}".encode(encoding))
    assert create_dataset("folder", data_root, "train").classes == ["ä", "b", "c"]


def test_class_names_end_only_at_line_ends(data_root):
    text = "a\u2028b\nc\x85d\ne\x0cf\n"
    (data_root / "classes.txt").write_text(text, encoding="utf-8")
    assert create_dataset("folder", data_root, "train").classes == ["a\u2028b", "c\x85d", "e\x0cf"]


def test_classes_file_in_another_encoding(data_root):
    cases = (("latin-1", "ä", "can't decode"), ("utf-16-le", "a", "without a byte order mark"))
    for encoding, first, words in cases:
        (data_root / "classes.txt").write_bytes(f"{first}\nb\nc\n".encode(encoding))
        assert words in problem(data_root)
        assert "in index order, as UTF-8" in problem(data_root)


def test_evaluation_batches_hold_one_size_each(data_root):
    write_pair(data_root, "val", "view1", (44, 60), np.random.default_rng(1))
    dataset = create_dataset("folder", data_root, "val", transform=eval_transform())
    for workers in (0, 1):
        found = [tuple(image.shape) for image, _ in evaluation_batches(dataset, workers, 3)]
        assert found == [(2, 3, 40, 56), (1, 3, 44, 60)]
    (images, labels), (other, _) = evaluation_batches(dataset, 0, 3)
    assert torch.equal(other[0], dataset[1][0])
    assert torch.equal(images[1], dataset[2][0])
    assert torch.equal(labels[1], dataset[2][1])


def test_error_in_a_worker_stays_one_line(data_root):
    dataset = create_dataset("folder", data_root, "val", transform=eval_transform())
    (data_root / "images/val/view1.png").write_bytes(b"x")
    with pytest.raises(DataError) as caught:
        list(evaluation_batches(dataset, 1, 1))
    assert str(caught.value).startswith(f"{data_root}/images/val/view1.png is not an image")
    assert "\n" not in str(caught.value)


def test_workers_end_with_the_main_process(tmp_path):
    """Workers ignore SIGTERM during the work, but after an uncaught error they must not block the exit."""
    script = """
from difnet.data.sampling import make_loader
kept = iter(make_loader([0, 1, 2, 3], 1, batch_size=1))
next(kept)
raise RuntimeError("the loader stays alive")
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60, capture_output=True)
    assert run.returncode == 1
    assert b"the loader stays alive" in run.stderr


def test_registry_errors(data_root):
    with pytest.raises(ValueError, match="'streets' is unknown; choose one of scenes, camvid, folder"):
        create_dataset("streets", data_root, "train")
    with pytest.raises(ValueError, match="needs a folder; give --data-root"):
        create_dataset("camvid", None, "train")
    with pytest.raises(ValueError, match="drawn in memory"):
        create_dataset("scenes", data_root, "train")
    with pytest.raises(ValueError, match="split 'test' is unknown"):
        create_dataset("scenes", None, "test")
    with pytest.raises(DataError, match=r"lists left, right, block; camvid has sky, building"):
        create_dataset("camvid", data_root, "train")


def test_scenes_depend_only_on_rng_seed_split_and_index():
    image, label = Scenes("train")[5]
    again, label_again = Scenes("train", count=7)[5]
    assert torch.equal(image, again)
    assert torch.equal(label, label_again)
    for other in (Scenes("train")[6], Scenes("val")[5], Scenes("train", rng_seed=1)[5]):
        assert not torch.equal(image, other[0])
    with pytest.raises(IndexError):
        Scenes("train", count=7)[7]


def test_scenes_show_every_class_and_colour_alone_does_not_reveal_it():
    dataset = Scenes("val")
    report = dataset.check()
    assert (report.pixels > 0.02 * report.pixels.sum()).all()
    pairs = [dataset[i] for i in range(40)]
    colours = torch.cat([image.flatten(1).T for image, _ in pairs]).float()
    labels = torch.cat([label.flatten() for _, label in pairs])
    means = torch.stack([colours[labels == c].mean(0) for c in range(6)])
    accuracy = (torch.cdist(colours, means).argmin(1) == labels).float().mean()
    assert 0.4 < accuracy < 0.7


def test_step_sampler_splits_one_order_over_processes_and_micro_batches():
    def samplers(processes, accumulation):
        return [
            StepSampler(50, 8, rng_seed=3, processes=processes, rank=rank, accumulation=accumulation)
            for rank in range(processes)
        ]

    (whole,) = samplers(1, 1)
    assert whole.steps_per_epoch == len(whole) == 6
    plain = [[draw.item for draw in batch] for batch in whole]
    assert len({item for batch in plain for item in batch}) == 48
    streams = [list(sampler) for sampler in samplers(2, 2)]
    for step, batch in enumerate(plain):
        split = [draw.item for s in streams for micro in s[2 * step : 2 * step + 2] for draw in micro]
        assert split == batch
    whole.start_at(0, 4)
    assert [[draw.item for draw in batch] for batch in whole] == plain[4:]
    whole.start_at(1, 0)
    assert [[draw.item for draw in batch] for batch in whole] != plain


def test_step_sampler_errors():
    with pytest.raises(
        ValueError, match="batch_size 6 must be a multiple of processes x accumulation = 2 x 2"
    ):
        StepSampler(50, 6, 0, processes=2, accumulation=2)
    with pytest.raises(ValueError, match="batch_size 16 is larger than the 8 training images"):
        StepSampler(8, 16, 0)


def test_augmentation_depends_only_on_rng_seed_epoch_and_item():
    dataset = create_dataset("scenes", None, "train", transform=train_transform(32))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = SeededView(dataset, 0)[Draw(2, 9)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first[0], SeededView(dataset, 0)[Draw(2, 9)][0])
    assert not torch.equal(first[0], SeededView(dataset, 0)[Draw(3, 9)][0])
    assert not torch.equal(first[0], SeededView(dataset, 1)[Draw(2, 9)][0])


def test_workers_change_nothing():
    dataset = SeededView(create_dataset("scenes", None, "train", transform=train_transform(32)), 0)
    batches = []
    for workers in (0, 2):
        sampler = StepSampler(12, 4, rng_seed=0)
        batches.append(list(make_loader(dataset, workers, batch_sampler=sampler)))
    assert len(batches[0]) == 3
    for one, two in zip(*batches, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def test_camvid_on_disk():
    root = REPOSITORY.parent / "shared" / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"CamVid is not at {root}")
    dataset = create_dataset("camvid", root, "val")
    assert len(dataset) == 101
    report = dataset.check()
    assert report.pixels.argmax() == dataset.classes.index("road")
    image, label = dataset[0]
    assert image.shape == (3, 360, 480)
    assert label.shape == (360, 480)


def test_masks_whose_names_have_an_ending(data_root):
    (data_root / "labels/train/view1.png").rename(data_root / "labels/train/view1_mask.png")
    message = problem(data_root)
    assert (
        f"view1.png has no label; rename {data_root / 'labels/train/view1_mask.png'} to view1.png" in message
    )
    assert "1 item(s) cannot be used" in message
