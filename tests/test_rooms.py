"""Folders and files are small enough to read: ten code files a folder, 300 lines a file."""

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("difnet_kernels", "csrc", "difnet", "benchmarks", "tools")
SUFFIXES = {".py", ".h", ".cpp", ".cu"}
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*")) if path.suffix in SUFFIXES]


def test_no_folder_holds_more_than_ten_code_files():
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES)
    assert len(counts) > 10
    assert {folder: count for folder, count in counts.items() if count > 10} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_has_more_than_300_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_nothing_changes_the_import_path():
    searched = [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]
    changing = ("sys.path" + ".insert", "sys.path" + ".append", "sys.path" + " =", "sys.path" + "[")
    for path in searched:
        text = path.read_text(encoding="utf-8")
        assert not any(change in text for change in changing), path
