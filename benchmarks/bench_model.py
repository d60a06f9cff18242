"""Measure the networks of the paper's Table 4 on this machine, and the arrangements they can run in.

    python benchmarks/bench_model.py                                # everything, in less than ten minutes
    python benchmarks/bench_model.py --networks difnet50 --arrangements plain compiled
    python benchmarks/bench_model.py --arrangements --before COMMIT  # diffusion also by earlier kernels

Images are [3, 505, 505], one at a time, with k = 21. Weights are random, and batch norms have the statistics
of the image. The network --arrange runs in every arrangement, inference and training step. Its error is the
distance of the logits, or of the gradient of all weights, from those in float64. An error more than twice
(gradients: three times) that of "plain" is marked.

All --networks run in the arrangement "plain". Their seed branch, similarity branch and diffusion are also
timed separately: diffusion with each backend of the operator, the total with the preferred backend and with
"reference", which stores P. Of a call longer than three seconds only the first is timed, after the parts or
the plain network have warmed up. The column n gives the number of repetitions.
"""

import argparse
import copy
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness.builds import load, reason_missing
from harness.compare import describe_failure
from harness.networks import (
    ARRANGEMENTS,
    INFERENCE,
    NETWORK_MODES,
    PLAIN,
    Setup,
    count_flops,
    default_backend,
    make_network_call,
    make_part_calls,
)
from harness.providers import cpu_multiplies_bfloat16, reason_unavailable
from harness.rows import Row, Rows
from harness.runner import Measurement, parse_run, run_plan
from machine.memory import Peak, peak_in_this_process
from machine.timing import LONG_CALL, Timing, summarize, time_interleaved
from reporting.model_report import plot_networks, print_arrangements, print_networks

