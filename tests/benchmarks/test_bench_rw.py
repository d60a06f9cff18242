import io
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import bench_rw
import pytest
import test_walks
import torch
from harness.cases import CASES
from harness.compare import Contest, Patience, hold, hopeless, patience
from harness.providers import Provider, providers, step
from harness.rows import DIRTY, Rows, environment, load
from harness.truth import find_truth, judge
from machine import memory
from machine import timing as measure
from machine.floor import COMPILERS, Counts, counts, cpu_peak, fastest, floor_milliseconds
from machine.memory import peak_mebibytes
from machine.timing import interleaved
from reporting.report import groups, incomplete, print_group, speedup

from difnet_kernels.backends import choose

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TINY = CASES["tiny"][0]
QUICK = [
    "--seconds",
    "0.01",
    "--no-memory",
    "--without",
    "eager, compiled",
    "FlexAttention, compiled",
    "KeOps",
]


def almost(provider, x):
    """The right result, a thousandth too large."""
    return 1.001 * provider.run(x)


def by_name(name):
    return next(p for p in providers(CPU) if p.name == name)


def measured(tmp_path, mode, more):
    options = bench_rw.parse(QUICK)
    rows = Rows(tmp_path / "rows.jsonl", {"hardware": "here", "device": "cpu"})
    contest = Contest(TINY, mode, "float32", "highest", "mixed")
    hold(contest, [by_name("difnet blockwise"), by_name("eager"), *more], options, CPU, rows)
    return load([rows.path])


@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
@pytest.mark.parametrize("ours", [True, False])
def test_a_wrong_provider_is_caught(tmp_path, mode, ours):
    wrong = Provider("wrong", partial(almost, by_name("eager")), ours)
    rows = measured(tmp_path, mode, [wrong])
    found = {row["provider"]: row for row in rows}
    assert found["difnet blockwise"]["within"]
    assert found["eager"]["within"]
    assert not found["wrong"]["within"]
    assert 0.9e-3 < found["wrong"]["error"] < 3e-3
    assert not found["wrong"]["default"]
    assert speedup(found["wrong"], rows) == "", "no speed-up may be claimed for a wrong result"
    without = [row for row in rows if row["provider"] != "wrong"]
    assert speedup(found["difnet blockwise"], rows) == speedup(found["difnet blockwise"], without)


def test_a_wrong_gradient_is_caught():
    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, grad):
            return 0.99 * grad

    eager = by_name("eager")
    wrong = Provider("wrong", lambda x: Detached.apply(eager.run(x)))
    inputs = TINY.inputs("mixed", torch.float32, CPU)
    truth = find_truth(TINY, inputs, "forward+backward")
    assert judge(step(eager, inputs, "forward+backward")(), truth).within
    verdict = judge(step(wrong, inputs, "forward+backward")(), truth)
    assert not verdict.within
    assert verdict.error <= verdict.allowed, "the output is right"
    assert verdict.gradient_error > verdict.gradient_allowed
    assert verdict.gradient in ("features[0]", "features[1]", "seed", "mu", "beta")


def test_the_error_is_shown_in_red(tmp_path, monkeypatch):
    pytest.importorskip("rich")
    rows = measured(tmp_path, "forward", [Provider("wrong", partial(almost, by_name("eager")))])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = io.StringIO()
    with redirect_stdout(text):
        print_group(next(iter(groups(rows).values())))
    line = next(line for line in text.getvalue().splitlines() if "wrong" in line)
    assert "\x1b[1;31m1.0e-03" in line or "\x1b[31m1.0e-03" in line


