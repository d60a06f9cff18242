"""Compare the operator with every other way to compute it.

    python benchmarks/bench_rw.py                                    # the paper's two cases and the sweep
    python benchmarks/bench_rw.py --cases sweep                      # one walk at growing N
    python benchmarks/bench_rw.py --cases context camvid --dtypes bfloat16 float16
    python benchmarks/bench_rw.py --cases native-walk --isas all     # one walk, every instruction set
    python benchmarks/bench_rw.py --cases native-speed               # beside the kernels of an earlier commit

Every provider computes the whole cascade from the same inputs. Its results are compared with float64 before
it is timed. An error over the budget of difnet_kernels.testing is shown in red, and the provider is then
neither given a speed-up nor counted as a rival. The repetitions of all providers are interleaved. The rows of
a table are written as soon as it is complete, the plots at the end. Ctrl-C keeps what has been measured.

Columns: the median and the quartiles in ms, and the number of repetitions (one where a call is long); the
best rival's median over ours (in brackets the smallest and the largest ratio of opposite quartiles); the
floor (benchmarks/harness/floor.py) as a share of the median; the error of the output, and that of the
gradient that takes the largest share of its budget; the peak memory above the inputs. On a GPU also the
median of a CUDA graph's replay.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from harness.builds import BASELINE
from harness.cases import DEFAULT, FORWARD, MODES, NAMES, SPEED, SWEEP, cases_of
from harness.compare import DTYPES, Workload, compare
from harness.providers import (
    cpu_multiplies_bfloat16,
    in_native_speed,
    list_providers,
    precisions_that_differ,
)
from harness.rows import Rows
from harness.runner import Measurement, parse_run, run_plan
from reporting.plots import plot_operator
from reporting.report import group_rows, print_group

from difnet_kernels.testing import SHARPNESS

PRECISIONS = ("highest", "high", "medium")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=NAMES, default=DEFAULT)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=None, help="default: those of the case")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=DTYPES,
        default=None,
        help="default: all on a GPU; on a CPU float32, and bfloat16 outside the sweep if the CPU multiplies "
        "bfloat16",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=None,
        help="of float32 products; default: highest, and those that change eager's results on this machine "
        "(on a CPU only in the forward, outside the sweep)",
    )
    parser.add_argument(
        "--sharpness", choices=SHARPNESS, default=None, help="of the features; default: that of the case"
    )
    parser.add_argument(
        "--isas", nargs="+", default=["best"], help="instruction sets of native: best, all, or names"
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        default=None,
        help="default: PyTorch's number; native-speed: 1 and 2",
    )
    parser.add_argument(
        "--before",
        metavar="COMMIT",
        default=None,
        help=f"also measure `native` of an earlier commit; default of native-speed: {BASELINE}",
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time for the repetitions of each table")
    parser.add_argument("--patience", type=float, default=12.0, help="longest call that is tried, in seconds")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="PROVIDER", help="names of providers to leave out"
    )
    options = parse_run("rw", parser, arguments)
    if SPEED in options.cases:
        options.before = options.before or BASELINE
    return options


def list_workloads(options: argparse.Namespace, device: torch.device) -> list[Workload]:
    """The workloads that the options ask for, in order."""
    on_gpu = device.type != "cpu"
    differing = ["highest", *precisions_that_differ(device, PRECISIONS)]

    def dtypes(name: str) -> list[str]:
        if on_gpu:
            return options.dtypes or list(DTYPES)
        # On a CPU without such instructions, PyTorch's bfloat16 products take a minute.
        both = name not in (SWEEP, SPEED) and cpu_multiplies_bfloat16()
        return options.dtypes or (["float32", "bfloat16"] if both else ["float32"])

    def precisions(name: str, mode: str, dtype: str) -> list[str]:
        if dtype != "float32":
            return ["highest"]
        every = on_gpu or (name not in (SWEEP, SPEED) and mode == FORWARD)
        return options.precisions or (differing if every else differing[:1])

    def threads(name: str) -> list[int]:
        few = sorted({1, min(2, torch.get_num_threads())})
        return options.threads or (few if name == SPEED else [torch.get_num_threads()])

    return [
        Workload(case, mode, dtype, precision, options.sharpness or case.sharpness, count)
        for name in options.cases
        for count in threads(name)
        for case in cases_of(name, device)
        for mode in options.modes or case.modes
        for dtype in dtypes(name)
        for precision in precisions(name, mode, dtype)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = torch.device(options.device)

    def make_plan() -> list[Measurement]:
        providers = list_providers(device, options.isas, options.before)
        if unknown := set(options.without) - {provider.name for provider in providers}:
            names = ", ".join(repr(provider.name) for provider in providers)
            raise SystemExit(f"--without {', '.join(sorted(unknown))}: no such provider; there are {names}")

        def measurement(workload: Workload) -> Measurement:
            def measure(rows: Rows) -> None:
                measured = [p for p in providers if workload.case.name != SPEED or in_native_speed(p)]
                compare(workload, measured, options, device, rows)
                print_group(list(group_rows(rows.rows).values())[-1])

            case = workload.case
            title = f"{case.name}, N = {case.nodes:,}, {workload.mode}, {workload.dtype}"
            return Measurement(title, measure)

        return [measurement(workload) for workload in list_workloads(options, device)]

    return run_plan(options, make_plan, plot_operator)


if __name__ == "__main__":
    sys.exit(main())
