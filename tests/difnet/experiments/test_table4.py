"""The table of times, from rows of the benchmark."""

import json

import pytest

from difnet import experiment as command
from difnet.experiments import timing


def row(network: str, part: str, backend: str | None, median: float, **changes) -> dict:
    return {
        **{"table": "networks", "arrangement": "plain", "mode": "inference", "status": "ok", "size": 505},
        **{"hardware": "A CPU", "threads": 2, "torch": "2.14", "commit": "abc1234", "date": "2026-11-26"},
        **{"network": network, "part": part, "backend": backend, "median": median},
        **{"parameters": 22_600_000, "flops": 200e9, "walk_flops": 10e9},
    } | changes


ROWS = [
    row("difnet18", "seed branch", None, 500.0),
    row("difnet18", "similarity branch", None, 400.0),
    row("difnet18", "diffusion", "native", 80.0),
    row("difnet18", "diffusion", "reference", 900.0),
    row("difnet18", "total", "native", 990.5),
    row("difnet18", "total", "reference", 1900.0),
    row("difnet18", "total", "native", 1.0, mode="training step"),
    row("difnet18", None, None, 1.0, table="arrangements"),
    row("difnet34", "total", "native", None, status="out of memory"),
    row("simdeeplab50", "total", None, 700.0, parameters=24_000_000, flops=150e9, walk_flops=0.0),
]


def test_the_table_has_the_times_of_the_preferred_backend(tmp_path, capsys):
    (tmp_path / "model.jsonl").write_text("".join(json.dumps(it) + "\n" for it in ROWS))
    assert command.main(["table4", "--report", "--out", str(tmp_path)]) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| ")][2:] == [
        "| difnet18 | 22.6 | 210 | 500 | 400 | 80 | 990.5 | native |",
        "| simdeeplab50 | 24.0 | 150 | - | - | - | 700 | - |",
    ]
    assert "A CPU, 2 threads, torch 2.14, commit abc1234, 2026-11-26." in "\n".join(lines)
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["rows"][0]["milliseconds"]["diffusion"] == 80.0
    assert "| difnet18 |" in capsys.readouterr().out
    assert command.main(["table4", "--dry-run", "--out", str(tmp_path)]) == 0
    assert "remove it to measure again" in capsys.readouterr().out


def test_a_measured_table_is_not_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "command", lambda out: pytest.fail("measured again"))
    (tmp_path / "model.jsonl").write_text(json.dumps(ROWS[4]) + "\n")
    assert command.main(["table4", "--out", str(tmp_path)]) == 0
    assert "| difnet18 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "words"), [(0, "| difnet18 |"), (3, "error: the benchmark failed with status 3")]
)
def test_the_benchmark_is_run_as_a_command(tmp_path, monkeypatch, capsys, status, words):
    script = tmp_path / "fake.py"
    script.write_text(
        "import importlib.util, pathlib, sys\n"
        "assert importlib.util.find_spec('difnet')\n"
        f"pathlib.Path(sys.argv[1]).write_text({json.dumps(ROWS[4]) + chr(10)!r})\n"
        f"sys.exit({status})\n"
    )
    out = tmp_path / "out"
    monkeypatch.setattr(
        timing, "command", lambda out: [timing.sys.executable, str(script), str(out / "model.jsonl")]
    )
    assert command.main(["table4", "--out", str(out)]) == (1 if status else 0)
    assert words in "".join(capsys.readouterr())
    assert (out / "model.jsonl").exists() == (status == 0)


def test_the_command_is_one_that_the_benchmark_takes(tmp_path):
    import bench_model  # from benchmarks/, which pytest adds to the path

    words = timing.command(tmp_path)
    assert words[1].endswith("benchmarks/bench_model.py")
    options = bench_model.parse(words[2:])
    assert (options.arrangements, options.modes) == ([], ["inference"])
    assert options.networks == ["difnet18", "difnet34", "difnet50", "simdeeplab50", "simdeeplab101"]
    assert options.out == tmp_path / "model.jsonl"


def test_an_installed_package_has_no_benchmarks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "_ROOT", tmp_path)
    assert command.main(["table4", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"table4 is measured by {tmp_path / 'benchmarks/bench_model.py'}, which does not exist" in error
    assert "run it in a clone" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "1"], "--seeds is not for table4, which trains nothing"),
        (["--", "--lr", "1"], "-- is not for table4"),
        (["--report", "--out", "nowhere"], "does not exist; run the experiment without --report first"),
    ],
)
def test_errors(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command.main(["table4", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_rows_of_something_else_are_refused(tmp_path, capsys):
    (tmp_path / "model.jsonl").write_text('{"table": "rw"}\n')
    assert command.main(["table4", "--report", "--out", str(tmp_path)]) == 1
    assert "model.jsonl holds no rows of the benchmark" in capsys.readouterr().err
