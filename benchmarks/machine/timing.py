"""Times of calls, whose repetitions are spread evenly over the same stretch of time."""

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch

FEWEST, MOST = 3, 30
"""Repetitions of a call that is not long."""
FEWEST_FOR_RATIO = 5
"""Fewest repetitions of the two calls whose ratio is reported; `FEWEST` if they are long."""
LONG_CALL = 3.0
"""Seconds from which a call is long, and repeated less often."""
EVICTION_BYTES = {"cpu": 2**26, "cuda": 2**28}
"""Bytes that are written before each call, more than the caches hold, so that the call's data are evicted."""


class Timing(NamedTuple):
    """Median and quartiles of the repetitions of one call, in milliseconds."""

    median: float
    lower: float
    upper: float
    repetitions: int


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    device: torch.device,
    failures: dict[str, Exception] | None = None,
    ours: str | None = None,
    rivals: Collection[str] = (),
    others: Collection[str] = (),
) -> dict[str, Timing]:
    """Time all calls in turns, so that a machine whose speed drifts affects all of them alike.

    The exception of a call that fails is put into `failures`, and the call gets no time. Without `failures`
    the exception is raised.

    Every call gets an equal share of `seconds` and runs once. That first time decides how often it is
    repeated (`repetitions`). `ours`, the fastest of `rivals` and all `others` are repeated more often,
    because their ratios are reported. The next call is always the one that has done the smallest part of its
    repetitions.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    share = seconds / max(1, len(calls))

    def run(names: Iterable[str], planned: dict[str, int]) -> None:
        for name in names:
            try:
                times[name].append(time_once(calls[name], device))
            except Exception as error:
                if failures is None:
                    raise
                failures[name] = error
                del times[name]
            if name not in times or len(times[name]) == planned[name]:
                del planned[name]

    run(calls, dict.fromkeys(calls, 1))
    fastest = min((name for name in rivals if name in times), key=lambda name: times[name][0], default=None)
    in_ratio = {ours, fastest, *others} & set(times)
    in_ratio = in_ratio if ours in in_ratio and len(in_ratio) > 1 else set()
    planned = {name: repetitions(1e-3 * t[0], share, name in in_ratio) for name, t in times.items()}
    planned = {name: count for name, count in planned.items() if count > 1}
    while planned:
        run([min(planned, key=lambda name: len(times[name]) / planned[name])], planned)
    return {name: summarize(values) for name, values in times.items()}


def repetitions(seconds: float, share: float, in_ratio: bool = False) -> int:
    """How often to repeat a call of `seconds`, which has `share` seconds for all its repetitions."""
    if seconds > LONG_CALL:
        return FEWEST if in_ratio else 1
    fewest = FEWEST_FOR_RATIO if in_ratio else FEWEST
    return min(MOST, max(fewest, int(share / max(seconds, 1e-9))))


def capture_graph(call: Callable[[], object], device: torch.device) -> Callable[[], object] | None:
    """Capture the call as a CUDA graph and return its replay; None where that is impossible."""
    if device.type != "cuda":
        return None
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
    except RuntimeError:  # running out of memory is one too
        return None
    return graph.replay


def time_once(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call. Its data are evicted from the caches first."""
    eviction_buffer(device).zero_()
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
def eviction_buffer(device: torch.device) -> torch.Tensor:
    """The memory that is written before each call; kept, because allocating it anew would take longer."""
    return torch.empty(EVICTION_BYTES[device.type], dtype=torch.int8, device=device)


def summarize(milliseconds: Sequence[float]) -> Timing:
    """Median and quartiles."""
    if len(milliseconds) == 1:
        return Timing(milliseconds[0], milliseconds[0], milliseconds[0], 1)
    lower, median, upper = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return Timing(median, lower, upper, len(milliseconds))
