"""Compare prediction in tiles with prediction of the whole image, and time one walk at growing N.

    python benchmarks/bench_tiles.py                                   # a drawn scene, 720 x 960 pixels
    python benchmarks/bench_tiles.py --checkpoint difnet-resnet10t-camvid --image photo.png
    python benchmarks/bench_tiles.py --overlaps --nodes 16384 65536 147456   # the walks only

The image is enlarged to --size. Every prediction runs in a process of its own. The side of a tile is --core
plus twice the overlap, so that neighbours begin about --core pixels apart with every overlap. Tiles at the
borders of the image keep more than --core pixels, because nothing is thrown away there, so larger overlaps
need fewer tiles. Columns: the tiles, the nodes, seconds from the uint8 image to its labels, peak memory above
image and network in MiB, the share of pixels whose label differs from that of the whole image, and the
largest difference of a logit at a node, also over the standard deviation of these logits. (The logits of
pixels are weighted means of those of nodes, so theirs differ no more.) If the whole image fails, the last
three are "-". A line says so if no overlap is as large as the reach of ResNets with ASPP: then no row shows
that tiles change nothing. An overlap of the reach needs an image of more than --core + 832 pixels to a side.

The time of a walk grows with the square of the nodes. The last lines extrapolate the longest one that was
timed to 1,562,500 nodes, those of 10,000 x 10,000 pixels at stride 8, and to 6,250,000, those at stride 4
(node_stride 4). Nothing of that size is run.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness.cases import Case
from machine.memory import Peak, peak_in_new_process
from torch import Tensor

from difnet import load_model
from difnet.data.files.disk import read_image
from difnet.data.sets.scenes import Scenes
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.predict import predict_labels
from difnet.utils.tiling import Tiling, blockwise_labels, make_plan, tiled_state
from difnet.utils.views import resize_antialiased
from difnet_kernels import cascaded_random_walk

WHOLE = -1
"""Stands for the overlap where the image is not divided."""
LARGE = {8: 1_562_500, 4: 6_250_000}
"""Nodes of 10,000 x 10,000 pixels, by their stride."""
REACH = 416
"""More pixels than ResNets with ASPP reach to one side: by gradients, 291 (resnet10t) to 409 (resnet18)."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("difnet-scenes"))
    parser.add_argument("--image", type=Path, default=None, help="by default a drawn scene")
    parser.add_argument("--size", type=int, nargs=2, default=(720, 960), help="height and width")
    parser.add_argument("--core", type=int, default=256, help="side of a tile without its overlaps")
    parser.add_argument("--overlaps", type=int, nargs="*", default=(0, 64, 128, 256))
    parser.add_argument("--nodes", type=int, nargs="*", default=(16384, 65536))
    parser.add_argument("--classes", type=int, default=11, help="k of the walks that are timed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=600.0, help="longest time of a prediction")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, device {options.device}")
    if options.overlaps:
        compare(options)
    if options.nodes:
        time_walks(options)
    return 0


def compare(options: argparse.Namespace) -> None:
    """Predict the whole image, then in tiles with each overlap, and print a row for each."""
    model, _ = load_model(options.checkpoint)
    model.eval()
    size = (options.size[0], options.size[1])
    print(f"{options.checkpoint}, {size[0]} x {size[1]} pixels")
    titles = ("overlap", "tiles", "nodes", "seconds", "MiB", "labels differ", "logit differs", "/ deviation")
    print("  ".join(f"{title:>13}" for title in titles))
    whole: dict[str, Any] | None = None
    for overlap in (WHOLE, *options.overlaps):
        tiling = None if overlap == WHOLE else Tiling(options.core + 2 * overlap, overlap)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.pt"
            peak = peak_in_new_process(
                prepare, options, size, tiling, file, device=options.device, seconds=options.seconds
            )
            result = torch.load(file) if file.exists() else None
        print(describe(tile_counts(model, size, tiling), overlap, peak, result, whole), flush=True)
        if overlap == WHOLE:
            whole = result
    if max(options.overlaps) < REACH:
        print(
            f"the largest overlap, {max(options.overlaps)}, is below the reach of ResNets with ASPP (up to "
            f"{REACH} pixels), so no row need have the whole image's result"
        )


