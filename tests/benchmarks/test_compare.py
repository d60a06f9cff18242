"""Comparison of providers: wrong results, failures, time limits, instruction sets."""

import io
import os
from contextlib import redirect_stdout
from functools import partial

import bench_rw
import pytest
import test_walks
import torch
from harness import providers as providers_module
from harness.cases import CASES, FORWARD, MODES, SWEEP, cases_of
from harness.compare import TimeLimit, Workload, compare, reason_to_skip, time_limit
from harness.providers import Provider, list_providers, make_call
from harness.rows import Rows, load
from harness.truth import check_accuracy, compute_truth
from reporting.report import group_rows, print_group, speedup

from difnet_kernels.backends import choose

CPU = torch.device("cpu")
TINY = CASES["tiny"][0]
QUICK = ["--seconds", "0.01", "--no-memory"]
QUICK += ["--without", "eager, compiled", "FlexAttention, compiled", "KeOps"]


def scaled(provider, x):
    """A result that is a thousandth too large."""
    return 1.001 * provider.run(x)


def by_name(name):
    return next(p for p in list_providers(CPU) if p.name == name)


def measure(tmp_path, mode, more):
    """Rows of blockwise, eager and `more` providers."""
    options = bench_rw.parse(QUICK)
    rows = Rows(tmp_path / "rows.jsonl", {"hardware": "here", "device": "cpu"})
    workload = Workload(TINY, mode, "float32", "highest", "mixed", torch.get_num_threads())
    compare(workload, [by_name("difnet blockwise"), by_name("eager"), *more], options, CPU, rows)
    return load([rows.path])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ours", [True, False])
def test_wrong_result_is_detected_and_gets_no_ratio(tmp_path, mode, ours):
    wrong = Provider("wrong", partial(scaled, by_name("eager")), ours)
    rows = measure(tmp_path, mode, [wrong])
    found = {row["provider"]: row for row in rows}
    assert found["difnet blockwise"]["within"]
    assert found["eager"]["within"]
    assert not found["wrong"]["within"]
    assert 0.9e-3 < found["wrong"]["error"] < 3e-3
    assert not found["wrong"]["default"]
    assert speedup(found["wrong"], rows) == ""
    without = [row for row in rows if row["provider"] != "wrong"]
    assert speedup(found["difnet blockwise"], rows) == speedup(found["difnet blockwise"], without)


def test_wrong_gradient_is_detected():
    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, grad):
            return 0.99 * grad

    eager = by_name("eager")
    wrong = Provider("wrong", lambda x: WrongGradient.apply(eager.run(x)))
    inputs = TINY.make_inputs("mixed", torch.float32, CPU)
    truth = compute_truth(TINY, inputs, "forward+backward")
    assert check_accuracy(make_call(eager, inputs, "forward+backward")(), truth).within
    accuracy = check_accuracy(make_call(wrong, inputs, "forward+backward")(), truth)
    assert not accuracy.within
    assert accuracy.error <= accuracy.allowed, "the output is right"
    assert accuracy.gradient_error > accuracy.gradient_allowed
    assert accuracy.gradient in ("features[0]", "features[1]", "seed", "mu", "beta")


def test_error_over_the_budget_is_shown_in_red(tmp_path, monkeypatch):
    pytest.importorskip("rich")
    rows = measure(tmp_path, "forward", [Provider("wrong", partial(scaled, by_name("eager")))])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = io.StringIO()
    with redirect_stdout(text):
        print_group(next(iter(group_rows(rows).values())))
    line = next(line for line in text.getvalue().splitlines() if "wrong" in line)
    assert "\x1b[1;31m1.0e-03" in line or "\x1b[31m1.0e-03" in line


