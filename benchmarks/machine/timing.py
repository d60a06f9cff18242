"""Time: repetitions of all calls, spread over the same stretch of time."""

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import NamedTuple

import torch

REPETITIONS = 3, 30
DECISIVE = 5
"""Fewest repetitions of the two that make a ratio; `REPETITIONS[0]` of long calls."""
LONG = 3.0
"""Seconds of a call that is repeated less often."""
EVICTED = {"cpu": 2**26, "cuda": 2**28}
"""Bytes of other data that are written before each call: its own are in no cache."""


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
    ours: str | None = None,
    rivals: Collection[str] = (),
) -> dict[str, Timing]:
    """Times of all calls, spread evenly over the same time, so that a drifting machine hurts all alike.

    A call that raises goes to `failures` and has no time, or raises where there is none to note it in.

    How often each is repeated follows from its first time: as often as fits its share of `seconds`, 3 times
    at least (once where it is longer than `LONG`) and 30 at most; more often, `DECISIVE`, that of `ours` and
    of the fastest of `rivals`. Next is the one that lags furthest behind.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    share = seconds / max(1, len(calls))

    def run(names: Iterable[str], planned: dict[str, int]) -> None:
        for name in names:
            try:
                times[name].append(once(calls[name], device))
            except Exception as error:
                if failures is None:
                    raise
                failures[name] = error
                del times[name]
            if name not in times or len(times[name]) == planned[name]:
                del planned[name]

    run(calls, dict.fromkeys(calls, 1))
    fastest = min((name for name in rivals if name in times), key=lambda name: times[name][0], default=None)
    decisive = (ours, fastest) if ours in times and fastest else ()
    planned = {name: repetitions(1e-3 * t[0], share, name in decisive) for name, t in times.items()}
    planned = {name: count for name, count in planned.items() if count > 1}
    while planned:
        run([min(planned, key=lambda name: len(times[name]) / planned[name])], planned)
    return {name: summary(values) for name, values in times.items()}


def repetitions(seconds: float, share: float, decisive: bool = False) -> int:
    """Of a call that takes so long and has a share of the time."""
    least, most = REPETITIONS
    if seconds > LONG:
        return least if decisive else 1
    return min(most, max(DECISIVE if decisive else least, int(share / max(seconds, 1e-9))))


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
    """Milliseconds of one call, whose data are in no cache."""
    other_data(device).zero_()
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    call()
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event)


@cache
def other_data(device: torch.device) -> torch.Tensor:
    """What is written between calls; kept, because fresh pages of a CPU would cost more than the writing."""
    return torch.empty(EVICTED[device.type], dtype=torch.int8, device=device)


def summary(values: Sequence[float]) -> Timing:
    """Median and quartiles."""
    if len(values) == 1:
        return Timing(values[0], values[0], values[0], 1)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, lower, upper, len(values))
