"""How long the runs of an experiment take on this machine, from the time of a few training steps."""

import shlex
import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch

from difnet.experiments.costs import Cost, build, cost_of, losses, training_flops
from difnet.experiments.plan import DataSize, Run
from difnet.experiments.records import NAME, read_log, read_record
from difnet.training.config import TrainConfig
from difnet.utils.devices import default_device

_MICRO_BATCH = 2
_SECONDS = 2.0
"""Steps are repeated for this time, at most five of them."""


class Pace(NamedTuple):
    """How fast a device trains.

    Attributes:
        flops: operations a second.
        source: how it was measured, in one sentence.
    """

    flops: float
    source: str


def costs_of(runs: Sequence[Run], data: DataSize) -> dict[str, Cost]:
    """Count the cost of a run of each variant, by its name.

    Raises:
        DataError, ValueError: a network does not take the images or the crops.
    """
    return {
        run.variant.name: cost_of(run.base, data) for run in {it.variant.name: it for it in runs}.values()
    }


def measure_pace(config: TrainConfig, name: str, classes: int) -> Pace:
    """Time training steps of a network on two random crops.

    Args:
        config: resolved settings.
        name: of the network, for `Pace.source`.
        classes: number of classes.
    """
    device, crop = default_device(), config.settings().crop
    flops = training_flops(build(config, classes), config, _MICRO_BATCH)
    network = build(config, classes, device="cpu").to(device).train()
    image = torch.rand(_MICRO_BATCH, 3, crop, crop, device=device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision, torch.float32)
    seconds: list[float] = []
    while len(seconds) < 6 and (len(seconds) < 2 or sum(seconds[1:]) < _SECONDS):
        began = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=config.precision != "no"):
            result = losses(network, image, config)
        result.backward()
        network.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[1:])  # the first is the warm-up
    return Pace(
        flops / median,
        f"a training step of {name} on {_MICRO_BATCH} crops of {crop} x {crop} takes {median:.2g} s on "
        f"{device}, {1e-9 * flops / median:.0f} GFLOP/s; one process is assumed to compute "
        "all steps and evaluations at this rate, and the reading of images to cost nothing",
    )


def describe(runs: Sequence[Run], out: Path, data: DataSize, launcher: Sequence[str]) -> str:
    """List all runs with their commands and estimated times, and the total.

    Raises:
        DataError, ValueError: a network does not take the images or the crops.
        RunError: a record is damaged.
    """
    costs = costs_of(runs, data)
    left: dict[Path, float] = {}  # operations, by run folder
    lines, done_seconds = [], 0.0
    for run in runs:
        folder = out / run.folder
        if (folder / NAME).is_file():
            done_seconds += read_record(folder / NAME)["seconds"] or 0.0
        else:
            steps = [int(it["step"]) for it in read_log(folder) if "step" in it]
            cost = costs[run.variant.name]
            left[run.folder] = cost.flops(min(max(steps, default=0), cost.steps))
    open_runs = [run for run in runs if run.folder in left]
    pace = _pace_of_cheapest(open_runs, costs, data) if open_runs else None
    for run in runs:
        if run.folder in left and pace is not None:
            time_left = (
                f"about {duration(left[run.folder] / pace.flops)}, {costs[run.variant.name].steps} steps"
            )
        else:
            time_left = f"done, {duration(read_record(out / run.folder / NAME)['seconds'] or 0.0)}"
        start = [*(launcher or ["python"]), "-m", "difnet.train", *run.command(out)]
        lines += [f"{run.name}: {time_left}", f"  {shlex.join(start)}"]
    lines.append(f"{len(runs)} runs, {len(runs) - len(left)} of them done in {duration(done_seconds)}")
    if pace is not None:
        total = sum(left.values()) / pace.flops
        lines += [f"about {duration(total)} left, an estimate: {pace.source}"]
    if data.source:
        lines.append(f"without --data-root, the numbers are published ones: {data.source}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Format a time, such as "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = timedelta(minutes=minutes).days, minutes // 60
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _pace_of_cheapest(runs: Sequence[Run], costs: dict[str, Cost], data: DataSize) -> Pace:
    cheapest = min(runs, key=lambda run: costs[run.variant.name].step_flops)
    return measure_pace(cheapest.base.resolved(), cheapest.variant.name, data.classes)
