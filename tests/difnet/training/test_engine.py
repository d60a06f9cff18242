"""Loss, schedule, evaluation and test-time views."""

import math

import pytest
import torch
import torch.nn.functional as F

import difnet
from difnet.training.engine import SegmentationLoss, evaluate, poly
from difnet.utils.views import Views, make_views


def test_loss_ignores_void():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float32, requires_grad=True)
    label = torch.randint(0, 3, (2, 5, 7))
    label[:, :2] = 255
    loss = SegmentationLoss()(logits, label)
    torch.testing.assert_close(loss, F.cross_entropy(logits, label, ignore_index=255))
    loss.backward()
    assert (logits.grad[:, :, :2] == 0).all()
    assert (logits.grad[:, :, 2:] != 0).all()


def test_weighted_loss():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 5, 7))
    label[0] = 255
    weights = torch.tensor([0.5, 0.0, 3.0])
    expected = F.cross_entropy(logits, label, weight=weights, ignore_index=255)
    torch.testing.assert_close(SegmentationLoss(weights)(logits, label), expected)


@pytest.mark.parametrize("weights", [None, torch.ones(3)])
def test_loss_without_labelled_pixels_is_zero(weights):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = SegmentationLoss(weights)(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def test_poly():
    assert poly(0, 100, 0.9) == 1.0
    assert poly(50, 100, 0.9) == 0.5**0.9
    assert poly(99, 100, 0.9) == pytest.approx(0.01**0.9)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return difnet.create_model("test_resnet", 3, walk_sources=(0, 2)).eval()


def test_evaluation_agrees_with_the_details(model):
    torch.manual_seed(0)
    images, label = torch.rand(3, 3, 32, 40), torch.randint(0, 3, (3, 32, 40))
    label[:, :4] = 255
    with torch.no_grad():
        details = model(images, details=True)
    batches = [(images[:2], label[:2]), (images[2:], label[2:])]
    found = evaluate(model.train(), batches, torch.device("cpu"))
    assert not model.training
    known = label != 255

    def accuracy(score_map):
        predicted = model.upsample(score_map, (32, 40)).argmax(1)
        return (predicted == label)[known].double().mean().item()

    assert found.final.accuracy.item() == pytest.approx(
        (details.logits.argmax(1) == label)[known].double().mean()
    )
    assert found.seed.accuracy.item() == pytest.approx(accuracy(details.seed))
    assert [state.accuracy.item() for state in found.states] == pytest.approx(
        [accuracy(s) for s in details.states]
    )
    assert found.states[-1].iou.tolist() == found.final.iou.tolist()
    assert found.mu == found.beta == [0.5, 0.5]


def test_evaluation_of_the_baseline():
    torch.manual_seed(0)
    model = difnet.create_model("simdeeplab18", 3)
    batches = [(torch.rand(1, 3, 32, 32), torch.randint(0, 3, (1, 32, 32)))]
    found = evaluate(model, batches, torch.device("cpu"))
    assert found.states == found.mu == []
    assert found.seed.iou.tolist() == found.final.iou.tolist()
    assert math.isfinite(found.as_record(["a", "b", "c"])["mean_iou"])


def test_views_average_probabilities(model):
    image = torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        plain, mirrored = model(image).softmax(1), model(image.flip(-1)).softmax(1).flip(-1)
        single = Views((1.0,)).probabilities(model, image)
        both = Views((1.0,), flip=True).probabilities(model, image)
        several = make_views(multi_scale=True, flip=False).probabilities(model, image)
    torch.testing.assert_close(single, plain)
    torch.testing.assert_close(both, (plain + mirrored) / 2)
    assert several.shape == plain.shape
    torch.testing.assert_close(several.sum(1), torch.ones(2, 32, 40))
    assert not torch.allclose(several, plain)
    assert make_views(False, False) is None