def test_one_that_cannot_run_is_listed_with_its_reason(tmp_path):
    def fails(x):
        raise RuntimeError("no such instruction")

    def starves(x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    more = [
        Provider("fails", fails),
        Provider("starves", starves),
        Provider("absent", fails, False, "not here"),
    ]
    found = {row["provider"]: row["status"] for row in measured(tmp_path, "forward", more)}
    assert found["fails"] == "cannot run: no such instruction"
    assert found["starves"] == "out of memory"
    assert found["absent"] == "not here"
    assert found["eager"] == "ok"


def test_a_series_ends_where_time_or_memory_does():
    contest = Contest(TINY._replace(nodes=4000, batch=1, walks=1), "forward", "float32", "highest", "mixed")
    row = {"provider": "eager", "case": "tiny", "mode": "forward", "dtype": "float32", "precision": "highest"}
    row |= {"batch": 1, "nodes": 1000, "walks": 1, "status": "ok", "median": 100.0, "memory": 10.0}
    eager = by_name("eager")
    ten, one = Patience(10.0, "--patience 10"), Patience(1.0, "--patience 1")
    assert hopeless(eager, contest, ten, [row], CPU) is None
    slow = hopeless(eager, contest, one, [row], CPU)
    assert slow == "too slow for --patience 1: about 2 s a call, from N = 1,000"
    huge = row | {"memory": 2.0**40}
    assert hopeless(eager, contest, ten, [huge], CPU).startswith("out of memory: about")
    ended = row | {"status": "out of memory"}
    assert hopeless(eager, contest, ten, [ended], CPU) == "out of memory, from N = 1,000"
    assert hopeless(eager, contest._replace(dtype="bfloat16"), ten, [ended], CPU) is None


def test_our_default_backend_may_take_the_time_that_is_left():
    options = bench_rw.parse(["--cases", "full-resolution", "--minutes", "2"])
    ours = next(p for p in providers(CPU) if p.default)
    assert 100 < patience(ours, options).seconds <= 120
    assert patience(ours, options).option == "--minutes 2"
    assert patience(by_name("eager"), options) == (12.0, "--patience 12")
    options.deadline = 0.0
    assert patience(ours, options) == (12.0, "--patience 12")


def test_one_provider_is_the_default():
    assert [p.name for p in providers(CPU, ["all"]) if p.default] == [f"difnet {choose(None, CPU)}"]


def test_one_of_ours_must_not_fail():
    ours, rival = by_name("difnet blockwise"), by_name("eager")
    with pytest.raises(pytest.fail.Exception, match="cannot run: illegal"):
        test_walks.end(ours, "cannot run: illegal instruction")
    for provider, status in ((rival, "cannot run: that"), (ours, "too slow for X: about 11 s a call")):
        with pytest.raises(pytest.skip.Exception, match=status):
            test_walks.end(provider, status)
    with pytest.raises(pytest.skip.Exception, match="not built"):
        test_walks.end(ours._replace(unavailable="not built"), "not built")


def test_sampled_rows_are_those_of_the_whole():
    case = TINY._replace(walks=1, nodes=300)
    inputs = case.inputs("mixed", torch.float32, CPU)
    truth = find_truth(case, inputs, "forward")
    assert truth.rows is not None
    eager = by_name("eager")
    assert judge(step(eager, inputs, "forward")(), truth).within
    whole = step(eager, inputs.to(torch.float64), "forward")()["output"]
    torch.testing.assert_close(truth.exact["output"], whole[:, truth.rows])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_valid_rows(tmp_path, stop):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "benchmarks/bench_rw.py", *QUICK, "--out", str(out)]
    command += ["--cases", "tiny", "native-walk", "--seconds", "600", "--dtypes", "float32"]
    command += ["--precisions", "highest", "--modes", "forward"]
    # Shells let what they run in the background ignore an interrupt, and children inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=heed, **quiet)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (out.exists() and load([out])):
            time.sleep(0.1)
        process.send_signal(stop)
        assert process.wait(60) == (0 if stop == signal.SIGINT else -stop)
    finally:
        process.kill()
    with out.open("a", encoding="utf-8") as file:
        file.write('{"cut sho')
    rows = load([out])
    assert rows
    names = {"provider", "status", "hardware", "commit", "date", "threads", "driver", "command"}
    assert all(names <= row.keys() for row in rows)
    assert rows[0]["command"].startswith("python benchmarks/bench_rw.py --seconds 0.01")
    assert incomplete(rows).startswith("Incomplete, the run was ended after 1 of ")


