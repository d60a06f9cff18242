"""Static report of the Triton sweeps: compile them for every GPU without having one, and predict their cost.

    python tools/aot_report.py                          # every entry of the tile table
    python tools/aot_report.py --architectures sm_90    # the entries of one architecture
    python tools/aot_report.py --candidates             # rank tiles that could be entries

Registers, spills and shared memory are those of the compiled object. Instructions are counted in the loop
over tiles of its disassembly. The prediction is a bound, not a measurement: clocks per pair of nodes of the
busiest of these units of a multiprocessor:

    matrix     multiply-adds of the tile, padding included
    exp        exponentials
    issue      all instructions of the loop
    L2         bytes of the column tiles, which every row block reads again

The column "turn" is a fifth bound: matrix products and exponentials one after the other, divided by the
number of resident warp groups, because the two overlap only between warp groups. "/ floor" is the ratio of
the bound to the matrix products and exponentials that no kernel can avoid, and "reason" says why it is above
1. For sm_90, predicted milliseconds of three cases follow. The exit status is 1 if an entry does not fit into
shared memory, spills, or states a wrong number of resident programs. The report ends at an entry that does
not compile.
"""

import argparse
import sys
from typing import NamedTuple

import torch
from ahead_of_time import SHARED_MEMORY, Compiled, compile_sweep

from difnet_kernels.triton import tiles
from difnet_kernels.triton.tiles import Tile


class Rates(NamedTuple):
    """Rates of one multiprocessor per clock, from data sheets; for sm_90 the matrix rate with random data."""

    matrix: float  # 16-bit multiply-adds
    l2: float  # bytes; assumed
    registers: int = 65536
    lanes: int = 32  # threads of a warp


RATES = {
    "sm_80": Rates(1024, 32),
    "sm_86": Rates(512, 32),
    "sm_89": Rates(512, 32),
    "sm_90": Rates(1500, 21),  # 785 TFLOP/s and 5.5 TB/s over 132 multiprocessors at 1.98 GHz
    "sm_100": Rates(4096, 32),
    "gfx942": Rates(1024, 32, 131072, 64),
}
EXPONENTIALS, SLOTS = 16, 128  # exponentials and issue slots per clock, on all of these architectures
MULTIPROCESSORS, CLOCK = 132, 1.98e9  # of an H100 or H200

# Batch, nodes, walks: inference on 512 x 512 pixels, training on crops, diffusion at full resolution.
CASES = {"inference": (1, 4096, 5), "training": (16, 1681, 5), "full resolution": (1, 255_025, 1)}


class Arithmetic(NamedTuple):
    """Features and matrix products of one dtype class of the tile table."""

    dtype: torch.dtype
    precision: str  # input_precision of the products
    factor: int  # cost of a multiply-add relative to 16-bit operands; 0 if matrix units do not compute it


DTYPES = {
    "16": Arithmetic(torch.bfloat16, "ieee", 1),
    "tf32": Arithmetic(torch.float32, "tf32", 2),
    "tf32x3": Arithmetic(torch.float32, "tf32x3", 6),
    "fp32": Arithmetic(torch.float32, "ieee", 0),
    "fp64": Arithmetic(torch.float64, "ieee", 0),
}

CANDIDATES = [
    Tile(i, j, warps, stages, 1)
    for i, j, warps in (
        (16, 32, 4), (32, 32, 4), (32, 32, 8), (64, 32, 4), (64, 32, 8), (64, 64, 4),
        (64, 64, 8), (128, 32, 8), (128, 64, 8), (128, 128, 8),
    )
    for stages in (2, 3)
]  # fmt: skip


class Cost(NamedTuple):
    """Clocks of one multiprocessor per pair of nodes."""

    matrix: float
    exp: float
    issue: float
    l2: float
    in_turn: float  # matrix products and exponentials one after the other
    floor: float  # what no kernel can avoid
    resident: int  # programs per multiprocessor

    @property
    def bound(self) -> float:
        """Clocks of the busiest unit."""
        return max(self[:5])

    @property
    def busiest(self) -> str:
        """Name of the busiest unit."""
        return max(("matrix", "exp", "issue", "l2", "in_turn"), key=lambda name: getattr(self, name))


