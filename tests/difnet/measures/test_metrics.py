"""Metrics against a case worked out by hand."""

import json
import math

import torch

from difnet.measures.segmentation import (
    Evaluation,
    SegmentationMetrics,
    format_mean,
    format_record,
    scores_from_confusion,
    to_json,
)


def test_hand_computed_case():
    # Class 3 occurs nowhere, the last pixel is void.
    label = torch.tensor([[[0, 0, 0, 0, 1, 1, 2, 255]]])
    predicted = torch.tensor([[[0, 0, 0, 1, 1, 2, 2, 0]]])
    metrics = SegmentationMetrics(4)
    metrics.update(predicted[..., :3], label[..., :3])
    metrics.update(predicted[..., 3:], label[..., 3:])
    found = metrics.compute()
    assert found.iou[:3].tolist() == [3 / 4, 1 / 3, 1 / 2]
    assert math.isnan(found.iou[3])
    assert float(found.mean_iou) == (3 / 4 + 1 / 3 + 1 / 2) / 3
    assert float(found.accuracy) == 5 / 7


def test_predicted_but_unlabelled_class_counts_as_zero():
    found = scores_from_confusion(torch.tensor([[3, 1], [0, 0]]))
    assert found.iou.tolist() == [3 / 4, 0.0]
    assert float(found.mean_iou) == 3 / 8


def test_a_class_predicted_but_in_no_label_is_marked():
    found = Evaluation(scores_from_confusion(torch.tensor([[3, 1], [0, 0]])), None, [], [], [])
    record = found.as_record(["a", "b"])
    assert record["unlabelled"] == ["b"]
    assert record["mean_iou_classes"] == 2
    assert "0.00%  (predicted, but in no label)" in format_record(record).splitlines()[1]


def test_nothing_labelled():
    metrics = SegmentationMetrics(2)
    metrics.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 255))
    found = metrics.compute()
    assert found.iou.isnan().all()
    assert found.accuracy.isnan()


def test_record_is_strict_json_and_readable():
    scores = scores_from_confusion(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    found = Evaluation(scores, scores, [scores], [0.25], [0.75])
    record = json.loads(to_json(found.as_record(["sky", "road", "car"])))
    assert record["iou"] == {"sky": 0.75, "road": 2 / 3, "car": None}
    assert record["walk_mean_iou"] == [record["seed_mean_iou"]] == [record["mean_iou"]]
    text = format_record(record)
    assert "absent" in text
    assert "mean IoU          70.83% over 2 of 3 classes" in text
    assert "before diffusion: 70.83% over 2 of 3 classes" in text
    assert text.endswith("(mu 0.250, beta 0.750) over 2 of 3 classes")
    assert record["mean_iou_classes"] == record["seed_mean_iou_classes"] == 2
    assert record["walk_mean_iou_classes"] == [2]
    assert record["unlabelled"] == ["car"]
    assert format_mean(record) == "70.83% over 2 of 3 classes"
    assert "after walk 1: 70.83%  (mu 0.250, beta 0.750)" in text
