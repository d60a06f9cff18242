"""How an image is divided into tiles whose maps are cut from those of the image."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from difnet.modeling.backbones import OUTPUT_STRIDE, SEARCH_RANGE
from difnet.modeling.network import DifNet, SimDeepLab

OVERLAP = 128
"""Of --tile if there is no --overlap, in pixels: a compromise between time and exactness."""

MANY_NODES = 2**16
"""From so many nodes on, walks take long."""


@dataclass(frozen=True)
class Tiling:
    """How an image is divided. Both lengths are in pixels of the image that the network is given.

    Raises:
        ValueError: a length is out of its range.
    """

    tile: int
    """Longest side of a tile, overlap included. Tiles are up to 7 pixels smaller, so that all have sides of
    the same remainder modulo 8 as the image, for which the network rounds the sizes of its maps alike. Where
    attention cuts the map into blocks, they are smaller by up to a block less a pixel: 63 for halonet26t."""
    overlap: int
    """What is thrown away at each inner border of a tile, at least; it is rounded up to a multiple of 8."""

    def __post_init__(self) -> None:
        if self.overlap < 0:
            raise ValueError(f"--overlap must not be negative, got {self.overlap}")
        if self.tile < self.least_side(OUTPUT_STRIDE):
            raise ValueError(
                f"--tile {self.tile} is too small for --overlap {self.overlap} on both sides; give at least "
                f"--tile {self.least_side(OUTPUT_STRIDE)}, or a smaller overlap"
            )

    @property
    def margin(self) -> int:
        """The overlap in whole nodes of the score map, in pixels."""
        return -(-self.overlap // OUTPUT_STRIDE) * OUTPUT_STRIDE

    def least_side(self, alignment: int) -> int:
        """The smallest tile of which something remains, for tiles that begin at multiples of `alignment`."""
        return 2 * self.margin + 2 * alignment - 1


class Span(NamedTuple):
    """The rows or columns of one tile, in pixels of the image. Of those that it owns, results are kept."""

    start: int
    stop: int
    first_owned: int
    last_owned: int
    """The first pixel that it does not own any more."""
    side: int
    """Of the image."""

    def owned(self, stride: int, length: int) -> range:
        """The rows that it owns in a map of `length` rows of the whole image."""
        last = length if self.last_owned == self.side else self.last_owned // stride
        return range(self.first_owned // stride, last)

    def crop(self, stride: int, length: int) -> slice:
        """The same rows in the map of the tile."""
        rows, begin = self.owned(stride, length), self.start // stride
        return slice(rows.start - begin, rows.stop - begin)


class Source(NamedTuple):
    """A map that the network computes: its stride, and its height and width for the whole image."""

    stride: int
    size: tuple[int, int]


class Plan(NamedTuple):
    """The tiles of one image, the sizes of its maps, and its nodes."""

    rows: list[Span]
    columns: list[Span]
    grid: tuple[int, int]
    """(h, w) of the nodes of the walks, or of the score map if there are no walks."""
    score_map: Source
    sources: list[Source]
    """Every possible source of a walk, as in `DifNet`: the image, then the blocks."""

    @property
    def divided(self) -> bool:
        """Whether there is more than one tile."""
        return len(self.rows) * len(self.columns) > 1


def make_plan(model: DifNet | SimDeepLab, size: tuple[int, int], tiling: Tiling) -> Plan:
    """Divide an image of `size` = (H, W) into tiles of equal size whose maps are cut from those of the image.

    Raises:
        ValueError: the network takes no images of that size, or no tiles that fit together.
    """
    score_map, *sources = _maps(model, size)
    name = model.seed_branch.name
    steps = [_alignment(model, size, axis, tiling) for axis in (0, 1)]
    tile = [
        side if side <= tiling.tile else side - -(-(side - tiling.tile) // step) * step
        for side, step in zip(size, steps, strict=True)
    ]
    for side, step, length in zip(size, steps, tile, strict=True):
        if length < side and length - 2 * tiling.margin < step:
            raise ValueError(
                f"tiles of backbone {name!r} differ from an image of {side} pixels by a multiple of {step}; "
                f"give --tile {tiling.least_side(step)} or more, or a smaller --overlap"
            )
    maps = _maps(model, (tile[0], tile[1])) if tuple(tile) != size else [score_map, *sources]
    for whole, part in zip([score_map, *sources], maps, strict=True):
        for axis in (0, 1):
            if (whole.size[axis] - part.size[axis]) * whole.stride != size[axis] - tile[axis]:
                raise ValueError(
                    f"backbone {name!r} computes maps of {part.size[0]} x {part.size[1]} for tiles of "
                    f"{tile[0]} x {tile[1]} pixels and of {whole.size[0]} x {whole.size[1]} for images of "
                    f"{size[0]} x {size[1]}, which do not fit together; leave out --tile"
                )
    rows, columns = (
        _spans(side, length, tiling.margin, step)
        for side, length, step in zip(size, tile, steps, strict=True)
    )
    grid = score_map.size
    if isinstance(model, DifNet):
        grid = model.node_grid(size, torch.empty(1, 1, *score_map.size, device="meta"))
    return Plan(rows, columns, grid, score_map, sources)


def long_run(model: DifNet | SimDeepLab, plan: Plan) -> str | None:
    """Say how many nodes and walks there are, if the walks take long."""
    nodes, walks = plan.grid[0] * plan.grid[1], len(model.walk_sources) if isinstance(model, DifNet) else 0
    if nodes < MANY_NODES or walks == 0:
        return None
    count = "1 walk; its" if walks == 1 else f"{walks} walks; their"
    return f"{nodes:,} nodes, {count} time grows with the square of the nodes"


def _maps(model: DifNet | SimDeepLab, size: tuple[int, int]) -> list[Source]:
    """The score map, and every possible source of a walk, for an image of `size`."""
    found = [Source(OUTPUT_STRIDE, model.check_size(size)), Source(1, size)]
    if isinstance(model, DifNet) and model.similarity_branch is not None:
        branch = model.similarity_branch
        found += map(Source, branch.strides, branch.check(size))
    return found


def _alignment(model: DifNet | SimDeepLab, size: tuple[int, int], axis: int, tiling: Tiling) -> int:
    """The least multiple of 8 by which a side can be shortened so that the network still takes the image.

    It is 8 but for networks whose attention cuts the map into blocks; tiles then begin where blocks do.
    """
    if size[axis] <= tiling.tile:
        return OUTPUT_STRIDE
    for step in range(OUTPUT_STRIDE, SEARCH_RANGE + 1, OUTPUT_STRIDE):
        shorter = list(size)
        shorter[axis] -= step
        if shorter[axis] > 0 and model.seed_branch.takes((shorter[0], shorter[1])):
            return step
    raise ValueError(
        f"backbone {model.seed_branch.name!r} takes images of {size[0]} x {size[1]} pixels but none up to "
        f"{SEARCH_RANGE} pixels smaller, so no tiles of them; leave out --tile"
    )


def _spans(side: int, length: int, margin: int, alignment: int) -> list[Span]:
    """Tiles of `length` along an axis; two neighbours share the pixels between their borders equally."""
    stride = max((length - 2 * margin) // alignment * alignment, alignment)
    starts = [*range(0, side - length, stride), side - length]
    cuts = [0]
    for before, after in pairwise(starts):
        cuts.append(after + (before + length - after) // 2 // OUTPUT_STRIDE * OUTPUT_STRIDE)
    cuts.append(side)
    return [
        Span(start, start + length, first, last, side)
        for start, (first, last) in zip(starts, pairwise(cuts), strict=True)
    ]
