"""Checks of whole data sets: counts, the cache, suspicions, the page, and the commands."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import REPOSITORY, make_folder, train_and_evaluate, write_pair

from difnet.data import DataError, create_dataset
from difnet.data.__main__ import main
from difnet.data.checks import survey, workers
from difnet.data.checks.alignment import TURNS, alignments, turned
from difnet.data.checks.cache import FindingsCache
from difnet.data.checks.finding import Finding, examined
from difnet.data.checks.review import Examined, seeming_turn, suspects, warnings
from difnet.data.files.disk import read_numbers
from difnet.data.options import Reading
from difnet.data.sets.scenes import draw_scene

CAMVID = REPOSITORY.parent / "shared" / "data" / "camvid"


def scene(number: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    return draw_scene(np.random.default_rng(number), size)


def test_finding_survives_as_bytes():
    image, label = scene(0)
    label[:3] = 255
    found = examined(image, label, 6, 3)
    again = Finding.from_bytes(found.to_bytes())
    assert again[:1] + again[3:4] + again[5:] == found[:1] + found[3:4] + found[5:]
    for name in ("values", "counts", "alignments"):
        assert np.array_equal(getattr(again, name), getattr(found, name))
    assert found.values[-1] == 255
    assert dict(zip(found.values, found.counts, strict=True))[255] == 3 * 96
    assert found.counts.sum() == 96 * 96
    for data in (b"", found.to_bytes()[:-1], found.to_bytes() + b"x"):
        with pytest.raises(ValueError, match="not a finding"):
            Finding.from_bytes(data)


def test_digest_depends_on_every_pixel_and_on_the_size():
    image, label = scene(0, 24)
    digests = {examined(image, label).digest}
    image[-1, -1, 2] ^= 1
    digests.add(examined(image, label).digest)
    digests.add(examined(image.reshape(12, 48, 3), label.reshape(12, 48)).digest)
    assert len(digests) == 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_is_what_exif_means(orientation, tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path, exif = tmp_path / "x.png", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    assert np.array_equal(turned(pixels, orientation), read_numbers(path)[0])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_labels_are_suspected(orientation):
    """A label that was turned in one way fits best when it is turned back."""
    back = {6: 8, 8: 6}.get(orientation, orientation)
    hits = 0
    for number in range(20):
        image, label = scene(number)
        assert seeming_turn(examined(image, label)) is None
        wrong = np.ascontiguousarray(turned(label, orientation))
        hits += seeming_turn(examined(image, wrong)) == TURNS[back - 1]
    assert hits >= 18


def test_no_alignment_without_outlines_or_edges():
    flat = np.zeros((20, 30), np.uint8)
    image, label = scene(0, 30)
    assert not alignments(image[:20], flat).any()
    assert not alignments(np.zeros((20, 30, 3), np.uint8), label[:20]).any()
    found = alignments(image[:20], label[:20])
    assert found[:4].all()
    assert not found[4:].any()  # quarter turns do not fit


@pytest.mark.skipif(not CAMVID.is_dir(), reason="../shared/data/camvid is not on this machine")
def test_photographs_are_seldom_suspected_wrongly():
    dataset = create_dataset("camvid", CAMVID, "val")
    pairs = [tuple(part.numpy() for part in dataset.read(index)) for index in range(0, 101, 4)]
    pairs = [(image.transpose(1, 2, 0), label) for image, label in pairs]
    assert sum(seeming_turn(examined(*pair)) is not None for pair in pairs) <= 1
    mirrored = [seeming_turn(examined(image, np.ascontiguousarray(label[:, ::-1]))) for image, label in pairs]
    assert mirrored.count("mirrored left to right") >= 0.8 * len(pairs)


def test_unchanged_files_are_read_once(data_root, read):
    first = create_dataset("folder", data_root, "train").check()
    again = create_dataset("folder", data_root, "train").check()
    assert read == list(range(8))
    assert again.notes == first.notes
    assert np.array_equal(again.pixels, first.pixels)
    assert [it.digest for it in again.findings] == [it.digest for it in first.findings]


def test_changed_files_are_read_again(data_root, read):
    create_dataset("folder", data_root, "train").check()
    read.clear()
    label = data_root / "labels/train/view2.png"
    pixels = np.array(Image.open(label))
    status = label.stat()
    pixels[5:9] = 2
    Image.fromarray(pixels).save(label)
    os.utime(label, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # a clock may be coarse
    os.utime(data_root / "images/train/view5.png")
    report = create_dataset("folder", data_root, "train").check()
    assert sorted(read) == [2, 5]
    assert report.findings[2].counts.tolist() == np.unique(pixels, return_counts=True)[1].tolist()
    read.clear()
    # Another numbering is another reading.
    create_dataset("folder", data_root, "train", reading=Reading(void_value=(255, 9))).check()
    assert sorted(read) == list(range(8))


def test_errors_are_not_kept(data_root, read):
    path = data_root / "labels/train/view1.png"
    good = path.read_bytes()
    status = path.stat()
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(path)
    for _ in range(2):
        with pytest.raises(DataError, match="value"):
            create_dataset("folder", data_root, "train").check()
    path.write_bytes(good)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert create_dataset("folder", data_root, "train").check().images == 8


def test_a_damaged_or_read_only_cache_costs_only_time(data_root, monkeypatch, tmp_path):
    dataset = create_dataset("folder", data_root, "train")
    cache = FindingsCache(dataset.reading_key())
    cache.path.parent.mkdir(parents=True)
    cache.path.write_bytes(b"no data base")
    assert dataset.check().images == 8
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    assert dataset.check().images == 8


def test_processes_find_what_one_process_finds(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data", train=33, val=1)
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(root / "labels/train/view7.png")
    dataset = create_dataset("folder", root, "train")
    found = {}
    for count in (1, 2):
        monkeypatch.setattr(workers, "cores", lambda count=count: count)
        found[count] = list(workers.examine_all(dataset, range(33)))
    assert [index for index, _ in found[2]] == list(range(33))
    for (_, one), (_, two) in zip(found[1], found[2], strict=True):
        if isinstance(one, DataError):
            assert isinstance(two, DataError)
            assert str(one) == str(two)
        else:
            assert one.to_bytes() == two.to_bytes()
    assert sum(isinstance(it, DataError) for _, it in found[2]) == 1


def examined_split(root: Path, split: str) -> Examined:
    dataset = create_dataset("folder", root, split)
    return Examined(dataset, dict(enumerate(survey.findings_of(dataset))))


def test_copies_are_suspicious(data_root):
    for kind in ("images", "labels"):
        shutil.copy(data_root / kind / "train/view0.png", data_root / kind / "train/again.png")
        shutil.copy(data_root / kind / "train/view3.png", data_root / kind / "val/view9.png")
    splits = [examined_split(data_root, split) for split in ("train", "val")]
    found = list(warnings(splits))
    assert found[0].startswith("2 train images show only 1 picture(s), pixel for pixel (again, view0)")
    assert found[1].startswith("1 of 4 validation images are also training images (view9)")
    assert len(found) == 2
    worst = [(it.split, splits[it.split == "val"].dataset.item_name(it.number)) for it in suspects(splits, 4)]
    assert set(worst[:2]) == {("train", "view3"), ("val", "view9")}
    assert set(worst[2:]) == {("train", "again"), ("train", "view0")}


def test_a_split_whose_labels_are_all_turned(tmp_path):
    for number in range(12):
        image, label = scene(number)
        for kind, pixels in (("images", image), ("labels", label[::-1, ::-1])):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / "train" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\n")
    (found,) = warnings([examined_split(tmp_path, "train")])
    assert re.match(r"all train labels seem turned by 180 degrees: .* [1-9]\.\d\d times as well", found)


def test_check_prints_a_page(data_root, capsys, tmp_path):
    out = tmp_path / "worst.png"
    assert main(["check", str(data_root), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{data_root}, read as folder"
    assert lines[2].split() == [
        "images",
        "usable",
        "sizes",
        "(width",
        "x",
        "height)",
        "void",
        "void",
        "in",
        "an",
        "image",
    ]
    assert lines[3].split()[:6] == ["train", "8", "8", "56", "x", "40"]
    assert lines[3].split()[6:] == ["5.0", "%", "5.0", "to", "5.0", "%"]
    table = [line.split() for line in lines[7:10]]
    labels = np.stack([create_dataset("folder", data_root, "train").read(i)[1].numpy() for i in range(8)])
    for index, row in enumerate(table):
        share = 100 * (labels == index).sum() / (labels != 255).sum()
        assert row[:5] == [str(index), ("left", "right", "block")[index], f"{share:.2f}", "%", "8"]
    assert "the 11 images to look at first (suspicious ones, then those with most void):" in lines
    assert lines[-2:] == [f"drawn in {out}", "the data can be used; nothing is suspicious"]
    sheet = Image.open(out)
    assert sheet.width > 1200
    assert main(["check", str(data_root), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img ") == 12
    assert "read as folder" in page


def test_a_few_labels_may_seem_turned_by_chance(tmp_path):
    """One of 100 labels is not reported, two of them are."""
    for number in range(100):
        image, label = scene(number)
        for kind, pixels in (("images", image), ("labels", label)):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / "train" / f"{number:03d}.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\n")
    for number, reported in ((3, False), (7, True)):
        path = tmp_path / f"labels/train/{number:03d}.png"
        Image.fromarray(np.array(Image.open(path))[::-1]).save(path)
        split = examined_split(tmp_path, "train")
        assert any("seem turned or mirrored" in text for text in warnings([split])) == reported
        assert split.dataset.item_name(suspects([split], 1)[0].number) == "003"


def test_classes_that_look_alike_are_suspicious(data_root):
    (data_root / "classes.txt").write_text("car\nCar \nblock\n")
    (found,) = warnings([examined_split(data_root, "train")])
    assert found.startswith("the classes 'car', 'Car' differ only in case or blanks; if they are one class")


def test_exit_status_of_check(data_root, capsys):
    for kind in ("images", "labels"):
        shutil.copy(data_root / kind / "train/view3.png", data_root / kind / "val/view9.png")
    assert main(["check", str(data_root)]) == 0
    assert "suspicious: 1 of 4 validation images" in capsys.readouterr().out
    assert main(["check", str(data_root), "--strict"]) == 1
    assert "is suspicious (1 line(s) above), and --strict refuses that" in capsys.readouterr().err
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(data_root / "labels/val/view0.png")
    Image.fromarray(np.full((30, 56), 1, np.uint8)).save(data_root / "labels/train/view0.png")
    assert main(["check", str(data_root)]) == 1
    shown = capsys.readouterr()
    assert "problem: " + str(data_root / "labels/train/view0.png") + " is 56x30" in shown.out
    assert "view0.png holds label value(s) 9 outside" in shown.out
    assert "cannot be used: 2 problem(s), named above" in shown.err
    shutil.rmtree(data_root / "labels/val")
    assert main(["check", str(data_root)]) == 1
    shown = capsys.readouterr()
    assert "labels/val is missing" in shown.out
    assert [line.split()[:3] for line in shown.out.splitlines() if line.startswith("train ")] == [
        ["train", "8", "7"]
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "{root}", "--out", "x.pdf"], "--out x.pdf must end in .png or .html"),
        (["check", "{root}", "--worst", "0"], "--worst must be positive, got 0"),
        (["check", "{root}/nowhere"], "nowhere does not exist"),
        (["check", "{root}", "--subset"], "--subset is for --dataset"),
        (["show", "{root}", "--index", "8"], "--index 8: the train split has images 0 to 7"),
        (
            ["show", "{root}", "--name", "x"],
            "--name x: the train split has no such image; names are",
        ),
        (["show", "{root}", "--crop", "0"], "--crop must be positive, got 0"),
        (["convert", "{root}", "--to", "{root}/new"], "lies in the source"),
        (["convert", "{root}", "--to", "{root}"], "exists and is not an empty folder"),
    ],
)
def test_mistakes_are_one_line(data_root, arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(root=data_root) for word in arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_unknown_command(capsys):
    assert main(["chekc"]) == 2
    assert "expected one of check, show, convert, prepare, got 'chekc'" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "python -m difnet.data show DIR --index 3" in capsys.readouterr().out


def test_show_draws_what_training_sees(data_root, tmp_path, capsys):
    out = tmp_path / "show.png"
    assert main(["show", str(data_root), "--index", "3", "--crop", "32", "--out", str(out)]) == 0
    assert "train 3 (view3), 56 x 40" in capsys.readouterr().out
    sheet = np.asarray(Image.open(out))
    assert sheet.shape[0] == 360
    image = np.asarray(Image.open(data_root / "images/train/view3.png").resize((504, 360)))
    assert np.array_equal(sheet[:, :504], image)
    first = out.read_bytes()
    assert main(["show", str(data_root), "--name", "view3", "--crop", "32", "--out", str(out)]) == 0
    assert out.read_bytes() == first
    assert (
        main(["show", str(data_root), "--name", "view3", "--crop", "32", "--seed", "1", "--out", str(out)])
        == 0
    )
    assert out.read_bytes() != first
    assert main(["show", "--dataset", "scenes", "--crop", "32", "--out", str(out)]) == 0


def test_convert_writes_a_folder_that_needs_no_options(data_root, tmp_path, capsys):
    for split in ("train", "val"):
        for path in (data_root / "labels" / split).iterdir():
            label = np.array(Image.open(path))
            Image.fromarray(np.where(label == 255, 0, label + 1).astype(np.uint8)).save(path)
    write_pair(data_root, "val/rome", "a.b c", (40, 56), np.random.default_rng(5))
    path = data_root / "labels/val/rome/a.b c.png"
    label = np.array(Image.open(path))
    Image.fromarray(np.where(label == 255, 0, label + 1).astype(np.uint8)).save(path)
    target = tmp_path / "plain"
    options = ["--label-offset", "1", "--void-value", "0"]
    assert main(["convert", str(data_root), "--to", str(target), *options]) == 0
    assert "holds 8 train, 4 val images of 3 classes" in capsys.readouterr().out
    reading = Reading(label_offset=1, void_value=(0,))
    for split in ("train", "val"):
        one = create_dataset("folder", data_root, split, reading=reading)
        two = create_dataset("folder", target, split)
        assert len(one) == len(two)
        for index in range(len(one)):
            assert one.item_name(index) == two.item_name(index)
            for before, after in zip(one.read(index), two.read(index), strict=True):
                assert np.array_equal(before.numpy(), after.numpy())
    assert Image.open(target / "labels/val/rome/a.b c.png").mode == "P"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert target.stat().st_mode & 0o777 == (tmp_path / "plain/images").stat().st_mode & 0o777
    train_and_evaluate("folder", target, tmp_path / "run")


def test_convert_writes_nothing_if_an_item_cannot_be_used(data_root, tmp_path, capsys):
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(data_root / "labels/val/view1.png")
    assert main(["convert", str(data_root), "--to", str(tmp_path / "plain")]) == 1
    assert "val, nothing was written: 1 item(s) cannot be used" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_convert_refuses_names_that_a_list_cannot_hold(data_root, tmp_path, capsys):
    (data_root / "classes.txt").unlink()
    (data_root / "labelmap.txt").write_text("left:1,0,0::\nright:2,0,0::\n//x:3,0,0::\nvoid:0,0,0::\n")
    colours = np.zeros((256, 3), np.uint8)
    colours[:3, 0] = (1, 2, 3)
    for path in [*(data_root / "labels").rglob("*.png")]:
        Image.fromarray(colours[np.array(Image.open(path))]).save(path)
    create_dataset("folder", data_root, "train").check()
    assert main(["convert", str(data_root), "--to", str(tmp_path / "plain")]) == 1
    error = capsys.readouterr().err
    assert (
        "the names of the classes cannot be written as a list: classes.txt has a comment on line 3" in error
    )
    assert not (tmp_path / "plain").exists()


def test_training_prints_suspicions(data_root, tmp_path, capsys):
    for kind in ("images", "labels"):
        shutil.copy(data_root / kind / "train/view0.png", data_root / kind / "train/again.png")
    train_and_evaluate("folder", data_root, tmp_path / "run")
    assert "2 train images show only 1 picture(s), pixel for pixel (again, view0)" in capsys.readouterr().out


def test_time_is_not_the_cache_key_of_another_root(data_root, tmp_path):
    """A copy of a folder elsewhere, with the same times, is read for itself."""
    create_dataset("folder", data_root, "train").check()
    other = tmp_path / "other"
    shutil.copytree(data_root, other)
    label = other / "labels/train/view0.png"
    status = label.stat()
    pixels = np.array(Image.open(label))
    pixels[-2:] = 2
    Image.fromarray(pixels).save(label)
    os.utime(label, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = create_dataset("folder", other, "train").check()
    assert report.findings[0].counts[2] == (pixels == 2).sum()
