"""Statistics of transition matrices: cases by hand, and a matrix that is stored whole."""

import math

import numpy as np
import pytest
import torch
from small_runs import small_network

from difnet.measures.walks import (
    WalkStatistics,
    label_shares,
    mean_statistics,
    walk_of_labels,
    walk_statistics,
    walks_of_image,
)

NAN = math.nan


def stored(features, grid, bias=None, stride=(1, 1), labels=None):
    """The statistics in float64, from the whole matrix."""
    scores = features.double().numpy() @ features.double().numpy().T
    scores = scores if bias is None else scores + bias.double().numpy()
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    places = [(y * stride[0], x * stride[1]) for y in range(grid[0]) for x in range(grid[1])]
    distance = np.array([[math.dist(a, b) for b in places] for a in places])
    logarithms = np.log(np.where(weights > 0, weights, 1))
    columns = weights.mean(0)
    return WalkStatistics(
        nodes_seen=float(np.exp(-(weights * logarithms).sum(1)).mean()),
        self_weight=float(np.diag(weights).mean()),
        reach=float((weights * distance).sum(1).mean()),
        hubs=float(1 / (columns**2).sum()),
        own_class=math.nan if labels is None else own_class(weights, labels),
        nodes=len(places),
    )


def own_class(weights, labels):
    total = 0.0
    for row, shares in zip(weights, labels, strict=True):
        on_class = row @ labels
        total += (shares * on_class).sum() / on_class.sum()
    return float(total / labels.sum())


def test_uniform_matrix():
    # The mean distances in a row of three nodes are 1, 2/3 and 1.
    found = walk_statistics(torch.zeros(3, 5), (1, 3))
    assert found == pytest.approx((3.0, 1 / 3, (1 + 2 / 3 + 1) / 3, 3.0, NAN, 3.0), nan_ok=True)
    # In a square each node has itself, two neighbours at 1 and one at the square root of 2.
    found = walk_statistics(torch.zeros(4, 5), (2, 2))
    assert found == pytest.approx((4.0, 1 / 4, (2 + math.sqrt(2)) / 4, 4.0, NAN, 4.0), nan_ok=True)


def test_identity():
    found = walk_statistics(100 * torch.eye(6), (2, 3))
    assert found == pytest.approx((1.0, 1.0, 0.0, 6.0, NAN, 6.0), abs=1e-6, nan_ok=True)


def test_one_hub():
    bias = torch.full((6,), -torch.inf)
    bias[4] = 0.0
    # All rows look at the middle of the second row of the grid. The others are 1 or sqrt(2) away from it.
    found = walk_statistics(torch.zeros(6, 5), (2, 3), node_bias=bias)
    assert found == pytest.approx((1.0, 1 / 6, (3 + 2 * math.sqrt(2)) / 6, 1.0, NAN, 6.0), nan_ok=True)


def test_two_groups():
    # Nodes 0 and 2 look at each other and at themselves, and so do nodes 1 and 3.
    features = 100 * torch.eye(2)[[0, 1, 0, 1]]
    # A node and its partner: both of class 0; of different classes, so that half the weight is on their own.
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = walk_statistics(features, (1, 4), labels=labels)
    assert found == pytest.approx((2.0, 1 / 2, 1.0, 4.0, (1 + 1 / 2 + 1 + 1 / 2) / 4, 4.0))
    # Void nodes do not count: node 0 looks at itself and at void, so all of its weight is on its class.
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert walk_statistics(features, (1, 4), labels=labels).own_class == pytest.approx(1.0)
    # A node that is half of each class looks at itself and at void.
    labels = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert walk_statistics(features, (1, 4), labels=labels).own_class == pytest.approx(1 / 2)


def test_one_node():
    assert walk_statistics(torch.ones(1, 3), (1, 1)) == pytest.approx(
        (1.0, 1.0, 0.0, 1.0, NAN, 1.0), nan_ok=True
    )


@pytest.mark.parametrize("scale", [0.1, 0.4, 2.0])
@pytest.mark.parametrize("gaussian", [False, True])
def test_random_matrix(scale, gaussian):
    torch.manual_seed(0)
    features = scale * torch.randn(5 * 7, 8)
    bias = -0.5 * features.square().sum(1) if gaussian else None
    labels = torch.rand(5 * 7, 3)
    expected = stored(features, (5, 7), bias, labels=labels.double().numpy())
    found = walk_statistics(features, (5, 7), node_bias=bias, labels=labels)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 5, 34, 35, 100])
