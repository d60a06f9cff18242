"""Measure tiles on the GPU at hand and write the best into the tile table, with the device and the date.

    python tools/tune_tiles.py                        # the widths of the network, every dtype
    python tools/tune_tiles.py --dtypes 16 --dry-run

Candidates are those of the static report that compile for this GPU without spills; the best of its ranking
are timed, forward and backward, at a batch that fills the GPU. An entry changes only where another tile is
more than 2 % faster than the one in the table. A tile whose output or gradients are outside the error budget
(difnet_kernels.testing) is dropped; the table's own must hold it too. The table is written after every entry,
so that a run that is cut keeps what it found; after --minutes no other candidate is looked at.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from aot_report import CANDIDATES, DTYPES, cost
from harness.cases import Case
from machine.timing import capture_graph, time_interleaved

from difnet_kernels import cascaded_random_walk
from difnet_kernels.testing import Inputs, measure_errors
from difnet_kernels.triton import launch, tiles
from difnet_kernels.triton.tiles import Key, Tile

PRECISION = {"16": "highest", "tf32": "medium", "tf32x3": "high", "fp32": "highest"}


def shortlist(
    kernel: str, dtype: str, d: int, k: int, architecture: str, length: int, deadline: float
) -> list[Tile]:
    """The table's tile and the best others by the static report; without it (interpreter), the first few.

    Candidates that are not compiled before the deadline are left out.
    """
    present = tiles.choose(kernel, dtype, d, k, architecture)
    if architecture == "interpreter":
        return [present, *CANDIDATES[: length - 1]]
    from ahead_of_time import SHARED_MEMORY, compile_sweep

    torch_dtype, precision, factor = DTYPES[dtype]
    ranked = []
    for tile in CANDIDATES:
        if time.monotonic() > deadline:
            break
        try:
            c = compile_sweep(kernel, torch_dtype, d, k, architecture, tile, precision=precision)
        except Exception as error:
            print(f"  {tile} does not compile: {str(error).splitlines()[0][:80]}")
            continue
        if not c.spills and c.shared <= SHARED_MEMORY[architecture]:
            x = cost(kernel, c, tile, d, k, dtype, factor)
            ranked.append((x.bound, sum(x[:5]), tile._replace(resident=x.resident)))
    return [present, *(tile for *_, tile in sorted(ranked)[:length] if tile[:4] != present[:4])]


@contextmanager
def replaced(kernel: str, tile: Tile) -> Iterator[None]:
    """One kernel's tile in place of the table's."""
    chosen = tiles.choose

    def choose(name: str, *key: object) -> Tile:
        return tile if name == kernel else chosen(name, *key)

    tiles.choose = choose
    try:
        yield
    finally:
        tiles.choose = chosen


def faults(kernel: str, tile: Tile, inputs: Inputs) -> list[str]:
    """The output and the gradients that are outside the error budget with this tile."""
    with replaced(kernel, tile):
        errors = measure_errors(inputs, inputs.features[0].dtype, "triton", torch.float32)
    return [f"{e.name} is {e.ours:.1e} off where {e.allowed:.1e} is allowed" for e in errors if not e.within]


def time_tile(kernel: str, tile: Tile, inputs: Inputs, device: torch.device, seconds: float) -> float:
    """Milliseconds of the forward, or of forward and backward, with one kernel's tile replaced."""
    arguments = inputs[:4]  # features, seed, mu, beta
    tensors = [*inputs.features, *inputs[1:4]]

    def forward() -> object:
        with torch.no_grad():
            return cascaded_random_walk(*arguments, backend="triton")

    def both() -> object:
        y = cascaded_random_walk(*arguments, backend="triton")
        return torch.autograd.grad(y, tensors, torch.ones_like(y))

    with replaced(kernel, tile):
        function = forward if kernel == "walk_forward" else both
        call = capture_graph(function, device) or function
        return time_interleaved({"tile": call}, seconds, device)["tile"].median


def write(changes: dict[Key, Tile], note: str) -> None:
    """Replace the lines of these keys, all or none."""
    path = Path(tiles.__file__)
    text = path.read_text()
    for (kernel, dtype, d, k, architecture), tile in changes.items():
        prefix = f'    ("{kernel}", "{dtype}", {d}, {k}, "{architecture}"): '
        line = f"{prefix}Tile({', '.join(map(str, tile))}),  # {note}"
        text, count = re.subn(rf"^{re.escape(prefix)}.*$", lambda _, line=line: line, text, flags=re.M)
        if count != 1:
            raise SystemExit(f"{path}: expected one line for {prefix.strip()} found {count}; add it first")
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".py", delete=False) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def main() -> int:
    """Tune, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=PRECISION, default=list(PRECISION))
    parser.add_argument("--kernels", nargs="+", default=["walk_forward", "walk_backward"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=1681)
    parser.add_argument("--length", type=int, default=4, help="candidates to time beside the present one")
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no candidate is begun after")
    parser.add_argument("--dry-run", action="store_true", help="do not write the table")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = launch.architecture_of(device)
    if architecture not in (*tiles.ARCHITECTURES, "interpreter"):
        raise SystemExit(f"{architecture} has no entries in {tiles.__file__}; add them first")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "interpreter"
    case = Case("tuning", options.batch, options.nodes, 1, 21)
    deadline = time.monotonic() + 60 * options.minutes
    left_out = []
    for dtype in options.dtypes:
        torch.set_float32_matmul_precision(PRECISION[dtype])
        inputs = case.make_inputs("pooled", DTYPES[dtype][0], device)
        for tensor in (*inputs.features, *inputs[1:4]):
            tensor.requires_grad_()
        at = launch.layout_of(inputs.features[0], case.classes, False)
        for kernel in options.kernels:
            if time.monotonic() > deadline:
                left_out.append(f"{kernel} {dtype}")
                continue
            present, *others = shortlist(kernel, at.dtype, at.d, at.k, architecture, options.length, deadline)
            times = {}
            for tile in (present, *others):
                if tile != present and time.monotonic() > deadline:
                    print(f"  {tile} is left out after --minutes {options.minutes:g}")
                    continue
                try:
                    wrong = faults(kernel, tile, inputs)
                    if wrong:
                        print(f"  {tile} is dropped: {'; '.join(wrong)}", flush=True)
                        continue
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
                if not options.dry_run and architecture != "interpreter":
                    key = tiles.key(kernel, at.dtype, at.d, at.k, architecture)
                    write({key: best}, f"{name}, {time.strftime('%Y-%m-%d')}")
    if left_out:
        print(f"left out after --minutes {options.minutes:g}: {', '.join(left_out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