def test_every_instruction_set_is_a_provider(monkeypatch):
    monkeypatch.setattr(sys.modules["providers"], "instruction_sets", lambda: ("new", "old", "older"))
    assert [p.isa for p in providers(CPU, ["all"]) if p.isa] == ["old", "older"]  # the best is the default
    assert not any(p.isa for p in providers(CPU))
    assert [p.isa for p in providers(CPU, ["old"]) if p.isa] == ["old"]


def test_the_instruction_set_is_forced_for_the_call_alone(monkeypatch):
    import os

    monkeypatch.delenv("DIFNET_CPU_ISA", raising=False)
    seen = []

    def run(x):
        seen.append(os.environ.get("DIFNET_CPU_ISA"))
        return x.seed

    inputs = TINY.inputs("flat", torch.float32, CPU)
    step(Provider("p", run, True, isa="old"), inputs, "forward")()
    assert seen == ["old"]
    assert "DIFNET_CPU_ISA" not in os.environ


def test_calls_are_spread_over_the_same_time(monkeypatch):
    order, lasts = [], {"quick": 10.0, "slow": 100.0, "long": 3500.0}  # ms
    monkeypatch.setattr(measure, "once", lambda call, device: call())
    calls = {name: lambda name=name: order.append(name) or lasts[name] for name in lasts}
    times = interleaved(calls, 3 * 1.0, CPU)
    assert {name: found.repetitions for name, found in times.items()} == {"quick": 30, "slow": 10, "long": 1}
    assert order[:3] == ["quick", "slow", "long"]
    between = "".join(name[0] for name in order[3:]).split("s")
    assert all(2 <= len(quick) <= 4 for quick in between[1:-1]), between


def test_the_two_that_make_the_ratio_are_repeated_more_often(monkeypatch):
    lasts = {"ours": 3500.0, "rival": 1000.0, "slower": 2000.0, "other": 500.0}  # ms
    monkeypatch.setattr(measure, "once", lambda call, device: call())
    calls = {name: lambda ms=ms: ms for name, ms in lasts.items()}
    times = interleaved(calls, 0.0, CPU, None, "ours", ["slower", "rival"])
    found = {name: timing.repetitions for name, timing in times.items()}
    assert found == {"ours": 3, "rival": 5, "slower": 3, "other": 3}
    alone = interleaved(calls, 0.0, CPU, None, "ours", [])
    assert alone["ours"].repetitions == 1


def test_a_provider_that_is_to_be_left_out_must_exist():
    with pytest.raises(SystemExit, match=r"--without SPDA: no such provider; there are .*'eager'"):
        bench_rw.main([*QUICK, "SPDA", "--cases", "tiny"])


def test_caches_hold_other_data_before_each_call():
    measure.other_data(CPU).fill_(1)
    seen = []
    interleaved({"call": lambda: seen.append(int(measure.other_data(CPU).sum()))}, 0.0, CPU)
    assert seen == [0, 0, 0]


def test_a_call_that_fails_later_ends_alone():
    calls = {"sound": lambda: None, "failing": iter([None]).__next__}
    failures = {}
    times = interleaved(calls, 0.0, CPU, failures)
    assert set(times) == {"sound"}
    assert isinstance(failures["failing"], StopIteration)


def test_rows_are_kept_until_there_are_others(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"old": 1}\n')
    rows = Rows(path, {})
    assert load([path]) == [{"old": 1}]
    rows.add(new=2)
    rows.add(new=3)
    assert [row | {"elapsed": 0} for row in load([path])] == [
        {"new": 2, "elapsed": 0},
        {"new": 3, "elapsed": 0},
    ]
    path.write_text('{"old": 1}\n{"cut\n{"new": 2}\n')
    with pytest.raises(ValueError, match="line 2: not a row"):
        load([path])


