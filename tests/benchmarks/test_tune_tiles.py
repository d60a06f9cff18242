"""Which tiles tools/tune_tiles.py keeps and writes; `make rehearse` runs all of it, in the interpreter."""

import importlib.util
import shutil
import sys

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import tune_tiles

from difnet_kernels import cascaded_random_walk
from difnet_kernels.triton import layout, tiles
from difnet_kernels.triton.tiles import Tile

KEYS = list(tiles.entries("sm_90"))[:2]
PRESENT, WRONG, RIGHT = (Tile(64, 64, 4, stages, 1) for stages in (1, 2, 3))


@pytest.fixture
def table(tmp_path, monkeypatch):
    copy = tmp_path / "tiles.py"
    shutil.copy(tiles.__file__, copy)
    monkeypatch.setattr(tiles, "__file__", str(copy))
    return copy


def test_write_replaces_rows(table):
    before = table.read_text()
    tune_tiles.write(dict.fromkeys(KEYS, RIGHT), "a device, a day")
    changed = set(table.read_text().splitlines()) - set(before.splitlines())
    assert len(changed) == 2
    assert all(line.endswith("Tile(64, 64, 4, 3, 1),  # a device, a day") for line in changed)
    assert list(table.parent.iterdir()) == [table]


def test_write_adds_the_first_row_of_an_aliased_architecture(table):
    before = table.read_text().splitlines()
    alias = ("walk_forward", "16", 64, 32, "sm_89")
    tune_tiles.write({alias: RIGHT}, "a device, a day")
    after = table.read_text().splitlines()
    (row,) = (n for n, line in enumerate(before) if '("walk_forward", "16", 64, 32, "sm_86")' in line)
    added = '    ("walk_forward", "16", 64, 32, "sm_89"): Tile(64, 64, 4, 3, 1),  # a device, a day'
    assert after == [*before[: row + 1], added, *before[row + 1 :]]
    tune_tiles.write({alias: WRONG}, "another day")
    assert table.read_text().count('64, 32, "sm_89")') == 1


def test_write_changes_nothing_if_a_row_is_missing(table):
    before = table.read_text()
    with pytest.raises(SystemExit, match="found 0"):
        tune_tiles.write({KEYS[0]: RIGHT, ("walk_forward", "16", 64, 32, "sm_75"): RIGHT}, "a note")
    assert table.read_text() == before
    assert list(table.parent.iterdir()) == [table]


def test_unknown_architecture_is_refused(monkeypatch):
    monkeypatch.setattr(layout, "architecture_of", lambda _: "sm_120")
    monkeypatch.setattr(sys, "argv", ["tune_tiles.py", "--dry-run"])
    with pytest.raises(SystemExit, match="sm_120 has no rows"):
        tune_tiles.main()


@pytest.mark.parametrize("wrong", ["output", "gradient"])
def test_fast_tile_with_wrong_results_is_dropped(monkeypatch, capsys, wrong):
    """The walk is the reference's, with an output or a gradient that one tile makes wrong."""

    def walk(*arguments, backend, **options):
        y = cascaded_random_walk(*arguments, backend="reference", **options)
        if tiles.choose("walk_forward", "16", 64, 32, "sm_90") != WRONG:
            return y
        if wrong == "output":
            return 1.5 * y
        y.register_hook(lambda grad: 0 * grad)
        return y

    monkeypatch.setattr(tune_tiles, "measure_errors", lambda *a: measure(*a, cascade=walk))
    measure = sys.modules["difnet_kernels.testing"].measure_errors
    monkeypatch.setattr(layout, "architecture_of", lambda _: "sm_90")
    monkeypatch.setattr(tune_tiles, "shortlist", lambda *_: [PRESENT, WRONG, RIGHT])
    times = {PRESENT: 3.0, WRONG: 1.0, RIGHT: 2.0}
    monkeypatch.setattr(tune_tiles, "time_tile", lambda kernel, tile, *_: times[tile])
    monkeypatch.setattr(
        sys, "argv", ["tune_tiles.py", "--dtypes", "16", "--kernels", "walk_forward",
                      "--batch", "1", "--nodes", "40", "--dry-run"],
    )  # fmt: skip
    assert tune_tiles.main() == 0
    text = capsys.readouterr().out
    assert f"{WRONG} is dropped" in text
    assert f"{tuple(PRESENT)} -> {tuple(RIGHT)}" in text


def test_no_candidate_is_begun_after_its_time(monkeypatch, capsys):
    monkeypatch.setattr(layout, "architecture_of", lambda _: "sm_90")
    monkeypatch.setattr(tune_tiles, "time_tile", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(
        sys, "argv", ["tune_tiles.py", "--dtypes", "16", "--batch", "1", "--nodes", "40", "--minutes", "0"]
    )
    assert tune_tiles.main() == 0
    assert "walk_forward 16, walk_backward 16" in capsys.readouterr().out


def test_interrupted_run_keeps_what_it_found(table, monkeypatch):
    def time_tile(kernel, tile, *_):
        if kernel == "walk_backward":
            raise KeyboardInterrupt
        return {PRESENT: 3.0, RIGHT: 2.0}[tile]

    monkeypatch.setattr(layout, "architecture_of", lambda _: "sm_90")
    monkeypatch.setattr(tune_tiles, "shortlist", lambda *_: [PRESENT, RIGHT])
    monkeypatch.setattr(tune_tiles, "errors_over_budget", lambda *_: [])
    monkeypatch.setattr(tune_tiles, "time_tile", time_tile)
    monkeypatch.setattr(sys, "argv", ["tune_tiles.py", "--dtypes", "16", "--batch", "1", "--nodes", "40"])
    before = table.read_text()
    with pytest.raises(KeyboardInterrupt):
        tune_tiles.main()
    (changed,) = set(table.read_text().splitlines()) - set(before.splitlines())
    assert '("walk_forward", "16", 64, 32, "sm_90"): Tile(64, 64, 4, 3, 1),  # interpreter, ' in changed
