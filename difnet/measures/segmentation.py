"""Segmentation metrics from a confusion matrix, which torchmetrics sums over images and processes."""

import json
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from difnet.data.errors import VOID


class SegmentationScores(NamedTuple):
    """Metrics over the labelled (non-void) pixels.

    Attributes:
        iou: (k,) intersection over union; NaN for a class that is neither labelled nor predicted anywhere.
        mean_iou: mean of `iou` over all other classes (0-d).
        accuracy: share of pixels that are predicted correctly (0-d).
        labelled: (k,) whether any pixel is labelled with the class.
    """

    iou: Tensor
    mean_iou: Tensor
    accuracy: Tensor
    labelled: Tensor

    @property
    def classes(self) -> int:
        """Number of classes in `mean_iou`: those labelled or predicted anywhere."""
        return int((~self.iou.isnan()).sum())


class SegmentationMetrics(MulticlassConfusionMatrix):
    """Accumulates predictions (B, H, W) against labels (B, H, W); pixels labelled 255 are ignored.

    In a distributed run, `compute` sums the matrices of all processes.
    """

    def __init__(self, num_classes: int):
        # Labels are checked before training. To check every batch again would synchronise the device.
        super().__init__(num_classes=num_classes, ignore_index=VOID, validate_args=False)

    def compute(self) -> SegmentationScores:  # type: ignore[override]
        """Return the metrics of everything accumulated so far."""
        return scores_from_confusion(self.confmat)


def scores_from_confusion(confusion: Tensor) -> SegmentationScores:
    """Compute the metrics of a confusion matrix (k, k), rows = label, columns = prediction."""
    counts = confusion.double()
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    iou = torch.where(union > 0, right / union, torch.nan)
    return SegmentationScores(iou, iou.nanmean(), right.sum() / counts.sum(), counts.sum(1) > 0)


class Evaluation(NamedTuple):
    """The result of `difnet.training.engine.evaluate`.

    Attributes:
        final: metrics of the logits.
        seed: metrics of the upsampled seed, before any walk; None if several views are averaged.
        states: metrics of the upsampled state after each walk.
        mu, beta: the weights of each walk.
    """

    final: SegmentationScores
    seed: SegmentationScores | None
    states: list[SegmentationScores]
    mu: list[float]
    beta: list[float]

    def as_record(self, classes: list[str]) -> dict[str, Any]:
        """Convert to plain numbers for JSON; an absent class has IoU null."""
        record: dict[str, Any] = {
            "mean_iou": number(self.final.mean_iou),
            "mean_iou_classes": self.final.classes,
            "accuracy": number(self.final.accuracy),
            "iou": {name: number(value) for name, value in zip(classes, self.final.iou, strict=True)},
            "unlabelled": [name for name, seen in zip(classes, self.final.labelled, strict=True) if not seen],
            "mu": self.mu,
            "beta": self.beta,
        }
        if self.seed is not None:
            record["seed_mean_iou"] = number(self.seed.mean_iou)
            record["seed_mean_iou_classes"] = self.seed.classes
            record["walk_mean_iou"] = [number(state.mean_iou) for state in self.states]
            record["walk_mean_iou_classes"] = [state.classes for state in self.states]
        return record


def number(value: Tensor | float) -> float | None:
    """Convert to a number for JSON, which knows neither NaN nor infinity: None for these."""
    return float(value) if math.isfinite(value) else None


def format_mean(record: dict[str, Any]) -> str:
    """Format the mean IoU of a record with its number of classes, such as "66.10% over 9 of 11 classes"."""
    if "iou" not in record:  # earlier versions saved only the mean with the best weights
        return percent(record["mean_iou"])
    count = sum(value is not None for value in record["iou"].values())
    return f"{percent(record['mean_iou'])} {_over(count, len(record['iou']))}"


def format_record(record: dict[str, Any]) -> str:
    """Format a record for printing: IoU per class, the means, and mean IoU, mu and beta of each walk."""
    classes = len(record["iou"])
    width = max(len(name) for name in [*record["iou"], "pixel accuracy"])
    lines = []
    for name, value in record["iou"].items():
        false = "  (predicted, but in no label)" if value is not None and name in record["unlabelled"] else ""
        lines.append(f"  {name:<{width}} {percent(value):>9}{false}")
    count = _over(record["mean_iou_classes"], classes)
    lines.append(f"  {'mean IoU':<{width}} {percent(record['mean_iou']):>9} {count}")
    lines.append(f"  {'pixel accuracy':<{width}} {percent(record['accuracy']):>9}")
    if record.get("walk_mean_iou"):
        seed, count = percent(record["seed_mean_iou"]), _over(record["seed_mean_iou_classes"], classes)
        lines.append(f"  mean IoU of the seed, before diffusion: {seed} {count}")
        walks = zip(record["walk_mean_iou"], record["walk_mean_iou_classes"], strict=True)
        for walk, (value, known) in enumerate(walks):
            mu, beta = record["mu"][walk], record["beta"][walk]
            after = f"  mean IoU after walk {walk + 1}: {percent(value)}"
            lines.append(f"{after}  (mu {mu:.3f}, beta {beta:.3f}) {_over(known, classes)}")
    return "\n".join(lines)


def _over(count: int, classes: int) -> str:
    return f"over {count} of {classes} classes"


def percent(value: float | None, missing: str = "absent") -> str:
    """Format a share as per cent, and None as `missing`."""
    return missing if value is None else f"{100.0 * value:.2f}%"


def to_json(record: dict[str, Any]) -> str:
    """Return one line of strict JSON, which has no NaN."""
    return json.dumps(record, allow_nan=False)
