"""What the compiler makes of the fused kernels, for GPUs that are not there, and what that should cost.

    python benchmarks/aot_report.py                          # every entry of the tile table, every
    architecture python benchmarks/aot_report.py --architectures sm_90    # of one
    python benchmarks/aot_report.py --candidates --architectures sm_90    # rank tiles that could be entries

Registers, spills and shared memory are those of the compiled object; instructions are counted in the loop
over tiles of its disassembly. The prediction is a bound, not a measurement: per pair of nodes, the time of
the busiest of four units of a multiprocessor,

    matrix     multiply-adds of the tile, padding included
    exp        exponentials
    issue      all instructions of the loop
    L2         bytes of the column tiles, which every row block reads again

or, where few warp groups are resident, their share of matrix and exp one after the other, as these overlap
only between warp groups. `/ floor` compares with the matrix products and exponentials that no kernel can
avoid. Ends with status 1 if an entry does not compile, does not fit, or spills.
"""

import argparse
import sys
from typing import NamedTuple

import torch

from difnet_kernels.triton import tiles
from difnet_kernels.triton.ahead_of_time import SHARED_MEMORY, Compiled, compile_sweep
from difnet_kernels.triton.tiles import Tile


class Rates(NamedTuple):
    """Of one multiprocessor, per clock; datasheets, except sm_90: matrix rate measured on random data."""

    matrix: float  # 16-bit multiply-adds
    l2: float  # bytes; assumed
    registers: int = 65536
    lanes: int = 32


RATES = {
    "sm_80": Rates(1024, 32),
    "sm_86": Rates(512, 32),
    "sm_89": Rates(512, 32),
    "sm_90": Rates(1500, 21),  # 785 TFLOP/s and 5.5 TB/s over 132 multiprocessors at 1.98 GHz
    "sm_100": Rates(4096, 32),
    "gfx942": Rates(1024, 32, 131072, 64),
}
EXPONENTIALS, SLOTS = 16, 128  # per clock, all of these architectures
CLOCKS_TO_PS = 1e12 / (132 * 1.98e9)  # of one multiprocessor to time of an H100 or H200

# Input precision of the matrix products and what they cost in multiply-adds of 16-bit operands.
DTYPES = {
    "16": (torch.bfloat16, (("ieee", 1),)),
    "tf32": (torch.float32, (("tf32", 2), ("tf32x3", 6))),
    "fp32": (torch.float32, (("ieee", 0),)),  # no matrix units: their work is in the instructions
    "fp64": (torch.float64, (("ieee", 0),)),
}

CANDIDATES = [
    Tile(i, j, warps, stages, 1)
    for i, j, warps in (
        (16, 32, 4), (32, 32, 4), (32, 32, 8), (64, 32, 4), (64, 32, 8), (64, 64, 4),
        (128, 32, 8), (128, 64, 8), (128, 128, 8),
    )
    for stages in (2, 3)
]  # fmt: skip


class Cost(NamedTuple):
    """Clocks of one multiprocessor per pair of nodes."""

    matrix: float
    exp: float
    issue: float
    l2: float
    in_turn: float
    floor: float
    resident: int  # programs per multiprocessor

    @property
    def bound(self) -> float:
        """The busiest unit's clocks."""
        return max(self[:5])

    @property
    def name(self) -> str:
        """The busiest unit."""
        return max(("matrix", "exp", "issue", "l2", "in_turn"), key=lambda name: getattr(self, name))


