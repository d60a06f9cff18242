"""What the transition matrices of a DifNet look like on images: to how many nodes rows look, and how far."""

from typing import NamedTuple

import torch
from torch import Tensor

from difnet.modeling.base import Details
from difnet_kernels import transition_rows

_PAIRS_AT_ONCE = 2**22


class WalkStatistics(NamedTuple):
    """The rows of one transition matrix P over N nodes, which lie on a grid.

    Attributes:
        nodes_seen: exp of a row's entropy, the number of nodes that it looks at: 1 if its whole weight is on
            one node, N if all nodes have the same weight. Mean over the rows.
        self_weight: weight of a node on itself, P_ii. Mean over the rows.
        reach: distance of a node to the nodes that its row looks at, in pixels, under the row's weights. Mean
            over the rows.
        hubs: 1 / sum_j c_j^2, c_j the mean of column j: the number of nodes that the rows together look at.
            N if all nodes are looked at alike, 1 if all rows look at one node.
        nodes: N.
    """

    nodes_seen: float
    self_weight: float
    reach: float
    hubs: float
    nodes: float


def walk_statistics(
    features: Tensor,
    grid: tuple[int, int],
    *,
    stride: tuple[float, float] = (1.0, 1.0),
    node_bias: Tensor | None = None,
    rows_at_once: int | None = None,
) -> WalkStatistics:
    """Compute the statistics of the transition matrix of some features, in memory linear in N.

    Args:
        features: F, (N, d).
        grid: (h, w), N = h * w; the nodes are counted row by row.
        stride: pixels from one node to the next, down and across.
        node_bias: c, (N,), as for `difnet_kernels.transition_rows`.
        rows_at_once: how many rows of P are stored; by default those of four million pairs of nodes.

    Raises:
        ValueError: the grid has another number of nodes than the features.
    """
    height, width = grid
    count = features.shape[0]
    if height * width != count:
        raise ValueError(f"grid: expected {count} nodes, as in features, got {height} x {width}")
    node = torch.arange(count, device=features.device)
    place = torch.stack([stride[0] * (node // width), stride[1] * (node % width)], dim=1).float()
    bias = None if node_bias is None else node_bias[None]
    totals, columns = torch.zeros(3, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for rows in node.split(rows_at_once or max(1, _PAIRS_AT_ONCE // count)):
        weights = transition_rows(features[None], rows, node_bias=bias)[0]  # (n, N)
        # The matrix form of cdist is inexact for near nodes.
        distance = torch.cdist(place[rows], place, compute_mode="donot_use_mm_for_euclid_dist")
        seen = torch.special.entr(weights).sum(1).exp()
        own = weights.gather(1, rows[:, None])[:, 0]
        reach = (weights * distance).sum(1)
        # Not every device has float64.
        totals += torch.stack([seen.sum(), own.sum(), reach.sum()]).cpu()
        columns += weights.sum(0).cpu()
    seen_sum, own_sum, reach_sum = (totals / count).tolist()
    hubs = 1.0 / float((columns / count).square().sum())
    return WalkStatistics(seen_sum, own_sum, reach_sum, hubs, float(count))


def walks_of_image(details: Details, index: int) -> list[WalkStatistics]:
    """Compute the statistics of every walk on image number `index` of a batch; none without walks."""
    (rows, columns), (height, width) = details.seed.shape[-2:], details.logits.shape[-2:]
    stride = (height / rows, width / columns)
    return [
        walk_statistics(
            features[index],
            (rows, columns),
            stride=stride,
            node_bias=None if bias is None else bias[index],
        )
        for features, bias in details.transitions
    ]


def mean_statistics(images: list[list[WalkStatistics]]) -> list[WalkStatistics]:
    """Average the statistics of each walk over images."""
    return [
        WalkStatistics(*(sum(values) / len(images) for values in zip(*walk, strict=True)))
        for walk in zip(*images, strict=True)
    ]
