"""Compares all providers on one workload: first their errors, then times in turns, then memory.

Every provider gets one row.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from machine.memory import available_mebibytes, peak_in_new_process
from machine.rates import measure_rates
from machine.timing import LONG_CALL, Timing, capture_graph, summarize, time_interleaved, time_once

from difnet_kernels.testing import Inputs
from harness.cases import Case
from harness.floor import count_work, floor_milliseconds
from harness.providers import Provider, make_call, reset_compiler
from harness.rows import Row, Rows
from harness.truth import Accuracy, Results, Truth, check_accuracy, compute_truth

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPILE_SECONDS = 20.0
"""Time for compilation that a first call may take in addition to --patience."""
ESTIMATE_NODES = 1024
"""Nodes of the call from which the time of a larger one is estimated."""
MEMORY_WARM_UP_NODES = 64
"""Nodes of the call that precedes a measurement of memory."""


class Workload(NamedTuple):
    """What all providers compute in one comparison."""

    case: Case
    mode: str
    dtype: str
    precision: str
    sharpness: str
    threads: int

    def make_call(self, provider: Provider, device: torch.device) -> Callable[[], Results]:
        """The provider's call on new inputs of this workload."""
        inputs = self.case.make_inputs(self.sharpness, DTYPES[self.dtype], device)
        return make_call(provider, inputs, self.mode)

    def extends(self, row: Row) -> bool:
        """Whether a row was measured on the same workload with fewer nodes."""
        same = all(row[name] == getattr(self, name) for name in ("mode", "dtype", "precision", "threads"))
        return same and row["case"] == self.case.name and row["nodes"] < self.case.nodes

    def reduced(self, nodes: int = ESTIMATE_NODES) -> "Workload":
        """The same workload with one image, one walk and at most `nodes` nodes."""
        case = self.case._replace(batch=1, nodes=min(self.case.nodes, nodes), walks=1)
        return self._replace(case=case)


class Outcome(NamedTuple):
    """The result of a provider's first call.

    Attributes:
        status: "ok", or the reason why the provider was not measured.
        accuracy: its errors; None if they are unknown.
        call: the call, for repetitions; None if it failed or was not made.
        seconds: time of the first call.
        long: whether the call takes too long to be repeated.
    """

    status: str
    accuracy: Accuracy | None = None
    call: Callable[[], Results] | None = None
    seconds: float = 0.0
    long: bool = False


class TimeLimit(NamedTuple):
    """The longest call that is tried, and the option that sets it."""

    seconds: float
    option: str


def compare(
    workload: Workload,
    providers: Sequence[Provider],
    options: argparse.Namespace,
    device: torch.device,
    rows: Rows,
) -> None:
    """Measure every provider and add a row for each."""
    reset_compiler()
    torch.set_float32_matmul_precision(workload.precision)
    torch.set_num_threads(workload.threads)
    case, dtype = workload.case, DTYPES[workload.dtype]
    work = count_work(case, workload.mode, dtype, device)
    rates = measure_rates(device, dtype, workload.precision)
    inputs = case.make_inputs(workload.sharpness, dtype, device)
    truth = compute_truth(case, inputs, workload.mode)

    def first_outcome(provider: Provider) -> Outcome:
        reason = "left out" if provider.name in options.without else provider.unavailable
        limit = time_limit(provider, options)
        if reason := reason or reason_to_skip(provider, workload, limit, rows.rows, device):
            return Outcome(reason)
        outcome = run_and_check(provider, workload, inputs, truth, device)
        if outcome.seconds > options.patience + COMPILE_SECONDS and provider.compiles:
            reason = f"too slow for --patience {options.patience:g}: {outcome.seconds:.0f} s with compilation"
            return Outcome(reason)
        return outcome

    outcomes = {provider.name: first_outcome(provider) for provider in providers}
    times, graph_times = _time(providers, outcomes, options, device)

    shared = {
        **workload._asdict(),
        "case": case.name,
        **{field: getattr(case, field) for field in ("batch", "nodes", "walks", "classes")},
        **work._asdict(),
        "floor": floor_milliseconds(work, rates),
        "floor_rates": rates._asdict(),
        "providers": len(providers),
    }
    for provider in providers:
        outcome = outcomes[provider.name]
        values: dict[str, Any] = {"status": outcome.status, "error": None, "within": False}
        if outcome.accuracy is not None:
            values |= outcome.accuracy._asdict()
        if provider.name in times:
            values |= times[provider.name]._asdict()
            if provider.name in graph_times:
                values["graph"] = graph_times[provider.name].median
            if options.memory:
                seconds = 60 + 2e-3 * values["median"]
                peak = peak_in_new_process(
                    prepare_memory_call,
                    *(provider, workload, str(device)),
                    device=device.type,
                    seconds=seconds,
                )
                values |= peak._asdict()
        named = {field: getattr(provider, field) for field in ("ours", "default", "before")}
        named["provider"] = provider.name
        rows.add(**shared, **named, **values)


