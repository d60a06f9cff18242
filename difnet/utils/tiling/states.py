"""Score map and features tile by tile, then the walks over all nodes."""

import torch
from torch import Tensor

from difnet.modeling.heads import Embedding
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.resampling import upsample_bilinear
from difnet.utils.tiling.plan import Plan, Source, Span, Tiling, make_plan
from difnet.utils.views import resize_antialiased
from difnet_kernels import cascaded_random_walk

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
        self.nodes = None if psi.coarse else self._empty_nodes()

    def _empty_nodes(self) -> Tensor:
        channels = self.dim + 2 * self.psi.has_positions
        return self.psi.project.weight.new_full((*self.grid, channels), -torch.inf)

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
        assert self.nodes is not None
        nodes = self.nodes[row_nodes, column_nodes, : self.dim]
        torch.maximum(nodes, embedding.permute(1, 2, 0), out=nodes)

    def finish(self) -> Tensor:
        """Hand over the features, (1, N, d); as `Embedding.forward`, but in place."""
        filled, self.nodes = self.nodes, None
        if filled is None:
            assert self.map is not None
            filled = self._empty_nodes()
            for first in range(0, self.dim, CHANNELS_AT_ONCE):
                channels = slice(first, min(first + CHANNELS_AT_ONCE, self.dim))
                fine = upsample_bilinear(self.map[None, channels], self.grid)[0]
                filled[..., channels] = fine.permute(1, 2, 0)
            self.map = None
        nodes = filled.flatten(0, 1)[None]
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


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a uint8 image (C, H, W) to `size`, float32 in [0, 1]; one of that size stays as it is.

    The result is filled channel by channel: the whole image in float32 would take four times its memory.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    result = torch.empty(image.shape[0], *size, device=image.device)
    for target, channel in zip(result, image, strict=True):
        target.copy_(resize_antialiased(channel[None, None].float() / 255.0, size)[0, 0])
    return result


@torch.inference_mode()
def tiled_state(model: DifNet | SimDeepLab, image: Tensor, tiling: Tiling | Plan) -> Tensor:
    """Return y_T, (1, k, h, w), of one image (C, H, W): uint8, or floating point in [0, 1].

    It is what the network upsamples to its logits, and lies on the network's device.

    Args:
        model: the network, in evaluation mode.
        image: on any device; one tile after the other is copied to the network's.
        tiling: how the image is divided, or the plan that `make_plan` made for its size.

    Raises:
        ValueError: the network is in training mode, or see `make_plan`.
    """
    if model.training:
        raise ValueError("tiles need the network in evaluation: call model.eval() first")
    device = next(model.parameters()).device
    size = (image.shape[-2], image.shape[-1])
    plan = tiling if isinstance(tiling, Plan) else make_plan(model, size, tiling)
    score_map: Tensor | None = None
    embedded: list[_Nodes] = []
    for rows in plan.rows:
        for columns in plan.columns:
            pixels = image[None, :, rows.start : rows.stop, columns.start : columns.stop].to(device)
            normalized = model._normalized(pixels if pixels.is_floating_point() else pixels.float() / 255.0)
            scores = model.scores(normalized)
            if score_map is None:
                score_map = scores.new_empty(1, model.num_classes, *plan.score_map.size)
                embedded = _empty_nodes(model, plan)
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
    _, seed = model.weighted(score_map, plan.grid)
    del score_map
    return _diffused(model, seed, embedded)


def _empty_nodes(model: DifNet | SimDeepLab, plan: Plan) -> list[_Nodes]:
    if not isinstance(model, DifNet):
        return []
    pairs = zip(model.embeddings, model.transition_sources, strict=False)  # a shared P has one embedding
    return [
        _Nodes(psi, plan.sources[source], plan.grid) for psi, source in pairs if isinstance(psi, Embedding)
    ]


def _diffused(model: DifNet, seed: Tensor, embedded: list[_Nodes]) -> Tensor:
    """The walks of `DifNet.diffuse` from a seed (1, k, h, w), one call for each.

    One call for all would keep what a backward needs: the states of all walks, and P_t y_t. Here the features
    of a walk are dropped when it is done, with all but its state.
    """
    grid = seed.shape[-2:]
    mu, beta = model._gate(model.mu_logit, seed.dtype), model._gate(model.beta_logit, seed.dtype)
    seed = seed.permute(0, 2, 3, 1).flatten(1, 2)  # (1, N, k)
    state, feature, bias = seed, None, None
    for walk in range(len(model.walk_sources)):
        if walk < len(embedded):  # a shared P has one embedding
            feature = bias = None  # frees those of the walk before
            feature = embedded[walk].finish()
            bias = _bias(model, feature)
        assert feature is not None
        gates = mu[walk : walk + 1], beta[walk : walk + 1]
        walked = cascaded_random_walk([feature], seed, *gates, state=state, node_bias=bias)
        assert isinstance(walked, Tensor)
        state = walked
    return state.unflatten(1, grid).permute(0, 3, 1, 2)


def _bias(model: DifNet, feature: Tensor) -> Tensor | None:
    """`DifNet._bias`, without temporary copies of all features."""
    parts = [model._bias(part) for part in feature.split(NODES_AT_ONCE, dim=1)]
    present = [part for part in parts if part is not None]
    return torch.cat(present, dim=1) if present else None