def test_any_number_of_rows_at_once(rows):
    torch.manual_seed(0)
    features, bias = 0.5 * torch.randn(5 * 7, 8), torch.randn(35)
    labels = torch.rand(35, 3)
    whole = walk_statistics(features, (5, 7), node_bias=bias, labels=labels)
    found = walk_statistics(features, (5, 7), node_bias=bias, labels=labels, rows_at_once=rows)
    assert found == pytest.approx(whole, rel=1e-6)


def test_large_images_are_computed_in_parts(monkeypatch):
    sizes = []

    def spy(features, nodes, **options):
        sizes.append(len(nodes))
        return rows(features, nodes, **options)

    from difnet.measures import walks

    rows = walks.transition_rows
    monkeypatch.setattr(walks, "transition_rows", spy)
    walk_statistics(torch.zeros(3000, 1), (50, 60))
    assert sum(sizes) == 3000
    assert max(sizes) * 3000 <= 2**22


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match="grid: expected 6 nodes, as in features, got 2 x 2"):
        walk_statistics(torch.zeros(6, 2), (2, 2))


@pytest.mark.parametrize("affinity", ["dot", "gaussian"])
def test_walks_of_a_network(affinity):
    model = small_network(diffusion={"affinity": affinity, "temperature": 8.0}).eval()
    image = torch.rand(3, 33, 49, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        details = model(torch.stack([torch.rand(3, 33, 49), image]), details=True)
    label = torch.arange(3).repeat_interleave(11)[:, None].expand(33, 49).contiguous()
    label[:, 40:] = 255
    classes = details.seed.shape[1]
    labels = label_shares(label[None], classes, (5, 7), torch.float64)[0]
    assert labels.sum() == pytest.approx(5 * 7 * 40 / 49, rel=0.1)
    found, embedded = walks_of_image(details, 1, label), details.transitions
    assert len(found) == len(embedded) == 2
    for walk, (features, bias) in zip(found, embedded, strict=True):
        assert (bias is None) == (affinity == "dot")
        bias_of_image = None if bias is None else bias[1]
        expected = stored(features[1], (5, 7), bias_of_image, (33 / 5, 49 / 7), labels.numpy())
        assert walk == pytest.approx(expected, rel=1e-4)
        assert 1.0 < walk.nodes_seen < 35.0  # neither the identity nor uniform


def test_mean_over_images():
    one, two = WalkStatistics(1, 2, 3, 4, 0.5, 5), WalkStatistics(3, 2, 1, 0, NAN, 7)
    assert mean_statistics([[one, two], [two, two]]) == [
        (2, 2, 2, 2, 0.5, 6),
        pytest.approx(two, nan_ok=True),
    ]
    assert mean_statistics([]) == []


def test_label_shares():
    label = torch.tensor([[[0, 1, 1, 1], [255, 0, 2, 1]]])
    expected = [[[0.5, 0.25, 0.0], [0.0, 0.75, 0.25]]]
    assert label_shares(label, 3, (1, 2), torch.float32).tolist() == expected


def test_walk_of_labels():
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 6, 8))
    label[0, :2, :3] = 255
    seed = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    found = walk_of_labels(seed, label, reach=4.0)
    shares = label_shares(label, 3, (3, 4), torch.float64)
    place = torch.tensor([(2.0 * y, 2.0 * x) for y in range(3) for x in range(4)], dtype=torch.float64)
    for image in range(2):
        classes, distance = (torch.cdist(it, it).square() for it in (shares[image], place))
        weights = torch.softmax(-8 * classes - distance / (2 * 4.0**2), dim=1)
        expected = (weights @ seed[image].flatten(1).mT).mT.unflatten(1, (3, 4))
        torch.testing.assert_close(found[image], expected)
    low = walk_of_labels(seed.bfloat16(), label, reach=4.0)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), found, atol=0.02, rtol=0.0)


def test_a_walk_that_knows_the_labels_corrects_single_nodes():
    label = torch.zeros(1, 32, 32, dtype=torch.int64)
    label[:, :, 16:] = 1
    seed = torch.nn.functional.one_hot(label[:, ::4, ::4], 2).permute(0, 3, 1, 2).float()
    wrong = seed.clone()
    wrong[0, :, 3, 2], wrong[0, :, 5, 4] = wrong[0, :, 3, 5].clone(), wrong[0, :, 5, 0].clone()
    assert (wrong.argmax(1) != seed.argmax(1)).sum() == 2
    assert torch.equal(walk_of_labels(wrong, label).argmax(1), seed.argmax(1))
