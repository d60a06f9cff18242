"""Measurements of the machine: interleaved times, peak memory, rates of arithmetic, the floor."""

import shutil
from pathlib import Path

import pytest
import torch
from harness.cases import CASES
from harness.floor import Work, count_work, floor_milliseconds
from machine import memory, timing
from machine.memory import peak_in_new_process
from machine.rates import COMPILERS, fastest_rates, measure_cpu_peaks
from machine.timing import time_interleaved

CPU = torch.device("cpu")


def test_repetitions_of_calls_are_interleaved(monkeypatch):
    order, durations = [], {"quick": 10.0, "slow": 100.0, "long": 3500.0}  # ms
    monkeypatch.setattr(timing, "time_once", lambda call, device: call())
    calls = {name: lambda name=name: order.append(name) or durations[name] for name in durations}
    times = time_interleaved(calls, 3 * 1.0, CPU)
    assert {name: found.repetitions for name, found in times.items()} == {"quick": 30, "slow": 10, "long": 1}
    assert order[:3] == ["quick", "slow", "long"]
    between = "".join(name[0] for name in order[3:]).split("s")
    assert all(2 <= len(quick) <= 4 for quick in between[1:-1]), between


def test_the_two_calls_of_the_ratio_are_repeated_more_often(monkeypatch):
    durations = {"ours": 3500.0, "rival": 1000.0, "slower": 2000.0, "other": 500.0}  # ms
    monkeypatch.setattr(timing, "time_once", lambda call, device: call())
    calls = {name: lambda ms=ms: ms for name, ms in durations.items()}
    times = time_interleaved(calls, 0.0, CPU, None, "ours", ["slower", "rival"])
    found = {name: time.repetitions for name, time in times.items()}
    assert found == {"ours": 3, "rival": 5, "slower": 3, "other": 3}
    alone = time_interleaved(calls, 0.0, CPU, None, "ours", [])
    assert alone["ours"].repetitions == 1


def test_caches_are_overwritten_before_each_call():
    timing.eviction_buffer(CPU).fill_(1)
    seen = []
    time_interleaved({"call": lambda: seen.append(int(timing.eviction_buffer(CPU).sum()))}, 0.0, CPU)
    assert seen == [0, 0, 0]


def test_call_that_fails_in_a_repetition_does_not_stop_the_others():
    calls = {"sound": lambda: None, "failing": iter([None]).__next__}
    failures = {}
    times = time_interleaved(calls, 0.0, CPU, failures)
    assert set(times) == {"sound"}
    assert isinstance(failures["failing"], StopIteration)


def test_work_follows_the_formulas():
    case = CASES["tiny"][0]._replace(walks=3, batch=2, nodes=10, classes=21)
    pairs = 3 * 2 * 10 * 10
    forward = count_work(case, "forward", torch.float32, CPU)
    assert forward.flops == 2 * (64 / 2 + 21 + 1) * pairs
    assert forward.exponentials == pairs / 2
    both = count_work(case, "forward+backward", torch.float32, CPU)
    assert both.flops - forward.flops == 2 * (3 * 64 / 2 + 2 * 21 + 2) * pairs
    assert both.exponentials == pairs


@pytest.fixture
def uncached_peaks():
    measure_cpu_peaks.cache_clear()
    yield measure_cpu_peaks
    measure_cpu_peaks.cache_clear()


def test_peaks_of_the_cpu_are_measured(monkeypatch, uncached_peaks):
    compiler = next((c for c in COMPILERS if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C++ compiler was found")
    monkeypatch.setenv("CXX", f"env {compiler}")  # a command of two words, like "ccache g++"
    found = uncached_peaks(1)
    assert isinstance(found, dict), found
    assert found.keys() >= {"fma", "exp"}
    assert all(rate > 1e6 for rate in found.values())


def test_missing_compiler_is_given_as_the_reason(monkeypatch, uncached_peaks):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    assert "nonexistent" in uncached_peaks(1)
    uncached_peaks.cache_clear()
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert uncached_peaks(1) == "no C++ compiler was found"


def test_products_in_tiles_overlap_with_exponentials():
    peaks = {"fma": 1e9, "exp": 1e8, "dot_bf16": 2e9, "tiles_bf16": 16e9}
    work = Work(flops=16e9, exponentials=1e8, bytes=0)

    def milliseconds(dtype, precision="highest", without=()):
        rates = fastest_rates({n: r for n, r in peaks.items() if n not in without}, dtype, precision)
        return floor_milliseconds(work, rates)

    assert milliseconds(torch.float32) == pytest.approx(17e3)
    assert milliseconds(torch.float16) == pytest.approx(17e3)
    assert milliseconds(torch.float32, "high") == pytest.approx(3e3)
    assert milliseconds(torch.float32, "medium") == milliseconds(torch.bfloat16) == pytest.approx(1e3)
    assert milliseconds(torch.bfloat16, without=["tiles_bf16"]) == pytest.approx(9e3)
    assert milliseconds(torch.float32, "high", without=["tiles_bf16"]) == pytest.approx(17e3)


def allocate(mebibytes):
    """A warm-up that does nothing, and a call that allocates memory."""

    def call():
        torch.ones(mebibytes * 2**18)

    return (lambda: None), call


def test_peak_memory_is_that_of_the_call():
    peak = peak_in_new_process(allocate, 100, device="cpu")
    assert peak.memory == pytest.approx(100, abs=10)
    assert peak.memory_by == (memory.RESIDENT if memory.PROC.exists() else memory.LOWER_BOUND)


def allocate_without_proc(mebibytes):
    memory.PROC = Path("/nonexistent")  # in the process made for the call only
    return allocate(mebibytes)


def test_peak_memory_without_proc_is_a_lower_bound():
    peak = peak_in_new_process(allocate_without_proc, 100, device="cpu")
    assert peak.memory == pytest.approx(100, abs=10)
    assert peak.memory_by == memory.LOWER_BOUND


def test_peak_memory_of_a_failing_call_is_unknown():
    assert peak_in_new_process(allocate, "not a number", device="cpu") == (None, None)
