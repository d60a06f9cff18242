"""Time tiles on the current GPU and write the best into the tile table, with the device and the date.

    python tools/tune_tiles.py                        # the widths of the network, every dtype
    python tools/tune_tiles.py --dtypes 16 --dry-run

Candidates are those of the static report that compile for this GPU without spills. The best of its ranking
are timed, forward and backward, at a batch that fills the GPU. A row changes only if another tile is more
than 2 % faster than the one in the table. A tile whose output or gradients are outside the error budget
(difnet_kernels.testing) is dropped; the table's own tile must be within it too. The table is written after
every row, so that an interrupted run keeps its results. After --minutes no further candidate is started.
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
from difnet_kernels.triton import layout, tiles
from difnet_kernels.triton.tiles import Key, Tile

# torch.set_float32_matmul_precision by dtype class
PRECISION = {"16": "highest", "tf32": "medium", "tf32x3": "high", "fp32": "highest"}


def shortlist(
    kernel: str, dtype: str, d: int, k: int, architecture: str, length: int, deadline: float
) -> list[Tile]:
    """The table's tile, and the best others of the static report that compile before the deadline.

    In the interpreter, which has no static report, the others are the first candidates.
    """
    present = tiles.choose(kernel, dtype, d, k, architecture)
    if architecture == "interpreter":
        return [present, *CANDIDATES[: length - 1]]
    from ahead_of_time import SHARED_MEMORY, compile_sweep

    torch_dtype, precision, _ = DTYPES[dtype]
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
            x = cost(kernel, c, tile, d, k, dtype)
            ranked.append((x.bound, sum(x[:5]), tile._replace(resident=x.resident)))
    return [present, *(tile for *_, tile in sorted(ranked)[:length] if tile[:4] != present[:4])]


@contextmanager
def replaced(name: str, tile: Tile) -> Iterator[None]:
    """Use this tile for the kernel of this name, instead of the table's."""

    def choose(kernel: str, dtype: str, d: int, k: int, architecture: str) -> Tile:
        return tile if kernel == name else choose_from_table(kernel, dtype, d, k, architecture)

    choose_from_table, tiles.choose = tiles.choose, choose
    try:
        yield
    finally:
        tiles.choose = choose_from_table


def errors_over_budget(kernel: str, tile: Tile, inputs: Inputs) -> list[str]:
    """The output and the gradients that are outside the error budget with this tile."""
    with replaced(kernel, tile):
        errors = measure_errors(inputs, inputs.features[0].dtype, "triton", torch.float32)
    return [f"{e.name} is {e.ours:.1e} off where {e.allowed:.1e} is allowed" for e in errors if not e.within]


def time_tile(kernel: str, tile: Tile, inputs: Inputs, device: torch.device, seconds: float) -> float:
    """Milliseconds of the forward, or of forward and backward, with this tile for one kernel."""
    features, seed, mu, beta, *_ = inputs

    def forward() -> torch.Tensor:
        y = cascaded_random_walk(features, seed, mu, beta, backend="triton")
        assert isinstance(y, torch.Tensor)
        return y

    def forward_only() -> object:
        with torch.no_grad():
            return forward()

    def forward_and_backward() -> object:
        y = forward()
        return torch.autograd.grad(y, [*features, seed, mu, beta], torch.ones_like(y))

    function = forward_only if kernel == "walk_forward" else forward_and_backward
    with replaced(kernel, tile):
        call = capture_graph(function, device) or function
        return time_interleaved({"tile": call}, seconds, device)["tile"].median


def time_tiles(
    kernel: str, candidates: list[Tile], inputs: Inputs, device: torch.device, seconds: float, deadline: float
) -> dict[Tile, float]:
    """Milliseconds of the candidates within the error budget. The first is timed even after the deadline."""
    times: dict[Tile, float] = {}
    for tile in candidates:
        if tile != candidates[0] and time.monotonic() > deadline:
            print(f"  {tile} is left out, because --minutes are over")
            continue
        try:
            over_budget = errors_over_budget(kernel, tile, inputs)
            if over_budget:
                print(f"  {tile} is dropped: {'; '.join(over_budget)}", flush=True)
                continue
            times[tile] = time_tile(kernel, tile, inputs, device, seconds)
        except Exception as error:
            print(f"  {tile} fails: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
            continue
        print(f"  {tuple(tile)}: {times[tile]:.4f} ms", flush=True)
    return times


def write(changes: dict[Key, Tile], note: str) -> None:
    """Replace the rows of these keys in the table, all or none.

    The first row of an aliased architecture is written below the row that has served it so far.
    """
    path = Path(tiles.__file__)
    text = path.read_text()
    for key, tile in changes.items():
        new = f"{_row_of(key)}Tile({', '.join(map(str, tile))}),  # {note}"
        present = re.findall(rf"^{re.escape(_row_of(key))}.*\n", text, flags=re.MULTILINE)
        alias = tiles.alias(key)
        if not present and alias != key:
            present = re.findall(rf"^{re.escape(_row_of(alias))}.*\n", text, flags=re.MULTILINE)
            new = f"{''.join(present)}{new}"
        if len(present) != 1:
            raise SystemExit(
                f"{path}: expected one row {_row_of(key).strip()} found {len(present)}; add it first"
            )
        text = text.replace(present[0], f"{new}\n")
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".py", delete=False) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def _row_of(key: Key) -> str:
    """The beginning of a key's row in the source of the table."""
    kernel, dtype, d, k, architecture = key
    return f'    ("{kernel}", "{dtype}", {d}, {k}, "{architecture}"): '


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=PRECISION, default=list(PRECISION))
    parser.add_argument("--kernels", nargs="+", default=["walk_forward", "walk_backward"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=1681)
    parser.add_argument("--length", type=int, default=4, help="candidates to time beside the table's")
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no candidate after these")
    parser.add_argument("--dry-run", action="store_true", help="do not write the table")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = layout.architecture_of(device)
    if architecture not in (*tiles.ARCHITECTURES, "interpreter"):
        raise SystemExit(f"{architecture} has no rows in {tiles.__file__}; add them first")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "interpreter"
    case = Case("tuning", options.batch, options.nodes, 1, 21)
    deadline = time.monotonic() + 60 * options.minutes
    left_out = []
    for dtype in options.dtypes:
        torch.set_float32_matmul_precision(PRECISION[dtype])
        inputs = case.make_inputs("pooled", DTYPES[dtype][0], device)
        for tensor in (*inputs.features, *inputs[1:4]):
            tensor.requires_grad_()
        at = layout.layout_of(inputs.features[0], case.classes, False, PRECISION[dtype])
        for kernel in options.kernels:
            if time.monotonic() > deadline:
                left_out.append(f"{kernel} {dtype}")
                continue
            present, *others = shortlist(kernel, at.dtype, at.d, at.k, architecture, options.length, deadline)
            print(f"{kernel} {dtype} {at.d} {at.k}")
            times = time_tiles(kernel, [present, *others], inputs, device, options.seconds, deadline)
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
