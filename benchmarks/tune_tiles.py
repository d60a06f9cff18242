"""Measure tiles on the GPU at hand and write the best into the tile table, with the device and the date.

    python benchmarks/tune_tiles.py                        # the widths of the network, every dtype
    python benchmarks/tune_tiles.py --dtypes 16 --dry-run

Candidates are those of the static report that compile for this GPU without spills; the best of its ranking
are timed, forward and backward, at a batch that fills the GPU. An entry changes only where another tile is
more than 2 % faster than the one in the table; results outside the table's own error budget do not count.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import torch
from aot_report import CANDIDATES, DTYPES, cost
from cases import Case
from measure import graphed, interleaved

from difnet_kernels import cascaded_random_walk
from difnet_kernels.triton import launch, tiles
from difnet_kernels.triton.tiles import Tile

PRECISION = {"16": "highest", "tf32": "medium", "tf32x3": "high", "fp32": "highest"}


def shortlist(kernel: str, dtype: str, d: int, k: int, architecture: str, length: int) -> list[Tile]:
    """The table's tile and the best others by the static report; without it (interpreter), the first few."""
    present = tiles.choose(kernel, dtype, d, k, architecture)
    if architecture == "interpreter":
        return [present, *CANDIDATES[: length - 1]]
    from difnet_kernels.triton.ahead_of_time import SHARED_MEMORY, compile_sweep

    torch_dtype, precision, factor = DTYPES[dtype]
    ranked = []
    for tile in CANDIDATES:
        try:
            c = compile_sweep(kernel, torch_dtype, d, k, architecture, tile, precision=precision)
        except Exception as error:
            print(f"  {tile} does not compile: {str(error).splitlines()[0][:80]}")
            continue
        if not c.spills and c.shared <= SHARED_MEMORY[architecture]:
            x = cost(kernel, c, tile, d, k, dtype, factor)
            ranked.append((x.bound, sum(x[:5]), tile._replace(resident=x.resident)))
    return [present, *(tile for *_, tile in sorted(ranked)[:length] if tile[:4] != present[:4])]


def time_tile(kernel: str, tile: Tile, inputs: tuple, device: torch.device, seconds: float) -> float:
    """Milliseconds of the forward, or of forward and backward, with one kernel's tile replaced."""
    chosen = tiles.choose

    def choose(name: str, *key: object) -> Tile:
        return tile if name == kernel else chosen(name, *key)

    arguments = inputs[:4]  # features, seed, mu, beta
    tensors = [*inputs.features, *inputs[1:4]]

    def forward() -> object:
        with torch.no_grad():
            return cascaded_random_walk(*arguments, backend="triton")

    def both() -> object:
        y = cascaded_random_walk(*arguments, backend="triton")
        return torch.autograd.grad(y, tensors, torch.ones_like(y))

    tiles.choose = choose
    try:
        function = forward if kernel == "walk_forward" else both
        return interleaved({"tile": graphed(function, device)}, seconds, device)["tile"].median
    finally:
        tiles.choose = chosen


def write(key: tuple[str, str, int, int, str], tile: Tile, note: str) -> None:
    """Replace one line of the table."""
    path = Path(tiles.__file__)
    kernel, dtype, d, k, architecture = key
    prefix = f'    ("{kernel}", "{dtype}", {d}, {k}, "{architecture}"): '
    text, count = re.subn(
        rf"^{re.escape(prefix)}.*$",
        f"{prefix}Tile({', '.join(map(str, tile))}),  # {note}",
        path.read_text(),
        flags=re.M,
    )
    if count != 1:
        raise SystemExit(f"{path}: expected one line for {key}, found {count}; add it first")
    path.write_text(text)


def main() -> int:
    """Tune, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=PRECISION, default=list(PRECISION))
    parser.add_argument("--kernels", nargs="+", default=["walk_forward", "walk_backward"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=1681)
    parser.add_argument("--length", type=int, default=4, help="candidates to time beside the present one")
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--dry-run", action="store_true", help="do not write the table")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = launch.architecture_of(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "interpreter"
    case = Case("tuning", options.batch, options.nodes, 1, 21)
    for dtype in options.dtypes:
        torch.set_float32_matmul_precision(PRECISION[dtype])
        inputs = case.inputs("pooled", DTYPES[dtype][0], device)
        for tensor in (*inputs.features, *inputs[1:4]):
            tensor.requires_grad_()
        at = launch.layout_of(inputs.features[0], case.classes, False)
        for kernel in options.kernels:
            present, *others = shortlist(kernel, at.dtype, at.d, at.k, architecture, options.length)
            times = {}
            for tile in (present, *others):
                try:
                    times[tile] = time_tile(kernel, tile, inputs, device, options.seconds)
                except Exception as error:
                    print(f"  {tile}: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
                    continue
                print(f"  {kernel} {dtype} {at.d} {at.k} {tuple(tile)}: {times[tile]:.4f} ms", flush=True)
            if present not in times:
                return 1
            best = min(times, key=times.__getitem__)
            if times[best] < 0.98 * times[present]:
                print(f"{kernel} {dtype}: {tuple(present)} -> {tuple(best)}")
                if not options.dry_run and device.type == "cuda":
                    key = tiles.key(kernel, at.dtype, at.d, at.k, architecture)
                    write(key, best, f"{name}, {time.strftime('%Y-%m-%d')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
