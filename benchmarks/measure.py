"""How a provider is measured: error first, then time interleaved with its rivals, then memory."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from cases import WIDTH, Case
from providers import Provider
from torch import Tensor

from difnet_kernels.testing import Inputs, relative_error

# Largest error of a provider, as a multiple of that of `eager` at the same precision, for which a
# speed-up is claimed. Twice is the budget of our own tests; rivals get the same.
ERROR_FACTOR = 2.0


class Timing(NamedTuple):
    """Milliseconds of the repetitions of one provider."""

    median: float
    lower: float
    upper: float
    repetitions: int


def step(provider: Provider, inputs: Inputs, mode: str) -> Callable[[], Tensor]:
    """A call of the provider to be timed: the forward, or forward and backward of a sum of squares."""
    if mode == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return provider.run(inputs)

        return forward

    leaves = [*inputs.features, inputs.seed]
    asked = inputs._replace(
        features=[feature.detach().requires_grad_() for feature in inputs.features],
        seed=inputs.seed.detach().requires_grad_(),
        mu=inputs.mu.detach().requires_grad_(),
        beta=inputs.beta.detach().requires_grad_(),
    )
    leaves = [*asked.features, asked.seed, asked.mu, asked.beta]

    def forward_backward() -> Tensor:
        y = provider.run(asked)
        grads = torch.autograd.grad(y, leaves, y.detach())
        return grads[0]

    return forward_backward


def true_result(case: Case, inputs: Inputs, mode: str) -> Tensor | None:
    """What `step` should return, in float64 from the same rounded inputs; None where P would not fit.

    The walk through P is computed for one image at a time, from row blocks.
    """
    if case.nodes**2 * 8 * (4 if mode != "forward" else 1) > 8 * 2**30:
        return None
    from providers import _eager

    exact = inputs.to(torch.float64)
    images = []
    for image in range(case.batch):
        one = exact._replace(
            features=[feature[image : image + 1] for feature in exact.features],
            seed=exact.seed[image : image + 1],
            state=exact.state[image : image + 1],
        )
        images.append(step(Provider("truth", _eager), one, mode)())
    return torch.cat(images)


def check(call: Callable[[], Tensor], truth: Tensor | None) -> float | None:
    """Relative error of a provider's result; None where there is no truth to compare with."""
    result = call()
    return None if truth is None else relative_error(result, truth)


def interleaved(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    device: torch.device,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Times of all calls, taken in turns so that a drifting machine hurts all alike.

    Every call runs at least 3 times. Those that have spent their share of `seconds` stop, the rest go on to
    30 repetitions at most.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    share = seconds / max(1, len(calls))
    active = set(calls)
    while active:
        for name, call in calls.items():
            if name not in active:
                continue
            times[name].append(_once(call, device))
            enough = len(times[name]) >= 3 and sum(times[name]) > 1e3 * share
            if enough or len(times[name]) >= 30:
                active.discard(name)
        progress()
    return {name: _summary(values) for name, values in times.items()}


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
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        return call
    return graph.replay


def _once(call: Callable[[], object], device: torch.device) -> float:
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


def _summary(values: Sequence[float]) -> Timing:
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, lower, upper, len(values))


def peak_memory(
    script: Path, provider: str, case: Case, mode: str, dtype: str, device: torch.device
) -> float | None:
    """MiB above the inputs that one call needs: resident size in a process of its own on a CPU, the
    allocator's peak on a GPU. None if the process did not survive.
    """
    command = [
        sys.executable,
        str(script),
        "--measure-memory",
        provider,
        json.dumps(case),
        mode,
        dtype,
        str(device),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ)
    try:
        return float(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return None


def floor_milliseconds(case: Case, mode: str, rates: "Rates") -> float:
    """Least time for the case by the cost model of docs/math.md, section 4, at measured rates.

    Pairs of blocks: d / 2 + k multiply-adds a pair forward and 3 d / 2 + 2 k + 1 more backward, one
    exponential each time.
    """
    multiply_adds = WIDTH / 2 + case.classes
    exponentials = 1.0
    if mode != "forward":
        multiply_adds += 3 * WIDTH / 2 + 2 * case.classes + 1
        exponentials += 1.0
    return 1e3 * case.pairs * (2 * multiply_adds / rates.flops + exponentials / rates.exponentials)


class Rates(NamedTuple):
    """What this machine does per second, measured in the same run."""

    flops: float
    exponentials: float


def calibrate(device: torch.device, dtype: torch.dtype) -> Rates:
    """Rates of a large matrix product, in `dtype` or float32, whichever is faster, and of exp."""
    size = 1024 if device.type == "cpu" else 8192
    single = torch.randn(size, size, device=device)
    a = single.to(dtype)
    x = torch.randn(2**18 if device.type == "cpu" else 2**26, device=device)
    out = torch.empty_like(x)
    calls: dict[str, Callable[[], object]] = {
        "product": lambda: a @ a,
        "single": lambda: single @ single,
        "exp": lambda: torch.exp(x, out=out),
    }
    for call in calls.values():
        call()
    times = interleaved(calls, 1.0, device)
    return Rates(2 * size**3 / (1e-3 * times["product"].lower), x.numel() / (1e-3 * times["exp"].lower))
