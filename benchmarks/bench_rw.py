"""The operator against everything that could replace it.

    python benchmarks/bench_rw.py                                    # the paper's two cases and a sweep of N
    python benchmarks/bench_rw.py --cases context camvid --dtypes bfloat16 float16
    python benchmarks/bench_rw.py --cases native-walk --isas all     # one walk, every instruction set

Every provider computes the whole cascade from the same inputs. Before it is timed its results are compared
with the truth in float64; one over the error budget of difnet_kernels.testing is shown in red, and no
speed-up is claimed over it. Repetitions of all providers are interleaved. Rows go to a file table by table,
plots beside it at the end, and after Ctrl-C too.

Columns: median, quartiles in ms and number of repetitions (one where a call is long); the best rival's median
over ours (in brackets the same from opposite quartiles); the floor (benchmarks/machine/floor.py) as a share
of the median; the error of the output, and of the gradient that is furthest towards its budget; peak memory
above the inputs. On a GPU also the median of a CUDA graph's replay.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from harness.cases import DEFAULT, FORWARD, MODES, NAMES, cases
from harness.compare import DTYPES, Contest, hold
from harness.providers import multiplies_bfloat16, precisions_that_differ, providers
from harness.rows import Rows
from harness.runner import Part, carry_out, parse_run
from reporting.plots import plot
from reporting.report import groups, print_group

from difnet_kernels.testing import SHARPNESS

PRECISIONS = ("highest", "high", "medium")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=NAMES, default=DEFAULT)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=None, help="by default the case's own")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=DTYPES,
        default=None,
        help="all; on a CPU float32, and bfloat16 in the named cases where it multiplies such numbers",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=None,
        help="of float32 products; by default highest, and those with other results on this machine "
        "(on a CPU only for the forward of named cases)",
    )
    parser.add_argument("--sharpness", choices=SHARPNESS, default=None, help="by default the case's own")
    parser.add_argument("--isas", nargs="+", default=["best"], help="of native: best, all, or names")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each table")
    parser.add_argument("--patience", type=float, default=12.0, help="longest call worth timing, in s")
    parser.add_argument("--without", nargs="+", default=[], metavar="PROVIDER", help="names to leave out")
    return parse_run("rw", parser, arguments)


def plan(options: argparse.Namespace, device: torch.device) -> list[Contest]:
    """What is measured, in order."""
    on_gpu = device.type != "cpu"
    differing = ["highest", *precisions_that_differ(device, PRECISIONS)]

    def dtypes(name: str) -> list[str]:
        if on_gpu:
            return options.dtypes or list(DTYPES)
        # Elsewhere PyTorch's own products of bfloat16 take a minute.
        both = name != "sweep" and multiplies_bfloat16()
        return options.dtypes or (["float32", "bfloat16"] if both else ["float32"])

    def precisions(name: str, mode: str, dtype: str) -> list[str]:
        if dtype != "float32":
            return ["highest"]
        all_of_them = on_gpu or (name != "sweep" and mode == FORWARD)
        return options.precisions or (differing if all_of_them else differing[:1])

    return [
        Contest(case, mode, dtype, precision, options.sharpness or case.sharpness)
        for name in options.cases
        for case in cases(name, device)
        for mode in options.modes or case.modes
        for dtype in dtypes(name)
        for precision in precisions(name, mode, dtype)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    device = torch.device(options.device)

    def parts() -> list[Part]:
        found = providers(device, options.isas)
        if unknown := set(options.without) - {provider.name for provider in found}:
            names = ", ".join(repr(provider.name) for provider in found)
            raise SystemExit(f"--without {', '.join(sorted(unknown))}: no such provider; there are {names}")

        def part(contest: Contest) -> Part:
            def measure(rows: Rows) -> None:
                hold(contest, found, options, device, rows)
                print_group(list(groups(rows.rows).values())[-1])

            text = f"{contest.case.name}, N = {contest.case.nodes:,}, {contest.mode}, {contest.dtype}"
            return Part(text, measure)

        return [part(contest) for contest in plan(options, device)]

    return carry_out(options, parts, plot)


if __name__ == "__main__":
    sys.exit(main())