def test_provider_that_cannot_run_is_listed_with_its_reason(tmp_path):
    def fails(x):
        raise RuntimeError("no such instruction")

    def runs_out_of_memory(x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    more = [
        Provider("fails", fails),
        Provider("large", runs_out_of_memory),
        Provider("absent", fails, False, "not here"),
    ]
    found = {row["provider"]: row["status"] for row in measure(tmp_path, "forward", more)}
    assert found["fails"] == "cannot run: no such instruction"
    assert found["large"] == "out of memory"
    assert found["absent"] == "not here"
    assert found["eager"] == "ok"


def test_sweep_skips_sizes_that_need_too_much_time_or_memory():
    case = TINY._replace(nodes=4000, batch=1, walks=1)
    workload = Workload(case, "forward", "float32", "highest", "mixed", torch.get_num_threads())
    row = {"provider": "eager", "case": "tiny", "mode": "forward", "dtype": "float32", "precision": "highest"}
    row |= {"threads": torch.get_num_threads()}
    row |= {"batch": 1, "nodes": 1000, "walks": 1, "status": "ok", "median": 100.0, "memory": 10.0}
    eager = by_name("eager")
    ten, one = TimeLimit(10.0, "--patience 10"), TimeLimit(1.0, "--patience 1")
    assert reason_to_skip(eager, workload, ten, [row], CPU) is None
    slow = reason_to_skip(eager, workload, one, [row], CPU)
    assert slow == "too slow for --patience 1: about 2 s a call, from N = 1,000"
    huge = row | {"memory": 2.0**40}
    assert reason_to_skip(eager, workload, ten, [huge], CPU).startswith("out of memory: about")
    ended = row | {"status": "out of memory"}
    assert reason_to_skip(eager, workload, ten, [ended], CPU) == "out of memory, from N = 1,000"
    assert reason_to_skip(eager, workload._replace(dtype="bfloat16"), ten, [ended], CPU) is None


def test_default_backend_may_use_all_the_time_that_is_left():
    options = bench_rw.parse(["--cases", "full-resolution", "--minutes", "2"])
    default = next(p for p in list_providers(CPU) if p.default)
    assert 100 < time_limit(default, options).seconds <= 120
    assert time_limit(default, options).option == "--minutes 2"
    assert time_limit(by_name("eager"), options) == (12.0, "--patience 12")
    options.deadline = 0.0
    assert time_limit(default, options) == (12.0, "--patience 12")


def test_exactly_one_provider_is_the_default():
    defaults = [p.name for p in list_providers(CPU, ["all"]) if p.default]
    assert defaults == [f"difnet {choose(None, CPU)}"]


def test_pytest_benchmark_fails_if_one_of_our_backends_fails():
    ours, rival = by_name("difnet blockwise"), by_name("eager")
    with pytest.raises(pytest.fail.Exception, match="cannot run: illegal"):
        test_walks.stop(ours, "cannot run: illegal instruction")
    for provider, status in ((rival, "cannot run: that"), (ours, "too slow for X: about 11 s a call")):
        with pytest.raises(pytest.skip.Exception, match=status):
            test_walks.stop(provider, status)
    with pytest.raises(pytest.skip.Exception, match="not built"):
        test_walks.stop(ours._replace(unavailable="not built"), "not built")


def test_sampled_rows_equal_those_of_the_whole_output():
    case = TINY._replace(walks=1, nodes=300)
    inputs = case.make_inputs("mixed", torch.float32, CPU)
    truth = compute_truth(case, inputs, "forward")
    assert truth.rows is not None
    eager = by_name("eager")
    assert check_accuracy(make_call(eager, inputs, "forward")(), truth).within
    whole = make_call(eager, inputs.to(torch.float64), "forward")()["output"]
    torch.testing.assert_close(truth.exact["output"], whole[:, truth.rows])


def test_every_instruction_set_can_be_a_provider(monkeypatch):
    monkeypatch.setattr(providers_module, "instruction_sets", lambda: ("new", "old", "older"))
    # The best instruction set is the one that the provider without a name of a set uses.
    assert [p.isa for p in list_providers(CPU, ["all"]) if p.isa] == ["old", "older"]
    assert not any(p.isa for p in list_providers(CPU))
    assert [p.isa for p in list_providers(CPU, ["old"]) if p.isa] == ["old"]


def test_instruction_set_is_set_only_during_the_call(monkeypatch):
    monkeypatch.delenv("DIFNET_CPU_ISA", raising=False)
    seen = []

    def run(x):
        seen.append(os.environ.get("DIFNET_CPU_ISA"))
        return x.seed

    inputs = TINY.make_inputs("flat", torch.float32, CPU)
    make_call(Provider("p", run, True, isa="old"), inputs, "forward")()
    assert seen == ["old"]
    assert "DIFNET_CPU_ISA" not in os.environ


def test_unknown_provider_to_leave_out_is_an_error():
    with pytest.raises(SystemExit, match=r"--without SPDA: no such provider; there are .*'eager'"):
        bench_rw.main([*QUICK, "SPDA", "--cases", "tiny"])


def test_sweep_is_a_name_of_cases_with_growing_n():
    options = bench_rw.parse(["--cases", SWEEP])
    workloads = bench_rw.list_workloads(options, CPU)
    nodes = [w.case.nodes for w in workloads if w.mode == FORWARD]
    assert nodes == sorted(set(nodes))
    assert len(nodes) > 2
    assert {w.case for w in workloads} == set(cases_of(SWEEP, CPU))
