"""Score map and features tile by tile, then the walks over all nodes."""

import torch
from torch import Tensor

from difnet.modeling.heads import Embedding
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.resampling import upsample_bilinear
from difnet.utils.tiling.plan import Plan, Source, Span, Tiling, make_plan

NODES_AT_ONCE = 2**16
"""Nodes that are scaled at a time, and whose biases are computed at a time."""
CHANNELS_AT_ONCE = 8
"""Channels of an embedding that are upsampled at a time."""


class _Nodes:
    """The features Psi_t of all nodes of one walk, filled tile by tile."""

    def __init__(self, psi: Embedding, source: Source, grid: tuple[int, int]):
        self.psi, self.source, self.grid = psi, source, grid
        weight = psi.project.weight
        self.dim = weight.shape[0]
        self.map = weight.new_empty(self.dim, *source.size) if psi.coarse else None
        channels = self.dim + 2 * psi.has_positions
        self.nodes = weight.new_full((*grid, channels), -torch.inf)

    def add(self, rows: Span, columns: Span, features: Tensor) -> None:
        """Add a tile, of which `features` are the source, (1, c, H, W)."""
        stride, (height, width) = self.source
        part = features[..., rows.crop(stride, height), columns.crop(stride, width)]
        embedding = self.psi.local(part)[0]
        row_range, column_range = rows.owned(stride, height), columns.owned(stride, width)
        if self.map is not None:
            self.map[:, row_range.start : row_range.stop, column_range.start : column_range.stop] = embedding
            return
        embedding, row_nodes = _window_maxima(embedding, -2, row_range.start, height, self.grid[0])
        embedding, column_nodes = _window_maxima(embedding, -1, column_range.start, width, self.grid[1])
        nodes = self.nodes[row_nodes, column_nodes, : self.dim]
        torch.maximum(nodes, embedding.permute(1, 2, 0), out=nodes)

    def finish(self) -> Tensor:
        """Return the features, (1, N, d); as `Embedding.forward`, but in place."""
        if self.map is not None:
            for first in range(0, self.dim, CHANNELS_AT_ONCE):
                channels = slice(first, first + CHANNELS_AT_ONCE)
                fine = upsample_bilinear(self.map[None, channels], self.grid)[0]
                self.nodes[..., channels] = fine.permute(1, 2, 0)
            self.map = None
        nodes = self.nodes.flatten(0, 1)[None]
        for part in nodes[..., : self.dim].split(NODES_AT_ONCE, dim=1):
            part.copy_(self.psi.scaled(part))
        if self.psi.has_positions:
            nodes[..., self.dim :] = self.psi.positions(self.grid, nodes.device)
        return nodes


def _window_maxima(part: Tensor, axis: int, first: int, length: int, count: int) -> tuple[Tensor, slice]:
    """Maxima, along one axis, over what a part of a map holds of the windows of an adaptive max pool.

    The map has `length` pixels along the axis, its windows are [floor(i n / m), ceil((i + 1) n / m)) for
    n = `length` and m = `count`, and the part begins at pixel `first`. The second result says which windows
    it meets.
    """
    last = first + part.shape[axis]
    low, high = first * count // length, -(-last * count // length)
    windows = torch.arange(low, high, device=part.device)
    starts = (windows * length // count).clamp(min=first) - first
    ends = ((windows + 1) * length + count - 1).div(count, rounding_mode="floor").clamp(max=last) - first
    maxima = part.index_select(axis, starts)
    for offset in range(1, int((ends - starts).max())):
        maxima = torch.maximum(maxima, part.index_select(axis, torch.minimum(starts + offset, ends - 1)))
    return maxima, slice(low, high)


@torch.inference_mode()
def tiled_state(model: DifNet | SimDeepLab, image: Tensor, tiling: Tiling) -> Tensor:
    """Return y_T, (1, k, h, w), of one image (C, H, W): uint8, or floating point in [0, 1].

    It is what the network upsamples to its logits, and lies on the network's device.

    Raises:
        ValueError: the network is in training mode, or see `make_plan`.
    """
    if model.training:
        raise ValueError("tiles need the network in evaluation: call model.eval() first")
    device = next(model.parameters()).device
    plan = make_plan(model, (image.shape[-2], image.shape[-1]), tiling)
    score_map: Tensor | None = None
    embedded: list[_Nodes] = []
    for rows in plan.rows:
        for columns in plan.columns:
            pixels = image[None, :, rows.start : rows.stop, columns.start : columns.stop].to(device)
            normalized = model._normalized(pixels if pixels.is_floating_point() else pixels.float() / 255.0)
            scores = model.scores(normalized)
            if score_map is None:
                score_map = scores.new_empty(1, model.num_classes, *plan.score_map.size)
                embedded = _empty_nodes(model, plan, score_map)
            stride, (height, width) = plan.score_map
            (top, bottom), (left, right) = (
                (owned.start, owned.stop)
                for owned in (rows.owned(stride, height), columns.owned(stride, width))
            )
            crop = rows.crop(stride, height), columns.crop(stride, width)
            score_map[..., top:bottom, left:right] = scores[..., crop[0], crop[1]]
            if isinstance(model, DifNet) and embedded:
                sources = model._sources(normalized)
                for nodes, source in zip(embedded, model.transition_sources, strict=False):
                    nodes.add(rows, columns, sources[source])
    assert score_map is not None  # there is at least one tile
    if not isinstance(model, DifNet):
        return score_map
    return _diffused(model, score_map, embedded, (image.shape[-2], image.shape[-1]))


def _empty_nodes(model: DifNet | SimDeepLab, plan: Plan, score_map: Tensor) -> list[_Nodes]:
    if not isinstance(model, DifNet):
        return []
    grid = model.node_grid(plan.sources[0].size, score_map)
    pairs = zip(model.embeddings, model.transition_sources, strict=False)  # a shared P has one embedding
    return [_Nodes(psi, plan.sources[source], grid) for psi, source in pairs if isinstance(psi, Embedding)]


def _diffused(model: DifNet, score_map: Tensor, embedded: list[_Nodes], size: tuple[int, int]) -> Tensor:
    """The rest of `DifNet.forward`, up to the last state."""
    _, seed = model.weighted(score_map, model.node_grid(size, score_map))
    features = [nodes.finish() for nodes in embedded]
    biases = [_bias(model, feature) for feature in features]
    if model.diffusion.shared_transition:
        features = features * len(model.walk_sources)
        biases = biases * len(model.walk_sources)
    gates = model._gate(model.mu_logit, seed.dtype), model._gate(model.beta_logit, seed.dtype)
    return model.diffuse(seed, features, biases, gates)[0]


def _bias(model: DifNet, feature: Tensor) -> Tensor | None:
    """`DifNet._bias`, without temporary copies of all features."""
    parts = [model._bias(part) for part in feature.split(NODES_AT_ONCE, dim=1)]
    present = [part for part in parts if part is not None]
    return torch.cat(present, dim=1) if present else None
