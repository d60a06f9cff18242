"""All providers on one case: errors first, then times taken in turns, then memory; one row each."""

import argparse
import time
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from machine.floor import calibrate, counts, floor_milliseconds
from machine.memory import available_mebibytes, peak_mebibytes
from machine.timing import LONG, graphed, interleaved, once, summary

from difnet_kernels.testing import Inputs
from harness.cases import Case
from harness.providers import Provider, forget_compiled, step
from harness.rows import Rows
from harness.truth import Results, Truth, Verdict, find_truth, judge

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


COMPILING = 20.0
"""Seconds that a compilation may take before a call counts as too slow."""


class Contest(NamedTuple):
    """What the providers compete on."""

    case: Case
    mode: str
    dtype: str
    precision: str
    sharpness: str

    def call(self, provider: Provider, device: torch.device) -> Callable[[], object]:
        """The provider's call on this contest's inputs."""
        return step(provider, self.case.inputs(self.sharpness, DTYPES[self.dtype], device), self.mode)

    def smaller(self, row: dict[str, Any]) -> bool:
        """Whether a row is of the same series as this contest, at a smaller N."""
        same = all(row[name] == getattr(self, name) for name in ("mode", "dtype", "precision"))
        return same and row["case"] == self.case.name and row["nodes"] < self.case.nodes

    def small(self, nodes: int = 1024) -> "Contest":
        """The same on a few nodes, to warm up."""
        case = self.case._replace(batch=1, nodes=min(self.case.nodes, nodes), walks=1)
        return self._replace(case=case)


class Entry(NamedTuple):
    """How far a provider came."""

    status: str
    verdict: Verdict | None = None
    call: Callable[[], object] | None = None
    seconds: float = 0.0
    """Of the call that was checked."""
    long: bool = False
    """Whether another one would take too long."""


def hold(
    contest: Contest, found: Sequence[Provider], options: argparse.Namespace, device: torch.device, rows: Rows
) -> None:
    """Measure every provider and add its row."""
    forget_compiled()
    torch.set_float32_matmul_precision(contest.precision)
    case, dtype = contest.case, DTYPES[contest.dtype]
    counted = counts(case, contest.mode, dtype, device)
    rates = calibrate(device, dtype, contest.precision)
    inputs = case.inputs(contest.sharpness, dtype, device)
    truth = find_truth(case, inputs, contest.mode)

    entries = {}
    for provider in found:
        status = "left out" if provider.name in options.without else provider.unavailable
        status = status or hopeless(provider, contest, patience(provider, options), rows.rows, device)
        entry = Entry(status) if status else enter(provider, contest, inputs, truth, device)
        if entry.seconds > options.patience + COMPILING and provider.compiles:
            status = f"too slow for --patience {options.patience:g}: {entry.seconds:.0f} s with compilation"
            entry = Entry(status)
        entries[provider.name] = entry
    ours = next((p.name for p in found if p.default), None)
    right = [p.name for p in found if not p.ours and (v := entries[p.name].verdict) is not None and v.within]
    # Who makes the ratio is called again, however long it takes.
    decisive = {ours, min(right, key=lambda name: entries[name].seconds)} if right else set()
    calls = {name: e.call for name, e in entries.items() if e.call and (name in decisive or not e.long)}
    failures: dict[str, Exception] = {}
    times = interleaved(calls, options.seconds, device, failures, ours, right)
    for name, error in failures.items():
        entries[name] = Entry(reason(error))
        del calls[name]
    once_called = {name: e.seconds for name, e in entries.items() if e.call and name not in calls}
    times |= {name: summary([1e3 * seconds]) for name, seconds in once_called.items()}
    # One graph at a time: each holds the memory of its call.
    replays = {}
    for name, call in calls.items() if device.type == "cuda" else ():
        graph = graphed(call, device)
        if graph is not call:
            replays |= interleaved({name: graph}, options.seconds / len(calls), device)

    shared = {
        **contest._asdict(),
        "case": case.name,
        **{field: getattr(case, field) for field in ("batch", "nodes", "walks", "classes")},
        **counted._asdict(),
        "floor": floor_milliseconds(counted, rates),
        "floor_rates": rates._asdict(),
        "providers": len(found),
    }
    for provider in found:
        entry = entries[provider.name]
        values: dict[str, Any] = {"status": entry.status, "error": None, "within": False}
        if entry.verdict is not None:
            values |= entry.verdict._asdict()
        if provider.name in times:
            values |= times[provider.name]._asdict()
            if provider.name in replays:
                values["graph"] = replays[provider.name].median
            if options.memory:
                seconds = 60 + 2e-3 * values["median"]
                peak = peak_mebibytes(
                    prepare, provider, contest, str(device), device=device.type, seconds=seconds
                )
                values |= peak._asdict()
        named = {"provider": provider.name, "ours": provider.ours, "default": provider.default}
        rows.add(**shared, **named, **values)