def cost(kernel: str, c: Compiled, tile: Tile, d: int, k: int, dtype: str) -> Cost:
    """The cost of one compiled sweep at padded widths d and k, all columns in use."""
    rates = RATES[c.architecture]
    factor = DTYPES[dtype].factor
    if dtype == "fp32" and c.architecture.startswith("gfx"):
        factor = 8  # AMD has matrix units for float32
    forward = kernel == "walk_forward"
    exponentials = 1 if forward else 2
    pairs = tile.block_i * tile.block_j
    per_warp = tile.num_warps * rates.lanes / pairs
    # The compiler may unroll the loop over several tiles.
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
    # The result needs one exponential per pair, in the forward and in the backward.
    products = d + k if forward else 2 * d + 3 * k - 16
    floor = max(factor * products / rates.matrix if factor else products / SLOTS, 1 / EXPONENTIALS)
    return Cost(matrix, exp, issue, l2, (matrix + max(exp, issue)) / groups, floor, max(1, resident))


def reason(kernel: str, c: Compiled, tile: Tile, d: int, k: int, x: Cost) -> str:
    """Why the bound is above the floor, from the instructions of the compiled loop."""
    if x.bound < 1.005 * x.floor:
        return ""
    if x.busiest == "matrix":
        return f"three products padded to {k} columns" if kernel == "walk_backward" else "padding"
    if x.busiest == "l2":
        return (
            f"column tiles read again every {tile.block_i} rows, {c.registers} registers a thread; "
            f"without it {max(x[:3]) / x.floor:.2f}x"
        )
    if x.busiest == "issue":
        share = x.issue * SLOTS / max(1, c.total)
        counts = {
            "FMA": share * c.count("FFMA", "v_fma", "v_pk_fma"),
            "LDS": share * c.count("LDS", "ds_read"),
            "MMA": share * c.matrix,
        }
        rest = x.issue * SLOTS - sum(counts.values())
        return ", ".join(f"{v:.1f} {n}" for n, v in counts.items() if v) + f", {rest:.1f} others a pair"
    if x.busiest == "exp":
        return "two exponentials a pair" if kernel == "walk_backward" else "padding"
    return f"{x.resident * tile.num_warps // 4} warp groups to overlap"


HEADER = (
    f"{'kernel':14}{'dtype':7}{'D':>4}{'K':>4}  {'arch':7}{'tile':>15}{'regs':>6}{'spill':>6}"
    f"{'shared':>8}{'res':>4}{'mma':>5}{'ex2':>5}{'instr/pair':>11}  "
    f"{'matrix':>7}{'exp':>7}{'issue':>7}{'L2':>7}{'turn':>7}   {'bound':8}{'/ floor':>8}  reason"
)


def row(kernel: str, dtype: str, d: int, k: int, tile: Tile, c: Compiled, x: Cost) -> str:
    """One line of the report."""
    shape = f"{tile.block_i}x{tile.block_j}/{tile.num_warps}w{tile.num_stages}s"
    unit = [f"{1000 * v:7.1f}" for v in x[:5]]
    return (
        f"{kernel:14}{dtype:7}{d:4}{k:4}  {c.architecture:7}{shape:>15}{c.registers:6}{c.spills:6}"
        f"{c.shared:8}{x.resident:4}{c.matrix:5}{c.exponentials:5}{x.issue * SLOTS:11.2f}  {''.join(unit)}   "
        f"{x.busiest:8}{x.bound / x.floor:7.2f}x  {reason(kernel, c, tile, d, k, x)}"
    ).rstrip()


def faults_of(dtype: str, tile: Tile, c: Compiled, x: Cost) -> list[str]:
    """The faults of an entry of the table."""
    faults = []
    if c.shared > SHARED_MEMORY[c.architecture]:
        faults.append("does not fit into shared memory")
    if dtype != "fp64":  # its speed is not optimised
        faults += ["spills"] * bool(c.spills)
        faults += [f"{x.resident} resident, not {tile.resident}"] * (x.resident != tile.resident)
    return faults


def report(architectures: list[str]) -> int:
    """Print a line for every entry; returns the number of entries with faults."""
    print("Clocks of one multiprocessor per 1000 pairs of nodes, predicted; nothing here was run on a GPU.")
    print(HEADER)
    faulty = 0
    network = {}
    for architecture in architectures:
        for (kernel, dtype, d, k, _), tile in tiles.entries(architecture).items():
            torch_dtype, precision, _ = DTYPES[dtype]
            c = compile_sweep(kernel, torch_dtype, d, k, architecture, tile, precision=precision)
            x = cost(kernel, c, tile, d, k, dtype)
            faults = faults_of(dtype, tile, c, x)
            faulty += bool(faults)
            line = row(kernel, dtype, d, k, tile, c, x)
            print(line, *(f"FAULT: {fault}" for fault in faults), flush=True)
            if architecture == "sm_90" and (d, k) == (64, 32) and dtype != "fp64":
                network[dtype, kernel] = tile, x
    if network:
        predict(network)
    return faulty