def tile_counts(model: DifNet | SimDeepLab, size: tuple[int, int], tiling: Tiling | None) -> str:
    plan = None if tiling is None else make_plan(model, size, tiling)
    if plan is None or not plan.divided:
        return "whole"
    sides = f"{plan.rows[0].stop} x {plan.columns[0].stop}"
    return f"{len(plan.rows)} x {len(plan.columns)} of {sides}"


def describe(
    tiles: str, overlap: int, peak: Peak, result: dict[str, Any] | None, whole: dict[str, Any] | None
) -> str:
    """A row of the table."""
    cells = ["-" if overlap == WHOLE else str(overlap), tiles]
    if result is None:
        return "  ".join(f"{cell:>13}" for cell in [*cells, "failed, or took longer than --seconds"])
    memory = "?" if peak.memory is None else f"{peak.memory:.0f}"
    height, width = result["state"].shape[-2:]
    cells += [f"{height} x {width}", f"{result['seconds']:.2f}", memory]
    if whole is None:
        cells += ["-"] * 3
    else:
        labels = (result["labels"] != whole["labels"]).double().mean().item()
        logit = (result["state"] - whole["state"]).abs().max().item()
        cells += [f"{100 * labels:.4f} %", f"{logit:.2e}", f"{logit / whole['state'].std().item():.2e}"]
    return "  ".join(f"{cell:>13}" for cell in cells)


def prepare(
    options: argparse.Namespace, size: tuple[int, int], tiling: Tiling | None, file: Path
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A warm-up, and the prediction, which writes labels, last state and seconds to `file`."""
    model, _ = load_model(options.checkpoint, options.device)
    model = model.float().eval()
    image = make_image(options, size)
    states: list[Tensor] = []
    upsample = model.upsample

    def recorded(state: Tensor, size: tuple[int, int]) -> Tensor:
        states[:] = [state]  # the last map that a network upsamples is its last state
        return upsample(state, size)

    def predict() -> None:
        start = time.perf_counter()
        if tiling is None or not make_plan(model, size, tiling).divided:
            model.upsample = recorded  # type: ignore[method-assign, assignment]
            labels = predict_labels(model, image)
        else:
            states[:] = [tiled_state(model, image, tiling)]
            labels = blockwise_labels(states[0], [size])
        seconds = time.perf_counter() - start
        torch.save({"labels": labels.cpu(), "state": states[0].cpu(), "seconds": seconds}, file)

    return lambda: predict_labels(model, image[:, :64, :64]), predict


def make_image(options: argparse.Namespace, size: tuple[int, int]) -> Tensor:
    """The image of the options, (3, H, W) uint8, enlarged to `size`."""
    image = Scenes("val", count=1)[0][0] if options.image is None else read_image(options.image)
    enlarged = resize_antialiased(image.as_subclass(Tensor)[None].float(), size)[0]
    return enlarged.round().clamp(0, 255).to(torch.uint8)


def time_walks(options: argparse.Namespace) -> None:
    """Time one forward walk at each number of nodes, and extrapolate the longest."""
    device = torch.device(options.device)
    seconds = 0.0
    for nodes in sorted(options.nodes):
        case = Case("walk", 1, nodes, 1, options.classes)
        inputs = case.make_inputs("pooled", torch.float32, device)
        arguments = (inputs.features, inputs.seed, inputs.mu, inputs.beta)
        with torch.inference_mode():
            cascaded_random_walk([f[:, :256] for f in inputs.features], inputs.seed[:, :256], *arguments[2:])
            synchronize(device)
            start = time.perf_counter()
            cascaded_random_walk(*arguments)
            synchronize(device)
            seconds = time.perf_counter() - start
        print(
            f"one walk over {nodes:,} nodes, k = {options.classes}: {seconds:.2f} s, "
            f"{1e9 * seconds / nodes**2:.3f} ns a pair"
        )
    for stride, large in LARGE.items():
        hours = seconds * (large / nodes) ** 2 / 3600
        print(f"extrapolated, not run: one walk over {large:,} nodes (stride {stride}) takes {hours:.1f} h")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
