"""What the transition matrices of a DifNet look like on images: to which nodes rows look, and how far."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from difnet.modeling.base import Details
from difnet_kernels import random_walk, transition_rows

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
        own_class: share of a row's weight on nodes of the row's own class, as far as they are labelled:
            q_i . (P q)_i / (P l)_i, q_i the shares of the classes in node i and l_i their sum. Mean over the
            rows weighted with l_i; NaN without labels. It is below 1 for every P where nodes hold several
            classes, and short reaches raise it: compare walks of one grid and like reach.
        nodes: N.
    """

    nodes_seen: float
    self_weight: float
    reach: float
    hubs: float
    own_class: float
    nodes: float


def label_shares(label: Tensor, classes: int, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the share of each class among the pixels of each node's cell, void included in their number.

    Args:
        label: (B, H, W), int64, 255 is void.
        classes: k.
        grid: (h, w), N = h * w.
        dtype: of the result.

    Returns:
        (B, N, k). The shares of a node add up to 1 less its void part.
    """
    # One class at a time: the maps of all classes would take more memory than a network.
    shares = [
        nn.functional.adaptive_avg_pool2d((label == number).to(dtype), grid).flatten(1)
        for number in range(classes)
    ]
    return torch.stack(shares, dim=-1)


def _places(grid: tuple[int, int], stride: tuple[float, float], device: torch.device) -> Tensor:
    """Rows and columns of the nodes of a grid, (N, 2), float32, in pixels from the first node."""
    node = torch.arange(grid[0] * grid[1], device=device)
    return torch.stack([stride[0] * (node // grid[1]), stride[1] * (node % grid[1])], dim=1).float()


def walk_of_labels(seed: Tensor, label: Tensor, *, reach: float = 16.0) -> Tensor:
    """Walk one step with a P made of the labels: y = P s, for comparison with what a network has learned.

    A node averages the seed over near nodes whose shares of the classes are like its own:
    P_ij ~ exp(-8 |q_i - q_j|^2 - |x_i - x_j|^2 / (2 reach^2)), with q_i the shares of the classes in node i
    and x_i its place. Two nodes of one class each, at one place, differ by the factor exp(-16) if these
    classes differ. It is no upper bound: more steps or another reach can do better.

    Args:
        seed: s, (B, k, h, w), floating point.
        label: (B, H, W), int64, 255 is void; on any device.
        reach: standard deviation of the Gaussian, in pixels of the label.

    Returns:
        (B, k, h, w), in float32, or float64 for a seed in float64.
    """
    (classes, rows, columns), (height, width) = seed.shape[-3:], label.shape[-2:]
    seed = seed.to(torch.promote_types(seed.dtype, torch.float32))
    shares = label_shares(label.to(seed.device), classes, (rows, columns), seed.dtype)  # q, (B, N, k)
    place = _places((rows, columns), (height / rows, width / columns), seed.device)
    place = ((place - place.mean(0)) / reach).to(seed.dtype).expand(len(shares), -1, -1)
    features = torch.cat([4.0 * shares, place], dim=-1)
    # Matrix products of every precision take numbers of bfloat16 without rounding them.
    features = features.to(torch.bfloat16).to(seed.dtype)
    nodes, one = seed.flatten(2).mT, seed.new_ones(())
    walked = random_walk(features, nodes, nodes, one, one, node_bias=-0.5 * features.square().sum(-1))
    return walked.mT.unflatten(-1, (rows, columns))


def walk_statistics(
    features: Tensor,
    grid: tuple[int, int],
    *,
    stride: tuple[float, float] = (1.0, 1.0),
    node_bias: Tensor | None = None,
    labels: Tensor | None = None,
    rows_at_once: int | None = None,
) -> WalkStatistics:
    """Compute the statistics of the transition matrix of some features, in memory linear in N.

    Args:
        features: F, (N, d).
        grid: (h, w), N = h * w; the nodes are counted row by row.
        stride: pixels from one node to the next, down and across.
        node_bias: c, (N,), as for `difnet_kernels.transition_rows`.
        labels: (N, k), share of each class in each node, as from `label_shares`.
        rows_at_once: how many rows of P are stored; by default those of four million pairs of nodes.

    Raises:
        ValueError: the grid has another number of nodes than the features.
    """
    height, width = grid
    count = features.shape[0]
    if height * width != count:
        raise ValueError(f"grid: expected {count} nodes, as in features, got {height} x {width}")
    node = torch.arange(count, device=features.device)
    place = _places(grid, stride, features.device)
    bias = None if node_bias is None else node_bias[None]
    labels = features.new_zeros(count, 1) if labels is None else labels
    totals, columns = torch.zeros(4, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for rows in node.split(rows_at_once or max(1, _PAIRS_AT_ONCE // count)):
        weights = transition_rows(features[None], rows, node_bias=bias)[0]  # (n, N)
        # The matrix form of cdist is inexact for near nodes.
        distance = torch.cdist(place[rows], place, compute_mode="donot_use_mm_for_euclid_dist")
        seen = torch.special.entr(weights).sum(1).exp()
        own = weights.gather(1, rows[:, None])[:, 0]
        reach = (weights * distance).sum(1)
        seen_labels = weights.to(labels.dtype) @ labels  # P q, (n, k)
        total = seen_labels.sum(1)
        alike = (labels[rows] * seen_labels).sum(1) / torch.where(total > 0, total, 1.0)
        # Not every device has float64.
        totals += torch.stack([seen.sum(), own.sum(), reach.sum(), alike.sum()]).cpu()
        columns += weights.sum(0).cpu()
    seen_sum, own_sum, reach_sum, _ = (totals / count).tolist()
    hubs = 1.0 / float((columns / count).square().sum())
    labelled = float(labels.sum())
    own_class = float(totals[3]) / labelled if labelled > 0.0 else math.nan
    return WalkStatistics(seen_sum, own_sum, reach_sum, hubs, own_class, float(count))


def walks_of_image(details: Details, index: int, label: Tensor) -> list[WalkStatistics]:
    """Compute the statistics of every walk on image number `index` of a batch; none without walks.

    Args:
        details: of the batch.
        index: of the image.
        label: (H, W), its labels, of the size of the logits.
    """
    (classes, rows, columns), (height, width) = details.seed.shape[-3:], details.logits.shape[-2:]
    stride = (height / rows, width / columns)
    labels = label_shares(label[None].to(details.seed.device), classes, (rows, columns), torch.float32)[0]
    return [
        walk_statistics(
            features[index],
            (rows, columns),
            stride=stride,
            node_bias=None if bias is None else bias[index],
            labels=labels,
        )
        for features, bias in details.transitions
    ]


def mean_statistics(images: list[list[WalkStatistics]]) -> list[WalkStatistics]:
    """Average the statistics of each walk over images, `own_class` over those that have labels."""
    means = []
    for walk in zip(*images, strict=True):
        labelled = [it.own_class for it in walk if not math.isnan(it.own_class)]
        mean = WalkStatistics(*(sum(values) / len(images) for values in zip(*walk, strict=True)))
        means.append(mean._replace(own_class=sum(labelled) / len(labelled) if labelled else math.nan))
    return means