def predict(network: dict[tuple[str, str], tuple[Tile, Cost]]) -> None:
    """Print predicted milliseconds of the sweeps for `CASES`, d = 64 and k = 21."""
    print(
        "\nPredicted, not measured: milliseconds of the sweeps for d = 64 and k = 21 on sm_90 with "
        f"{MULTIPROCESSORS} multiprocessors\nat {CLOCK / 1e9} GHz: the floor, the bound, and the bound with "
        "nodes padded to whole blocks and programs to whole rounds (filled).\nPacking, combining and "
        "launches are left out."
    )
    print(f"{'case':18}{'B':>3}{'N':>8}{'T':>3}  {'kernel':14}{'dtype':8}{'floor':>9}{'bound':>9}"
          f"{'filled':>9}{'programs':>10}{'splits':>7}")  # fmt: skip
    for case, (batch, nodes, walks) in CASES.items():
        for (dtype, kernel), (tile, x) in network.items():
            ms = 1000 * walks / CLOCK
            size = -(-nodes // 128) * 128
            programs, count = batch * -(-nodes // tile.block_i), size // tile.block_j
            slots = tile.resident * MULTIPROCESSORS
            splits = tiles.splits(programs, count, slots)
            rounds = -(-programs * splits // slots)
            # Clocks of one multiprocessor if it has all of its resident programs in every round.
            filled = rounds * tile.resident * -(-count // splits) * tile.block_i * tile.block_j * x.bound
            pairs = batch * nodes**2 / MULTIPROCESSORS
            print(f"{case:18}{batch:3}{nodes:8}{walks:3}  {kernel:14}{dtype:8}"
                  f"{ms * pairs * x.floor:9.3f}{ms * pairs * x.bound:9.3f}"
                  f"{ms * filled:9.3f}{programs:10}{splits:7}")  # fmt: skip


def candidates_of(dtype: str) -> list[Tile]:
    """The candidates of a dtype class.

    Without matrix units, Triton unrolls products into multiply-adds. With more than 16 pairs a thread, ptxas
    takes ten minutes to compile them, and registers spill.
    """
    if DTYPES[dtype].factor:
        return CANDIDATES
    return [tile for tile in CANDIDATES if tile.block_i * tile.block_j <= 16 * 32 * tile.num_warps]


def rank(architectures: list[str], dtypes: list[str], kernels: list[str], stages: list[int]) -> None:
    """Print the four best candidates for every key of the table, the best first."""
    print("Clocks of one multiprocessor per 1000 pairs of nodes, predicted; nothing here was run on a GPU.")
    print(HEADER)
    for architecture in architectures:
        keys = [key[:4] for key in tiles.entries(architecture) if key[1] in dtypes and key[0] in kernels]
        for kernel, dtype, d, k in keys:
            torch_dtype, precision, _ = DTYPES[dtype]
            rows = []
            candidates = [tile for tile in candidates_of(dtype) if tile.num_stages in stages]
            for tile in candidates:
                try:
                    c = compile_sweep(kernel, torch_dtype, d, k, architecture, tile, precision=precision)
                except Exception as error:
                    print(f"{tile}: {str(error).splitlines()[0][:80]}", file=sys.stderr)
                    continue
                if c.spills or c.shared > SHARED_MEMORY[architecture]:
                    continue
                x = cost(kernel, c, tile, d, k, dtype)
                rows.append((round(x.bound, 4), sum(x[:5]), row(kernel, dtype, d, k, tile, c, x)))
            print("\n".join(line for *_, line in sorted(rows)[:4]))
            dropped = len(candidates) - len(rows)
            print(
                f"{'':14}{len(candidates)} candidates, {dropped} spill, do not fit or do not compile",
                flush=True,
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--architectures", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--kernels", nargs="+", default=["walk_forward", "walk_backward"])
    parser.add_argument("--stages", nargs="+", type=int, default=[2, 3])
    options = parser.parse_args()
    if options.candidates:
        rank(options.architectures, options.dtypes, options.kernels, options.stages)
        return 0
    return min(1, report(options.architectures))


if __name__ == "__main__":
    sys.exit(main())