def cost(kernel: str, c: Compiled, tile: Tile, d: int, k: int, dtype: str, factor: int) -> Cost:
    """The bound for one compiled sweep, full at padded widths d and k."""
    rates = RATES[c.architecture]
    if dtype == "fp32" and c.architecture.startswith("gfx"):
        factor = 8  # there are matrix units for float32
    forward = kernel == "walk_forward"
    exponentials = 1 if forward else 2
    pairs = tile.block_i * tile.block_j
    per_warp = tile.num_warps * rates.lanes / pairs
    # A pipelined loop may hold several tiles.
    unroll = max(1, int(c.exponentials * per_warp / exponentials))
    matrix = factor * (d + k if forward else 2 * d + 3 * k) / rates.matrix
    exp = c.exponentials * per_warp / unroll / EXPONENTIALS
    issue = c.total * per_warp / unroll / SLOTS
    item = {"16": 2, "fp64": 8}.get(dtype, 4)
    l2 = (item * (d + k) if forward else item * (d + 2 * k) + 8) / tile.block_i / rates.l2
    used = -(-c.registers // 8) * 8 * rates.lanes * tile.num_warps
    resident = min(
        rates.registers // used, SHARED_MEMORY[c.architecture] // max(c.shared, 1), 64 // tile.num_warps
    )
    groups = max(1, resident * tile.num_warps // 4)
    # Exponentials that the result needs: one per pair, forward and backward.
    products = d + k if forward else 2 * d + 3 * k - 16
    floor = max(factor * products / rates.matrix if factor else products / SLOTS, 1 / EXPONENTIALS)
    return Cost(matrix, exp, issue, l2, (matrix + max(exp, issue)) / groups, floor, max(1, resident))


HEADER = (
    f"{'kernel':14}{'dtype':7}{'precision':10}{'D':>4}{'K':>4}  {'arch':7}{'tile':>15}{'regs':>6}{'spill':>6}"
    f"{'shared':>8}{'res':>4}{'mma':>5}{'ex2':>5}{'instr/pair':>11}  "
    f"{'matrix':>7}{'exp':>7}{'issue':>7}{'L2':>7}{'turn':>7}   {'bound':10}{'/ floor':>8}"
)


def row(kernel: str, dtype: str, precision: str, d: int, k: int, tile: Tile, c: Compiled, x: Cost) -> str:
    """One line of the table."""
    shape = f"{tile.block_i}x{tile.block_j}/{tile.num_warps}w{tile.num_stages}s"
    unit = [f"{1000 * v:7.1f}" for v in x[:5]]
    return (
        f"{kernel:14}{dtype:7}{precision:10}{d:4}{k:4}  {c.architecture:7}{shape:>15}{c.registers:6}"
        f"{c.spills:6}"
        f"{c.shared:8}{x.resident:4}{c.matrix:5}{c.exponentials:5}{x.issue * SLOTS:11.2f}  {''.join(unit)}   "
        f"{x.name:10}{x.bound / x.floor:7.2f}x"
    )


def report(architectures: list[str]) -> int:
    """Every entry; the number of those that break a rule."""
    print("Clocks of one multiprocessor per 1000 pairs of nodes, predicted; nothing here was run on a GPU.")
    print(HEADER)
    broken = 0
    for architecture in architectures:
        for (kernel, dtype, d, k, _), tile in tiles.entries(architecture).items():
            torch_dtype, precisions = DTYPES[dtype]
            for precision, factor in precisions:
                if architecture.startswith("gfx") and precision == "tf32x3":
                    continue
                c = compile_sweep(kernel, torch_dtype, d, k, architecture, tile, precision=precision)
                x = cost(kernel, c, tile, d, k, dtype, factor)
                faults = []
                if c.shared > SHARED_MEMORY[architecture]:
                    faults.append("does not fit")
                if c.spills and dtype != "fp64":  # whose speed does not matter
                    faults.append("spills")
                broken += bool(faults)
                print(row(kernel, dtype, precision, d, k, tile, c, x), " ".join(faults), flush=True)
    return broken


def rank(architectures: list[str], dtypes: list[str], kernels: list[str]) -> None:
    """The candidates for every key of the table, best first."""
    print(HEADER)
    for architecture in architectures:
        keys = [key[:4] for key in tiles.entries(architecture) if key[1] in dtypes and key[0] in kernels]
        for kernel, dtype, d, k in keys:
            torch_dtype, precisions = DTYPES[dtype]
            precision, factor = precisions[-1]
            if architecture.startswith("gfx"):
                precision, factor = precisions[0]
            rows = []
            for tile in CANDIDATES:
                try:
                    c = compile_sweep(kernel, torch_dtype, d, k, architecture, tile, precision=precision)
                except Exception as error:
                    print(f"{tile}: {str(error).splitlines()[0][:80]}", file=sys.stderr)
                    continue
                if c.spills or c.shared > SHARED_MEMORY[architecture]:
                    continue
                x = cost(kernel, c, tile, d, k, dtype, factor)
                rows.append((round(x.bound, 4), sum(x[:5]), row(kernel, dtype, precision, d, k, tile, c, x)))
            print("\n".join(line for *_, line in sorted(rows)[:4]), flush=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--architectures", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--kernels", nargs="+", default=["walk_forward", "walk_backward"])
    options = parser.parse_args()
    if options.candidates:
        rank(options.architectures, options.dtypes, options.kernels)
        return 0
    return min(1, report(options.architectures))


if __name__ == "__main__":
    sys.exit(main())