def prepare(
    provider: Provider, contest: Contest, device: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """For a process of its own: the warm-up and the call whose memory counts.

    What is compiled is compiled for the call's own sizes. The other warm-ups have few nodes: memory that is
    kept for the next call counts.
    """
    place = torch.device(device)
    call = contest.call(provider, place)
    return call if provider.compiles else contest.small(64).call(provider, place), call


def enter(
    provider: Provider, contest: Contest, inputs: Inputs, truth: Truth | None, device: torch.device
) -> Entry:
    """One call, checked against the truth. A rival that cannot run is listed with its reason."""
    try:
        call = step(provider, inputs, contest.mode)
        found: Results = {}
        seconds = 1e-3 * once(lambda: found.update(call()), device)
        verdict = None if truth is None else judge(found, truth)
    except Exception as error:
        return Entry(reason(error))
    return Entry("ok", verdict, call, seconds, seconds > LONG and not provider.compiles)


class Patience(NamedTuple):
    """The longest call worth trying, and the option that sets it."""

    seconds: float
    option: str


def patience(provider: Provider, options: argparse.Namespace) -> Patience:
    """For our default backend all the time that is left, so that every case has one measurement of ours."""
    left = options.deadline - time.monotonic()
    if provider.default and left > options.patience:
        return Patience(left, f"--minutes {options.minutes:g}")
    return Patience(options.patience, f"--patience {options.patience:g}")


def hopeless(
    provider: Provider,
    contest: Contest,
    limit: Patience,
    rows: Sequence[dict[str, Any]],
    device: torch.device,
) -> str | None:
    """Why a provider need not be tried, by its rows at smaller N and its time on few nodes."""
    pairs = contest.case.pairs
    smaller = [row for row in rows if row["provider"] == provider.name and contest.smaller(row)]
    if smaller:
        row = max(smaller, key=lambda r: r["nodes"])
        at = f"from N = {row['nodes']:,}"
        if row["status"].startswith(("too slow", "out of memory")):
            return row["status"].split(", from")[0] + f", {at}"
        growth = pairs / (row["walks"] * row["batch"] * row["nodes"] ** 2)
        gibibytes = (row.get("memory") or 0) * growth / 2**10
        if device.type == "cpu" and 2**10 * gibibytes > available_mebibytes():
            return f"out of memory: about {gibibytes:.0f} GiB, {at}"
        expected = 1e-3 * row.get("median", 0.0) * growth
    elif provider.compiles:  # for each size anew, so that a trial would cost more than it saves
        return None
    else:
        small = contest.small()
        at = f"from N = {small.case.nodes:,}"
        try:
            call = small.call(provider, device)
            call()
            expected = fewest_seconds(call, device) * pairs / small.case.pairs
        except Exception as error:
            return reason(error)
    if expected <= limit.seconds:
        return None
    return f"too slow for {limit.option}: about {expected:.0f} s a call, {at}"


def fewest_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of the calls of half a second: a busy machine must not end a provider's part."""
    seconds = [1e-3 * once(call, device)]
    while sum(seconds) < 0.5 and len(seconds) < 20:
        seconds.append(1e-3 * once(call, device))
    return min(seconds)


def reason(error: Exception) -> str:
    """One line about a provider that failed."""
    if "No available kernel" in str(error):
        return "cannot run: refuses this input"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "out of memory"
    return f"cannot run: {shorten(text, 100, placeholder=' ...')}"
