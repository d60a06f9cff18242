"""The loss of the transition matrices; that of the logits is tested in test_engine.py."""

import math

import pytest
import torch
from small_runs import small_network

from difnet.training.engine import loss_of_transitions

SIZE = (40, 56)  # 5 x 7 nodes


def make_label():
    label = torch.zeros(3, *SIZE, dtype=torch.long)
    label[:, :, 28:] = 1
    label[:, 10:26, 12:40] = 2
    label[0, :5] = 255
    label[1, 16:24, 16:24] = 255  # a whole node
    return label


def expected_loss(details, label, shown, smoothing=1e-4):
    """The same with loops over images and nodes, and every P stored."""
    losses = []
    for features, bias in details.transitions:
        loss = total = 0.0
        for image in range(len(label)):
            target = torch.zeros(35, 3, dtype=features.dtype)
            for node in range(35):
                row, column = divmod(node, 7)
                cell = label[image, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                for kind in range(3):
                    target[node, kind] = (cell == kind).float().mean()
            scores = features[image] @ features[image].T
            scores = scores if bias is None else scores + bias[image]
            scores = scores.masked_fill(~shown[image], -math.inf)
            carried = scores.softmax(-1) @ target
            for node in range(35):
                if not shown[image, node]:
                    share = (carried[node] + smoothing) / (carried[node].sum() + 3 * smoothing)
                    loss = loss - (target[node] * share.log()).sum()
                    total = total + target[node].sum()
        losses.append(loss / total)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("options", [{}, {"affinity": "gaussian"}, {"affinity": "cosine", "reach": 16.0}])
def test_it_is_that_of_stored_matrices(options):
    network = small_network(diffusion={"temperature": 8.0, **options}).double()
    details = network(torch.rand(3, 3, *SIZE, dtype=torch.float64), details=True)
    label = make_label()
    torch.manual_seed(5)
    found = loss_of_transitions(details, label)
    torch.manual_seed(5)
    draw = torch.rand(3, 35)
    shown = (draw < 0.25) | (draw == draw.amin(1, keepdim=True))
    assert 0 < shown.sum() < shown.numel() / 2
    expected = expected_loss(details, label, shown)
    torch.testing.assert_close(found, expected)
    parameters = [p for psi in network.embeddings for p in psi.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, parameters, retain_graph=True),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_it_teaches_the_similarity_branch_alone():
    network = small_network(diffusion={"temperature": 8.0})
    loss_of_transitions(network(torch.rand(3, 3, *SIZE), details=True), make_label()).backward()
    touched = {name.partition(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert touched == {"similarity_branch", "embeddings"}


def test_features_that_tell_the_classes_apart_have_a_lower_loss_than_the_identity():
    network = small_network()
    details = network(torch.rand(3, 3, *SIZE), details=True)
    label = torch.zeros(3, *SIZE, dtype=torch.long)
    label[:, :, 24:] = 1  # at a border of cells
    kinds = torch.nn.functional.one_hot(label[:, 4::8, 4::8].flatten(1), 2).float()
    distinct = torch.eye(35).expand(3, -1, -1)  # each node looks at itself alone
    losses = []
    for features in (10 * kinds, 10 * distinct):
        torch.manual_seed(0)
        losses.append(loss_of_transitions(details._replace(transitions=[(features, None)]), label).item())
    assert losses[0] == pytest.approx(0.0, abs=1e-3)
    assert losses[1] > 0.3


@pytest.mark.parametrize("visible", [0.0, 1.0])
def test_extreme_shares(visible):
    network = small_network()
    details = network(torch.rand(3, 3, *SIZE), details=True)
    loss = loss_of_transitions(details, make_label(), visible=visible)
    assert loss.isfinite()
    assert (loss == 0.0) == (visible == 1.0)  # no node is hidden
    loss.backward()
    assert all(p.grad.isfinite().all() for p in network.embeddings.parameters())


def test_without_a_label_it_is_zero():
    network = small_network()
    details = network(torch.rand(3, 3, *SIZE), details=True)
    loss = loss_of_transitions(details, torch.full((3, *SIZE), 255))
    loss.backward()
    assert loss == 0.0
    assert all((p.grad == 0).all() for p in network.embeddings.parameters())
