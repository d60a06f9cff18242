"""Time: repetitions of all calls taken in turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

REPETITIONS = 3, 30
LONG = 3.0
"""Seconds of a call that is repeated less often."""


class Timing(NamedTuple):
    """Milliseconds of the repetitions of one provider."""

    median: float
    lower: float
    upper: float
    repetitions: int


def interleaved(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    device: torch.device,
    failures: dict[str, Exception] | None = None,
) -> dict[str, Timing]:
    """Times of all calls, taken in turns so that a drifting machine hurts all alike.

    A call that raises goes to `failures` and has no time, or raises where there is none to note it in.

    Each is repeated 3 times at least, or until 3 `LONG` are spent on it; those that have spent their share of
    `seconds` stop then, the rest go on to 30 repetitions at most.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    share = seconds / max(1, len(calls))
    least, most = REPETITIONS
    active = set(calls)
    while active:
        for name, call in calls.items():
            if name not in active:
                continue
            try:
                times[name].append(once(call, device))
            except Exception as error:
                if failures is None:
                    raise
                failures[name] = error
                active.discard(name)
                continue
            count, spent = len(times[name]), 1e-3 * sum(times[name])
            if count >= most or (count >= least and spent > share) or spent > max(share, least * LONG):
                active.discard(name)
    return {name: summary(values) for name, values in times.items() if name not in (failures or ())}


def graphed(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The replay of a CUDA graph of the call, or the call itself where it cannot be captured."""
    if device.type != "cuda":
        return call
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:  # out of memory too
        return call
    return graph.replay


def once(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    torch.empty(2**28, dtype=torch.int8, device=device).zero_()  # flush the L2 cache
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    call()
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event)


def summary(values: Sequence[float]) -> Timing:
    """Median and quartiles."""
    if len(values) == 1:
        return Timing(values[0], values[0], values[0], 1)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, lower, upper, len(values))