from difnet.modeling.network import DifNet, SimDeepLab
from difnet_kernels import backends, cascaded_random_walk
from difnet_kernels.testing import FORWARD_FACTOR, GRADIENT_FACTOR

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # silences "no CUDA runtime is found"
NETWORKS = ("difnet18", "difnet34", "difnet50", "simdeeplab50", "simdeeplab101")
TOTAL = "total"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), help="names that create_model takes")
    parser.add_argument("--arrange", default="difnet18", help="the network that runs in every arrangement")
    parser.add_argument("--arrangements", nargs="*", choices=ARRANGEMENTS, default=list(ARRANGEMENTS))
    parser.add_argument("--modes", nargs="+", choices=NETWORK_MODES, default=list(NETWORK_MODES))
    parser.add_argument("--size", type=int, default=505, help="height and width of the image")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each line of a table")
    parser.add_argument("--before", metavar="COMMIT", help="also time diffusion by `native` of this commit")
    return parse_run("model", parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = torch.device(options.device)
    try:
        for name in {*options.networks, *([options.arrange] if options.arrangements else [])}:
            Setup(name, options.size, PLAIN, str(device)).reason_unsupported(INFERENCE)
    except ValueError as error:
        print(f"bench_model.py: error: {error}", file=sys.stderr)
        return 1

    if options.before is not None and (reason := reason_missing(options.before)) is not None:
        print(f"bench_model.py: error: --before {options.before}: {reason}", file=sys.stderr)
        return 1

    def measurement(measure: Callable[..., None], network: str, mode: str) -> Measurement:
        title = f"{network}, {mode}, {'arrangements' if measure is measure_arrangements else 'parts'}"
        return Measurement(title, lambda rows: measure(network, mode, options, device, rows))

    arrangements = [
        measurement(measure_arrangements, options.arrange, mode)
        for mode in options.modes
        if options.arrangements
    ]
    parts = [
        measurement(measure_parts, network, mode) for mode in options.modes for network in options.networks
    ]
    # The longest measurement is last: it compiles a training step.
    plan = [*arrangements[:1], *parts, *arrangements[1:]]

    def report(rows: list[Row], folder: Path) -> list[Path]:
        print_networks(rows)
        return plot_networks(rows, folder)

    return run_plan(options, lambda: plan, report, size=options.size)


def measure_arrangements(
    network: str, mode: str, options: argparse.Namespace, device: torch.device, rows: Rows
) -> None:
    """Error, time and memory of one network in every arrangement."""
    plain = Setup(network, options.size, PLAIN, str(device))
    if (reason := plain.reason_unsupported(mode)) is not None:
        for name in options.arrangements:
            identity = {"network": network, "mode": mode, "arrangement": name}
            rows.add(table="arrangements", **identity, error=None, within=False, status=reason)
        print(f"{network}, {mode}, arrangements: {reason}")
        return
    factor = FORWARD_FACTOR if mode == INFERENCE else GRADIENT_FACTOR
    model, image = plain.build()
    exact = make_network_call(plain, mode, copy.deepcopy(model).double(), image.double())().detach()
    allowed = factor * distance(make_network_call(plain, mode, *plain.arrange(model, image))(), exact)
    calls: dict[str, Callable[[], object]] = {}
    first_times: dict[str, Timing] = {}
    found: dict[str, Row] = {}
    for name in options.arrangements:
        if ARRANGEMENTS[name].bfloat16 and device.type == "cpu" and not cpu_multiplies_bfloat16():
            found[name] = {"status": "this CPU does not multiply bfloat16", "error": None, "within": False}
            continue
        setup = plain._replace(arrangement=ARRANGEMENTS[name])
        try:
            call = make_network_call(setup, mode, *setup.arrange(model, image))
            result, peak, first_times[name] = first_call(call, options)
            error = distance(result, exact)  # of the first step, because each step changes the weights
            if setup.arrangement.compiled:  # compiling took part of the first call's time and memory
                _, peak, first_times[name] = first_call(call, options)
            calls[name] = call
            found[name] = {"status": "ok", "error": error, "within": error <= allowed, **peak._asdict()}
        except Exception as exception:
            found[name] = {"status": describe_failure(exception), "error": None, "within": False}
    failures: dict[str, Exception] = {}
    times = repeat_calls(calls, first_times, options, device, failures)
    for name, values in found.items():
        if name in failures:
            values |= {"status": describe_failure(failures[name]), "within": False}
        values |= times[name]._asdict() if name in times else {}
        rows.add(table="arrangements", network=network, arrangement=name, mode=mode, **values)
    print_arrangements([r for r in rows.rows if r["table"] == "arrangements" and r["mode"] == mode])


def measure_parts(
    network: str, mode: str, options: argparse.Namespace, device: torch.device, rows: Rows
) -> None:
    """Time of the parts of one network by every backend, and time and memory of the total."""
    setup = Setup(network, options.size, PLAIN, str(device))
    if (reason := setup.reason_unsupported(mode)) is not None:
        identity = {"network": network, "mode": mode, "part": TOTAL, "backend": None}
        rows.add(table="networks", arrangement=PLAIN.name, **identity, median=None, status=reason)
        return
    model, image = setup.build()
    names = available_backends(device) if isinstance(model, DifNet) else []
    call = make_network_call(setup, mode, model, image)

    def total(backend: str | None) -> Callable[[], object]:
        def run() -> None:
            with default_backend(backend):
                call()

        return run

    # With the preferred backend and with "reference", which is the last.
    both = dict.fromkeys((*names[:1], *names[-1:]))
    totals = {f"{TOTAL}, {name}": total(name) for name in both} or {TOTAL: total(None)}
    failures: dict[str, Exception] = {}
    peaks: dict[str, Peak] = {}
    times: dict[str, Timing] = {}
    if isinstance(model, DifNet):  # before the totals, as their warm-up
        walks = {name: partial(cascaded_random_walk, backend=name) for name in names}
        if options.before is not None:
            walks[f"native before ({options.before})"] = partial(
                load(options.before).cascaded_random_walk, backend="native"
            )
        parts = make_part_calls(setup, mode, model, image, walks)
        times = time_interleaved(parts, options.seconds, device, failures)
    first_times: dict[str, Timing] = {}
    for name, run in totals.items():
        try:
            _, peaks[name], first_times[name] = first_call(run, options)
        except Exception as error:
            failures[name] = error
    times |= repeat_calls(totals, first_times, options, device, failures)
    assert isinstance(model, DifNet | SimDeepLab)
    flops, walk_flops = count_flops(setup, mode, model)
    shared = {
        "table": "networks",
        "network": network,
        "arrangement": PLAIN.name,
        "mode": mode,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops,
        "walk_flops": walk_flops,
    }
    for name, timing in times.items():
        part, _, backend = name.partition(", ")
        peak = peaks.get(name, Peak())
        rows.add(
            **shared, part=part, backend=backend or None, **peak._asdict(), **timing._asdict(), status="ok"
        )
    for name, failure in failures.items():
        part, _, backend = name.partition(", ")
        status = describe_failure(failure)
        rows.add(**shared, part=part, backend=backend or None, status=status, median=None)


def first_call(call: Callable[[], Any], options: argparse.Namespace) -> tuple[Any, Peak, Timing]:
    """Make the call and return its result, its peak memory if options.memory is set, and its time."""
    results: list[Any] = []
    milliseconds: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        results.append(call())
        milliseconds.append(1e3 * (time.perf_counter() - start))

    peak = Peak()
    if options.memory:
        peak = peak_in_this_process(run, options.device)
    else:
        run()
    return results[0], peak, summarize(milliseconds)


def repeat_calls(
    calls: dict[str, Callable[[], object]],
    first_times: dict[str, Timing],
    options: argparse.Namespace,
    device: torch.device,
    failures: dict[str, Exception],
) -> dict[str, Timing]:
    """Times of the repetitions of all calls; a long call keeps the time of its first."""
    repeated = {
        name: call
        for name, call in calls.items()
        if name in first_times and first_times[name].median < 1e3 * LONG_CALL
    }
    times = first_times | time_interleaved(repeated, options.seconds * len(repeated), device, failures)
    return {name: times[name] for name in calls if name in times and name not in failures}


def available_backends(device: torch.device) -> list[str]:
    """The backends that run on the device, in order of preference."""
    return [status.name for status in backends() if reason_unavailable(status.name, device) is None]


def distance(result: torch.Tensor, exact: torch.Tensor) -> float:
    """|result - exact| / |exact|, over all elements."""
    return ((result.double() - exact.double()).norm() / exact.double().norm()).item()


if __name__ == "__main__":
    sys.exit(main())
