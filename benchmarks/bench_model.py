"""The network: Table 4 of the paper on the machine at hand, and the arrangements it can run in.

    python benchmarks/bench_model.py                                # everything, in less than ten minutes
    python benchmarks/bench_model.py --networks difnet50 --arrangements plain compiled

Images are [3, 505, 505], one at a time, k = 21; weights are random, batch norms at the statistics of the
image. First --arrange is run in every arrangement, inference and training step. The error is the distance of
the scores, or of the gradient of all weights, from those in float64. One more than twice (gradients: three
times) as far off as "plain" is marked. Then every network is run in
the arrangement "plain", with seed branch, similarity branch and diffusion timed apart as well; diffusion with
each operator backend, the total with the preferred one and with "reference", which stores P. Long calls are
repeated less often; of the longest the first is timed, after the parts or the plain network have warmed up.
The column n says how often.
"""

import argparse
import copy
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness.compare import reason
from harness.networks import (
    ARRANGEMENTS,
    INFERENCE,
    NETWORK_MODES,
    PLAIN,
    Setup,
    backend,
    flops,
    parts,
    whole,
)
from harness.providers import multiplies_bfloat16, refusal
from harness.rows import Rows
from harness.runner import Part, carry_out, parse_run
from machine.memory import Peak, peak_here
from machine.timing import LONG, Timing, interleaved, summary
from reporting.model_report import plot_networks, print_arrangements, print_networks

