"""What checks keep and when they read again, processes that end, and names that are no text."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import make_folder

from difnet.data import DataError, create_dataset
from difnet.data.__main__ import main
from difnet.data.checks import cache, survey, workers
from difnet.data.checks.cache import FindingsCache
from difnet.data.checks.finding import Finding
from difnet.data.items.dataset import FileDataset
from difnet.data.items.index import ConstantLabel, IndexLabel, Numbering


def test_a_file_of_the_same_size_and_time_is_read_again(data_root, read):
    path = data_root / "labels/train/view2.png"
    pixels = np.array(Image.open(path))
    Image.fromarray(pixels).save(path, compress_level=0)
    status = path.stat()
    create_dataset("folder", data_root, "train").check()
    read.clear()
    pixels[-8:] = 1
    Image.fromarray(pixels).save(path, compress_level=0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    report = create_dataset("folder", data_root, "train").check()
    assert read == [2]
    assert report.findings[2].counts[1] == (pixels == 1).sum()


def test_another_meaning_of_the_numbers_is_another_stamp(data_root):
    path = data_root / "labels/train/view0.png"
    labels = [
        ConstantLabel(0),
        ConstantLabel(1),
        IndexLabel(path, Numbering({0: 0, 1: 1}, "", "")),
        IndexLabel(path, Numbering({0: 1, 1: 0}, "", "")),
    ]
    dataset = create_dataset("folder", data_root, "train")
    stamps = set()
    for label in labels:
        dataset.items[0] = dataset.items[0]._replace(label=label)
        stamps.add(dataset.stamp(0))
    assert len(stamps) == 4


def test_other_code_reads_again(data_root, read, monkeypatch):
    create_dataset("folder", data_root, "train").check()
    read.clear()
    monkeypatch.setattr(cache, "code_digest", lambda: b"another version")
    create_dataset("folder", data_root, "train").check()
    assert len(read) == 8


def test_a_damaged_cache_is_repaired(data_root, read):
    dataset = create_dataset("folder", data_root, "train")
    path = FindingsCache(dataset.reading_key()).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no data base")
    dataset.check()
    read.clear()
    dataset.check()
    assert read == []


def test_an_interrupted_check_goes_on(data_root, read, monkeypatch):
    monkeypatch.setattr(survey, "_KEEP", 2)
    original = FileDataset.examine

    def examine(self: FileDataset, index: int) -> Finding:
        if index == 5:
            raise KeyboardInterrupt
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(FileDataset, "examine", examine)
        with pytest.raises(KeyboardInterrupt):
            create_dataset("folder", data_root, "train").check()
    read.clear()
    create_dataset("folder", data_root, "train").check()
    assert read == [5, 6, 7]


def test_errors_hold_no_pixels(data_root):
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(data_root / "labels/train/view1.png")
    found = survey.findings_of(create_dataset("folder", data_root, "train"))
    assert isinstance(found[1], DataError)
    assert found[1].__traceback__ is found[1].__context__ is found[1].__cause__ is None


class Ending(FileDataset):
    """A data set whose eighth item ends the process that reads it, as the system does when memory is full."""

    name = "ending"

    def _open(self) -> None:
        inner = create_dataset("folder", self.root, self.split)
        self.items, self.classes, self.palette = inner.items, inner.classes, inner.palette

    def examine(self, index: int) -> Finding:
        if index == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().examine(index)


def test_a_process_that_is_ended_is_one_sentence(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data", train=20, val=1)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    with pytest.raises(
        DataError, match="ending train: a process that checks the data was ended from outside"
    ):
        Ending(root, "train").check()


def test_threads_where_processes_cannot_be_forked(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data", train=20, val=1)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    monkeypatch.setattr(workers, "make_loader", None)
    assert create_dataset("folder", root, "train").check().images == 20


def test_other_errors_name_the_item(data_root, monkeypatch):
    monkeypatch.setattr(FileDataset, "examine", lambda self, index: {}[index])
    with pytest.raises(RuntimeError, match="train view0 of folder"):
        create_dataset("folder", data_root, "train").check()


def test_names_that_are_no_text(data_root, tmp_path, capfd, read):
    for kind in ("images", "labels"):
        folder = os.fsencode(data_root / kind / "train")
        try:
            os.rename(folder + b"/view0.png", folder + b"/a\xff.png")
        except OSError:
            pytest.skip("this file system takes names in UTF-8 only")
    out = tmp_path / "page.html"
    for _ in range(2):
        assert main(["check", str(data_root), "--out", str(out)]) == 0
    assert len(read) == 11
    assert "a\\udcff" in out.read_text()


def test_notes_name_the_right_item_beside_a_broken_one(data_root, capsys):
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(data_root / "labels/train/view0.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    path = data_root / "labels/train/view2.png"
    Image.open(path).save(path, exif=exif)
    assert main(["check", str(data_root)]) == 1
    printed = capsys.readouterr().out
    assert "1 train label(s) carry an EXIF tag Orientation that their image does not have (view2)" in printed


def test_a_split_of_broken_items_has_no_other_problem(data_root, capsys):
    for path in (data_root / "labels/val").iterdir():
        Image.fromarray(np.full((40, 56), 77, np.uint8)).save(path)
    assert main(["check", str(data_root)]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("problem: ") == 3
    assert "is void" not in shown.out.partition("val labels")[2]
    assert "3 problem(s), named above" in shown.err


def test_many_problems_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("difnet.data.commands.check._SHOWN", 2)
    root = make_folder(tmp_path / "data")
    for number in range(5):
        Image.fromarray(np.full((40, 56), 9, np.uint8)).save(root / f"labels/train/view{number}.png")
    assert main(["check", str(root)]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("problem: ") == 3
    assert "problem: ... and 3 more" in shown.out
    assert "5 problem(s)" in shown.err


@pytest.mark.parametrize("command", ["check", "show"])
def test_pictures_are_not_written_among_the_data(data_root, command, capsys):
    label = data_root / "labels/train/view0.png"
    before = label.read_bytes()
    assert main([command, str(data_root), "--out", str(label)]) == 1
    assert f"--out {label} lies in the data {data_root}; name a file outside of it" in capsys.readouterr().err
    assert label.read_bytes() == before
    assert main([command, "--dataset", "camvid"]) == 1
    assert "--dataset camvid needs a folder: python -m difnet.data" in capsys.readouterr().err


def test_check_of_drawn_scenes(capsys):
    assert main(["check", "--dataset", "scenes", "--worst", "2"]) in (0, 1)
    assert capsys.readouterr().out.startswith("scenes, read as scenes")


def test_copies_of_a_cache_folder_do_not_mix(data_root, tmp_path, read):
    """A link to the same data is another root, and is read for itself."""
    create_dataset("folder", data_root, "train").check()
    read.clear()
    (tmp_path / "link").symlink_to(data_root)
    create_dataset("folder", tmp_path / "link", "train").check()
    assert len(read) == 8
    shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "difnet")