def test_operations_are_counted_by_the_formulas():
    case = TINY._replace(walks=3, batch=2, nodes=10, classes=21)
    pairs = 3 * 2 * 10 * 10
    forward = counts(case, "forward", torch.float32, CPU)
    assert forward.flops == 2 * (64 / 2 + 21 + 1) * pairs
    assert forward.exponentials == pairs / 2
    both = counts(case, "forward+backward", torch.float32, CPU)
    assert both.flops - forward.flops == 2 * (3 * 64 / 2 + 2 * 21 + 2) * pairs
    assert both.exponentials == pairs


@pytest.fixture
def peak_anew():
    cpu_peak.cache_clear()
    yield cpu_peak
    cpu_peak.cache_clear()


def test_the_peak_is_measured(monkeypatch, peak_anew):
    compiler = next((c for c in COMPILERS if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C++ compiler was found")
    monkeypatch.setenv("CXX", f"env {compiler}")  # a command of two words, like "ccache g++"
    found = peak_anew(1)
    assert isinstance(found, dict), found
    assert found.keys() >= {"fma", "exp"}
    assert all(rate > 1e6 for rate in found.values())


def test_the_reason_is_given_where_no_peak_can_be_measured(monkeypatch, peak_anew):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    assert "nonexistent" in peak_anew(1)
    peak_anew.cache_clear()
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert peak_anew(1) == "no C++ compiler was found"


def test_products_in_tiles_run_beside_the_exponentials():
    found = {"fma": 1e9, "exp": 1e8, "dot_bf16": 2e9, "tiles_bf16": 16e9}
    work = Counts(flops=16e9, exponentials=1e8, bytes=0)

    def milliseconds(dtype, precision="highest", without=()):
        rates = fastest({n: r for n, r in found.items() if n not in without}, dtype, precision)
        return floor_milliseconds(work, rates)

    assert milliseconds(torch.float32) == pytest.approx(17e3)
    assert milliseconds(torch.float16) == pytest.approx(17e3)
    assert milliseconds(torch.float32, "high") == pytest.approx(3e3)
    assert milliseconds(torch.float32, "medium") == milliseconds(torch.bfloat16) == pytest.approx(1e3)
    assert milliseconds(torch.bfloat16, without=["tiles_bf16"]) == pytest.approx(9e3)
    assert milliseconds(torch.float32, "high", without=["tiles_bf16"]) == pytest.approx(17e3)


def allocate(mebibytes):
    def call():
        torch.ones(mebibytes * 2**18)

    return (lambda: None), call


def test_peak_memory_is_that_of_the_call():
    peak = peak_mebibytes(allocate, 100, device="cpu")
    assert peak.memory == pytest.approx(100, abs=10)
    assert peak.memory_by == (memory.RESIDENT if memory.PROC.exists() else memory.LEAST)


def allocate_without_proc(mebibytes):
    memory.PROC = Path("/nonexistent")  # of the process made for the call
    return allocate(mebibytes)


def test_peak_memory_without_proc_is_the_least_that_the_call_needs():
    peak = peak_mebibytes(allocate_without_proc, 100, device="cpu")
    assert peak.memory == pytest.approx(100, abs=10)
    assert peak.memory_by == memory.LEAST


def test_memory_of_a_call_that_fails_is_unknown():
    assert peak_mebibytes(allocate, "not a number", device="cpu") == (None, None)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_tree_with_changes_is_marked_and_results_are_none(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    code, results = tmp_path / "code.py", tmp_path / "benchmarks/results/rows.jsonl"
    results.parent.mkdir(parents=True)
    code.write_text("1")
    results.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr("rows.ROOT", tmp_path)
    results.write_text("2")
    assert not environment(CPU)["commit"].endswith(DIRTY)
    code.write_text("2")
    assert environment(CPU)["commit"].endswith(DIRTY)


def test_the_driver_is_noted_where_it_is_known(monkeypatch):
    printed = {"nvidia-smi": "570.1\n570.1"}
    monkeypatch.setattr("rows._output", lambda *command: printed.get(command[0], ""))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    cuda = torch.device("cuda")
    assert environment(cuda)["driver"] == "570.1"
    printed.clear()
    assert environment(cuda)["driver"] is None
    assert environment(CPU)["driver"] is None