from difnet.modeling.network import DifNet
from difnet_kernels import backends
from difnet_kernels.testing import FORWARD_FACTOR, GRADIENT_FACTOR

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA is known
NETWORKS = ("difnet18", "difnet34", "difnet50", "simdeeplab50", "simdeeplab101")
TOTAL = "total"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--arrange", default="difnet18", help="the network for the arrangements")
    parser.add_argument("--arrangements", nargs="*", choices=ARRANGEMENTS, default=list(ARRANGEMENTS))
    parser.add_argument("--modes", nargs="+", choices=NETWORK_MODES, default=list(NETWORK_MODES))
    parser.add_argument("--size", type=int, default=505)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each table's line")
    return parse_run("model", parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    device = torch.device(options.device)
    try:
        for name in {*options.networks, *([options.arrange] if options.arrangements else [])}:
            Setup(name, options.size, PLAIN, str(device)).obstacle(INFERENCE)
    except ValueError as error:
        print(f"bench_model.py: error: {error}", file=sys.stderr)
        return 1

    def part(measured: Callable[..., None], network: str, mode: str) -> Part:
        text = f"{network}, {mode}, {'arrangements' if measured is arrange else 'parts'}"
        return Part(text, lambda rows: measured(network, mode, options, device, rows))

    arranged = [part(arrange, options.arrange, mode) for mode in options.modes if options.arrangements]
    apart = [part(take_apart, network, mode) for mode in options.modes for network in options.networks]
    parts = [*arranged[:1], *apart, *arranged[1:]]  # the longest, which compiles a training step, last

    def conclude(rows: list[dict[str, Any]], folder: Path) -> list[Path]:
        print_networks(rows)
        return plot_networks(rows, folder)

    return carry_out(options, lambda: parts, conclude, size=options.size)


def arrange(network: str, mode: str, options: argparse.Namespace, device: torch.device, rows: Rows) -> None:
    """One network in every arrangement: error, time, memory."""
    plain = Setup(network, options.size, PLAIN, str(device))
    if (obstacle := plain.obstacle(mode)) is not None:
        for name in options.arrangements:
            found = {"network": network, "mode": mode, "arrangement": name, "error": None, "within": False}
            rows.add(table="arrangements", **found, status=obstacle)
        print(f"{network}, {mode}, arrangements: {obstacle}")
        return
    factor = FORWARD_FACTOR if mode == INFERENCE else GRADIENT_FACTOR
    model, image = plain.build()
    truth = whole(plain, mode, copy.deepcopy(model).double(), image.double())().detach()
    allowed = factor * distance(whole(plain, mode, *plain.arranged(model, image))(), truth)
    calls: dict[str, Callable[[], object]] = {}
    known: dict[str, Timing] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in options.arrangements:
        if ARRANGEMENTS[name].bfloat16 and device.type == "cpu" and not multiplies_bfloat16():
            found[name] = {"status": "this CPU does not multiply bfloat16", "error": None, "within": False}
            continue
        setup = plain._replace(arrangement=ARRANGEMENTS[name])
        try:
            call = whole(setup, mode, *setup.arranged(model, image))
            result, peak, known[name] = first_call(call, options)
            error = distance(result, truth)  # later steps have other weights
            if setup.arrangement.compiled:  # which takes more time and memory than the call
                _, peak, known[name] = first_call(call, options)
            calls[name] = call
            found[name] = {"status": "ok", "error": error, "within": error <= allowed, **peak._asdict()}
        except Exception as error:
            found[name] = {"status": reason(error), "error": None, "within": False}
    failures: dict[str, Exception] = {}
    times = repeated(calls, known, options, device, failures)
    for name, values in found.items():
        if name in failures:
            values |= {"status": reason(failures[name]), "within": False}
        values |= times[name]._asdict() if name in times else {}
        rows.add(table="arrangements", network=network, arrangement=name, mode=mode, **values)
    print_arrangements([r for r in rows.rows if r["table"] == "arrangements" and r["mode"] == mode])


def first_call(call: Callable[[], Any], options: argparse.Namespace) -> tuple[Any, Peak, Timing]:
    """What a call returns, its peak memory if that is asked for, and its time."""
    results: list[Any] = []
    milliseconds: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        results.append(call())
        milliseconds.append(1e3 * (time.perf_counter() - start))

    peak = Peak()
    if options.memory:
        peak = peak_here(run, options.device)
    else:
        run()
    return results[0], peak, summary(milliseconds)


def repeated(
    calls: dict[str, Callable[[], object]],
    first: dict[str, Timing],
    options: argparse.Namespace,
    device: torch.device,
    failures: dict[str, Exception],
) -> dict[str, Timing]:
    """Times of calls, in their order: of repetitions, or of the first call where that was long."""
    again = {name: call for name, call in calls.items() if name in first and first[name].median < 1e3 * LONG}
    times = first | interleaved(again, options.seconds * len(again), device, failures)
    return {name: times[name] for name in calls if name in times and name not in failures}


def able(device: torch.device) -> list[str]:
    """The backends that take tensors of the device, in order of preference."""
    return [status.name for status in backends() if refusal(status.name, device) is None]


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    """|found - truth| / |truth|, over all elements."""
    return ((found.double() - truth.double()).norm() / truth.double().norm()).item()


def take_apart(
    network: str, mode: str, options: argparse.Namespace, device: torch.device, rows: Rows
) -> None:
    """Parts and total of one network, by every backend that can run here."""
    setup = Setup(network, options.size, PLAIN, str(device))
    if (obstacle := setup.obstacle(mode)) is not None:
        found = {"network": network, "mode": mode, "part": TOTAL, "backend": None, "median": None}
        rows.add(table="networks", arrangement=PLAIN.name, **found, status=obstacle)
        return
    model, image = setup.build()
    usable = able(device) if isinstance(model, DifNet) else []
    step = whole(setup, mode, model, image)

    def walked_by(name: str | None) -> Callable[[], object]:
        def call() -> None:
            with backend(name):
                step()

        return call

    ends = dict.fromkeys((*usable[:1], *usable[-1:]))  # the preferred backend, and the one that stores P
    totals = {f"{TOTAL}, {name}": walked_by(name) for name in ends} or {TOTAL: walked_by(None)}
    failures: dict[str, Exception] = {}
    peaks: dict[str, Peak] = {}
    times: dict[str, Timing] = {}
    if isinstance(model, DifNet):  # first: the parts warm up for the whole
        times = interleaved(parts(setup, mode, model, image, usable), options.seconds, device, failures)
    known: dict[str, Timing] = {}
    for name, call in totals.items():
        try:
            _, peaks[name], known[name] = first_call(call, options)
        except Exception as error:
            failures[name] = error
    times |= repeated(totals, known, options, device, failures)
    counted, walks = flops(setup, mode, model)
    common = {
        "table": "networks",
        "network": network,
        "arrangement": PLAIN.name,
        "mode": mode,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": counted,
        "walk_flops": walks,
    }
    for name, timing in times.items():
        part, _, by = name.partition(", ")
        values: dict[str, Any] = {"part": part, "backend": by or None, **peaks.get(name, Peak())._asdict()}
        rows.add(**common, **values, **timing._asdict(), status="ok")
    for name, error in failures.items():
        part, _, by = name.partition(", ")
        rows.add(**common, part=part, backend=by or None, status=reason(error), median=None)


if __name__ == "__main__":
    sys.exit(main())