def _time(
    providers: Sequence[Provider],
    outcomes: dict[str, Outcome],
    options: argparse.Namespace,
    device: torch.device,
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Time all calls in turns, and each as a CUDA graph where that is possible.

    If a call fails, the outcome of its provider is replaced.
    """
    ours = next((provider.name for provider in providers if provider.default), None)
    before = {provider.name for provider in providers if provider.before}
    accurate = [
        provider.name
        for provider in providers
        if not provider.ours and (found := outcomes[provider.name].accuracy) is not None and found.within
    ]
    # The two calls whose ratio is reported are repeated even if they are long.
    in_ratio = {ours, *before, *sorted(accurate, key=lambda name: outcomes[name].seconds)[:1]}
    in_ratio = in_ratio if len(in_ratio) > 1 else set()
    calls = {
        name: outcome.call
        for name, outcome in outcomes.items()
        if outcome.call and (name in in_ratio or not outcome.long)
    }
    failures: dict[str, Exception] = {}
    times = time_interleaved(calls, options.seconds, device, failures, ours, accurate, before)
    for name, error in failures.items():
        outcomes[name] = Outcome(describe_failure(error))
        del calls[name]
    for name, outcome in outcomes.items():
        if outcome.call and name not in calls:
            times[name] = summarize([1e3 * outcome.seconds])
    # One graph at a time, because each holds the memory of its call.
    graph_times: dict[str, Timing] = {}
    for name, call in calls.items():
        if (replay := capture_graph(call, device)) is not None:
            graph_times |= time_interleaved({name: replay}, options.seconds / len(calls), device)
    return times, graph_times


def prepare_memory_call(
    provider: Provider, workload: Workload, device: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A warm-up and the call whose memory is measured, made in a new process.

    A provider that compiles is warmed up with the call itself, because it compiles for the sizes of the call.
    The others are warmed up on few nodes. A buffer that they keep between calls and that grows with the
    number of nodes is then allocated by the measured call, and counted.
    """
    call = workload.make_call(provider, torch.device(device))
    if provider.compiles:
        return call, call
    return workload.reduced(MEMORY_WARM_UP_NODES).make_call(provider, torch.device(device)), call


def run_and_check(
    provider: Provider, workload: Workload, inputs: Inputs, truth: Truth | None, device: torch.device
) -> Outcome:
    """Call the provider once and check its results. An exception becomes the status of the outcome."""
    try:
        call = make_call(provider, inputs, workload.mode)
        results: Results = {}
        seconds = 1e-3 * time_once(lambda: results.update(call()), device)
        accuracy = None if truth is None else check_accuracy(results, truth)
    except Exception as error:
        return Outcome(describe_failure(error))
    return Outcome("ok", accuracy, call, seconds, seconds > LONG_CALL and not provider.compiles)


def time_limit(provider: Provider, options: argparse.Namespace) -> TimeLimit:
    """The limit for a call: --patience, but for our default backend all the time that is left.

    So every case has at least one measurement of ours.
    """
    left = options.deadline - time.monotonic()
    if provider.default and left > options.patience:
        return TimeLimit(left, f"--minutes {options.minutes:g}")
    return TimeLimit(options.patience, f"--patience {options.patience:g}")


def reason_to_skip(
    provider: Provider,
    workload: Workload,
    limit: TimeLimit,
    rows: Sequence[Row],
    device: torch.device,
) -> str | None:
    """Why a provider would take too long or too much memory, or None.

    Time and memory are extrapolated from its row with the most nodes below those of the workload. If there is
    none, its time is extrapolated from a reduced workload. A provider that compiles is tried without such an
    estimate, because it would have to compile for the reduced sizes too.
    """
    pairs = workload.case.pairs
    smaller = [row for row in rows if row["provider"] == provider.name and workload.extends(row)]
    if smaller:
        row = max(smaller, key=lambda r: r["nodes"])
        basis = f"from N = {row['nodes']:,}"
        if row["status"].startswith(("too slow", "out of memory")):
            return row["status"].split(", from")[0] + f", {basis}"
        growth = pairs / (row["walks"] * row["batch"] * row["nodes"] ** 2)
        gibibytes = (row.get("memory") or 0) * growth / 2**10
        if device.type == "cpu" and 2**10 * gibibytes > available_mebibytes():
            return f"out of memory: about {gibibytes:.0f} GiB, {basis}"
        expected = 1e-3 * row.get("median", 0.0) * growth
    elif provider.compiles:
        return None
    else:
        reduced = workload.reduced()
        basis = f"from N = {reduced.case.nodes:,}"
        try:
            call = reduced.make_call(provider, device)
            call()
            expected = fastest_seconds(call, device) * pairs / reduced.case.pairs
        except Exception as error:
            return describe_failure(error)
    if expected <= limit.seconds:
        return None
    return f"too slow for {limit.option}: about {expected:.0f} s a call, {basis}"


def fastest_seconds(call: Callable[[], object], device: torch.device) -> float:
    """The shortest time of up to 20 repetitions in half a second.

    Other load on the machine affects it less than it affects one repetition, and so excludes no provider.
    """
    seconds = [1e-3 * time_once(call, device)]
    while sum(seconds) < 0.5 and len(seconds) < 20:
        seconds.append(1e-3 * time_once(call, device))
    return min(seconds)


def describe_failure(error: Exception) -> str:
    """The status of a provider that raised, on one line."""
    if "No available kernel" in str(error):
        return "cannot run: refuses this input"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "out of memory"
    return f"cannot run: {shorten(text, 100, placeholder=' ...')}"
