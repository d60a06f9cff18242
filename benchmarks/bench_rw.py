"""The operator against everything that could replace it.

    python benchmarks/bench_rw.py                                    # the paper's two cases and a sweep
    python benchmarks/bench_rw.py --cases context camvid --dtypes bfloat16
    python benchmarks/bench_rw.py --cases sweep --modes forward --seconds 60

Every provider computes the whole cascade from the same inputs. Before it is timed its result is compared
with the truth in float64; one whose error is over the budget is shown in red, and no speed-up is claimed
over it. Repetitions of all providers are interleaved. Rows go to benchmarks/results/ as they are measured,
plots beside them at the end, and after Ctrl-C too.

Columns: median and quartiles in ms; the best rival's median over ours (in brackets the same from opposite
quartiles); the floor of docs/math.md, section 4, at rates measured in the same run, as a share of the median;
relative error of the output (forward) or of the gradient of the first features; peak memory above the inputs.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from cases import CASES, Case, cases
from measure import (
    ERROR_FACTOR,
    calibrate,
    check,
    floor_milliseconds,
    interleaved,
    peak_memory,
    step,
    true_result,
)
from providers import Provider, providers
from report import groups, plot, print_table
from rich.console import Console
from rich.progress import Progress
from rows import RESULTS, Rows, environment

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODES = ("forward", "forward+backward")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*CASES, "sweep"]
    parser.add_argument(
        "--cases", nargs="+", choices=names, default=["paper-inference", "paper-training", "sweep"]
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--precision", choices=("highest", "high", "medium"), default="highest")
    parser.add_argument("--sharpness", default="mixed", choices=("flat", "mixed", "peaked", "pooled"))
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each table")
    parser.add_argument("--patience", type=float, default=5.0, help="longest first call worth timing, in s")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="rows; by default under benchmarks/results/")
    parser.add_argument("--measure-memory", nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    options = parse()
    torch.set_float32_matmul_precision(options.precision)
    if options.measure_memory:
        return measure_memory(*options.measure_memory)
    device = torch.device(options.device)
    console = Console(width=None if sys.stdout.isatty() else 130)
    shared = environment(device)
    out = options.out or RESULTS / f"rw-{device.type}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    rows = Rows(out, shared)
    console.print(
        f"{shared['hardware']}, {shared['threads']} threads, torch {shared['torch']}, {shared['commit']}"
    )
    todo = [
        (case, mode, dtype)
        for name in options.cases
        for case in cases(name, device)
        for mode in options.modes
        for dtype in options.dtypes
    ]
    try:
        with Progress(console=console, disable=not sys.stdout.isatty()) as progress:
            task = progress.add_task("measuring", total=len(todo))
            for case, mode, dtype in todo:
                progress.update(task, description=f"{case.name}, N = {case.nodes}, {mode}, {dtype}")
                measure_group(case, mode, dtype, options, device, rows)
                key, group = list(groups(rows.rows).items())[-1]
                print_table(key, group, console)
                progress.advance(task)
    except KeyboardInterrupt:
        console.print("stopped; what was measured is kept")
    if not rows.rows:
        return 1
    console.print(f"rows: {out}")
    for picture in plot(rows.rows, out.with_suffix("")):
        console.print(f"plot: {picture}")
    return 0


def measure_group(
    case: Case, mode: str, dtype: str, options: argparse.Namespace, device: torch.device, rows: Rows
) -> None:
    """All providers on one case: errors, then times taken in turns, then memory; one row each."""
    inputs = case.inputs(options.sharpness, DTYPES[dtype], device)
    floor = floor_milliseconds(case, mode, calibrate(device, DTYPES[dtype]))
    truth = true_result(case, inputs, mode)
    found = providers(device)
    status = {p.name: p.unavailable or "ok" for p in found}
    errors: dict[str, float | None] = {}
    calls = {}
    for provider in found:
        if status[provider.name] != "ok":
            continue
        if previous := slower_than(options.patience, provider, case, mode, dtype, rows):
            status[provider.name] = previous
            continue
        try:
            call = step(provider, inputs, mode)
            errors[provider.name] = check(call, truth)
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
        except Exception as error:  # a rival that cannot run is listed with its reason
            status[provider.name] = reason(error)
            continue
        if seconds > options.patience:
            status[provider.name] = f"too slow: {seconds:.1f} s a call"
        else:
            calls[provider.name] = call
    times = interleaved(calls, options.seconds, device)

    yardstick = errors.get("eager")
    for provider in found:
        values = {"status": status[provider.name], "error": errors.get(provider.name), "within": True}
        if values["error"] is not None and yardstick is not None:
            rounding = torch.finfo(DTYPES[dtype]).eps
            values["within"] = values["error"] <= ERROR_FACTOR * yardstick + rounding
        if provider.name in times:
            values |= times[provider.name]._asdict()
            if options.memory:
                arguments = (provider.name, case, mode, dtype, device)
                values["memory"] = peak_memory(Path(__file__), *arguments)
        rows.add(
            **{"case" if k == "name" else k: v for k, v in case._asdict().items()},
            mode=mode,
            dtype=dtype,
            precision=options.precision,
            sharpness=options.sharpness,
            provider=provider.name,
            ours=provider.ours,
            floor=floor,
            **values,
        )


def slower_than(
    patience: float, provider: Provider, case: Case, mode: str, dtype: str, rows: Rows
) -> str | None:
    """Why a provider need not be tried: at a smaller N of the sweep it was too slow or out of memory."""
    for row in rows.rows:
        same = (row["case"], row["mode"], row["dtype"]) == (case.name, mode, dtype)
        if same and row["provider"] == provider.name and row["nodes"] < case.nodes:
            if row["status"].startswith(("too slow", "out of memory")):
                return row["status"].split(" at N")[0] + f" at N = {row['nodes']}"
            growth = (case.nodes / row["nodes"]) ** 2
            if row.get("median", 0) * growth > 2e3 * patience:
                return f"too slow: about {1e-3 * row['median'] * growth:.0f} s a call"
    return None


def reason(error: Exception) -> str:
    """One line about a provider that failed."""
    if "No available kernel" in str(error):
        return "cannot run: refuses this input"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "out of memory"
    return f"cannot run: {text[:90]}"


def measure_memory(name: str, case: str, mode: str, dtype: str, device_name: str) -> int:
    """In a process of its own: print the MiB that one call of a provider needs above its inputs."""
    device = torch.device(device_name)
    chosen = next(p for p in providers(device) if p.name == name)
    full = Case(*json.loads(case))
    small = full._replace(batch=1, nodes=min(full.nodes, 256), walks=1)
    # The libraries' own buffers are not the provider's.
    step(chosen, small.inputs("flat", DTYPES[dtype], device), mode)()
    call = step(chosen, full.inputs("flat", DTYPES[dtype], device), mode)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        print((torch.cuda.max_memory_allocated(device) - before) / 2**20)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark anew
        before = _resident("VmRSS")
        call()
        print((_resident("VmHWM") - before) / 2**10)
    return 0


def _resident(field: str) -> int:
    """KiB resident: now (VmRSS), or at most since the mark was set (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    sys.exit(main())
