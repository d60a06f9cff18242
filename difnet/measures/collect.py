"""Measures beside mean IoU, of the seed, of the state after each walk, of the logits, and of the walks.

The difference between two of these maps shows what a walk does near boundaries, to the number of fragments,
and to small classes. The difference between two networks shows the same of diffusion as a whole.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from difnet.measures.boundaries import Outline, Trimap
from difnet.measures.fragments import Fragments
from difnet.measures.segmentation import SegmentationMetrics, number, percent
from difnet.measures.walks import WalkStatistics, mean_statistics, walk_of_labels, walks_of_image
from difnet.modeling.network import DifNet, SimDeepLab


class MapMeasures:
    """Measures of one map of the network, such as its seed, over images.

    Args:
        num_classes: k.
    """

    def __init__(self, num_classes: int):
        self.trimap, self.fragments = Trimap(num_classes), Fragments(num_classes)
        self.boundary_f: list[float] = []

    def update(self, predicted: np.ndarray, outline: Outline) -> None:
        """Add one prediction (H, W)."""
        self.trimap.update(predicted, outline)
        self.fragments.update(predicted, outline.label)
        self.boundary_f.append(outline.boundary_f(predicted))

    def as_record(self) -> dict[str, Any]:
        """Return trimap mean IoU by width, the mean boundary F score, and the numbers of fragments."""
        scored = [score for score in self.boundary_f if not math.isnan(score)]
        widths = self.trimap.compute().items()
        return {
            "trimap": {str(width): number(scores.mean_iou) for width, scores in widths},
            "boundary_f": float(np.mean(scored)) if scored else None,
            "fragments": self.fragments.as_record(),
        }


@torch.inference_mode()
def measure(
    model: DifNet | SimDeepLab,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    classes: list[str],
    *,
    looked_at: Collection[int] = (),
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Compute all measures of `model` on `batches`.

    Args:
        model: on `device`; it is put into evaluation mode. Its logits must be finite, which
            `difnet.training.engine.evaluate` checks.
        batches: (image (B, 3, H, W) in [0, 1], label (B, H, W) int64).
        device: where the network runs and the walks are looked at. Other measures are computed on the CPU.
        classes: names of the k classes.
        looked_at: numbers of the images on which the walks are looked at.
        progress: called with the number of images done.

    Returns:
        Plain numbers for JSON, None where one is not defined. The keys:

        - images: number of images.
        - class_share: share of each class in the labelled pixels.
        - seed, states, final: trimap, boundary_f and fragments of the upsampled seed, of the upsampled state
          after each walk, and of the logits. In seed and final, fragments also has them by class. The last
          state has the numbers of the logits, and without walks the seed has them.
        - label_walk_mean_iou: mean IoU of the seed after `walk_of_labels`; None without walks.
        - walks: mean `WalkStatistics` of each walk over the images of `looked_at`; empty without walks.
    """
    model.eval()
    walks = len(model.walk_sources) if isinstance(model, DifNet) else 0
    maps = [MapMeasures(model.num_classes) for _ in range(1 + walks)]
    pixels = np.zeros(model.num_classes, np.int64)
    looked: list[list[WalkStatistics]] = []
    of_labels = SegmentationMetrics(model.num_classes)
    done = 0
    for image, label in batches:
        image = image.to(device, non_blocking=True)
        size = (label.shape[-2], label.shape[-1])
        details = model(image, details=True)
        before = [details.seed, *details.states][:-1]  # the last one, upsampled, is the logits
        scores = [*(model.upsample(item.float(), size) for item in before), details.logits]
        predicted = [item.argmax(1).cpu().numpy() for item in scores]
        for index, one in enumerate(label.cpu().numpy()):
            outline = Outline(one)
            pixels += np.bincount(one[outline.labelled], minlength=len(pixels))
            for measures, prediction in zip(maps, predicted, strict=True):
                measures.update(prediction[index], outline)
            if details.transitions and done + index in looked_at:
                looked.append(walks_of_image(details, index, torch.from_numpy(one)))
        if walks:
            ideal = walk_of_labels(details.seed, label)
            of_labels.update(model.upsample(ideal, size).argmax(1).cpu(), label)
        done += image.shape[0]
        if progress is not None:
            progress(done)

    records = [measures.as_record() for measures in maps]
    seed, final = (_with_classes(records[at], maps[at], classes) for at in (0, -1))
    total = int(pixels.sum())
    return {
        "images": done,
        "class_share": {
            name: n / total if total else None for name, n in zip(classes, pixels.tolist(), strict=True)
        },
        "seed": seed,
        "states": records[1:],
        "final": final,
        "label_walk_mean_iou": number(of_labels.compute().mean_iou) if walks else None,
        "walk_images": len(looked),
        "walks": [
            {name: number(value) for name, value in walk._asdict().items()}
            for walk in mean_statistics(looked)
        ],
    }


class GainBySize(NamedTuple):
    """Whether small or large classes gain.

    Attributes:
        correlation: Spearman's rank correlation of gain in IoU and size: negative if small classes gain more,
            positive if large ones do. None if it is not defined.
        classes: how many classes it is of.
    """

    correlation: float | None
    classes: int


def gain_by_class_size(
    before: Mapping[str, float | None], after: Mapping[str, float | None], size: Mapping[str, float | None]
) -> GainBySize:
    """Correlate the gain in IoU of each class with its size.

    Args:
        before, after: IoU of each class, as "iou" in the record of an evaluation; None for an absent class.
        size: number of pixels of each class, or its share of them, as "class_share" in the record of
            `measure`.

    Returns:
        The correlation over the classes with an IoU in both records and a size above 0. It is None if these
        are fewer than three, or if all gains or all sizes are equal.

    Raises:
        ValueError: the three do not have the same classes.
    """
    from scipy.stats import spearmanr  # here, because it takes most of a second to import

    if not before.keys() == after.keys() == size.keys():
        names = "; ".join(", ".join(values) for values in (before, after, size))
        raise ValueError(
            f"before, after and size: expected the same classes, got {names}; compare records of one data set"
        )
    rows = [(before[name], after[name], size[name]) for name in before]
    known = [
        (new - old, pixels) for old, new, pixels in rows if old is not None and new is not None and pixels
    ]
    gains, sizes = ([row[column] for row in known] for column in (0, 1))
    if len(known) < 3 or len(set(gains)) == 1 or len(set(sizes)) == 1:
        return GainBySize(None, len(known))
    return GainBySize(float(spearmanr(gains, sizes).statistic), len(known))


def format_measures(record: dict[str, Any]) -> str:
    """Format what `measure` returned as a table for printing, a column for each map of the network."""
    maps = {"seed": record["seed"]} if record["states"] else {"logits": record["final"]}
    maps |= {f"walk {walk}": state for walk, state in enumerate(record["states"], 1)}
    rows = [(f"measures of {record['images']} images", list(maps))]
    for width in record["final"]["trimap"]:
        values = [percent(item["trimap"][width], "none") for item in maps.values()]
        rows.append((f"mean IoU within {width} px of a boundary", values))
    rows.append(("boundary F score", [percent(item["boundary_f"], "none") for item in maps.values()]))
    labelled = _decimal(record["final"]["fragments"]["labelled"])
    values = [_decimal(item["fragments"]["predicted"]) for item in maps.values()]
    rows.append((f"fragments of an image ({labelled} in its label)", values))
    if record["states"]:
        ideal = percent(record["label_walk_mean_iou"], "none")
        rows.append((f"mean IoU of the seed after one walk of 16 pixels that knows the labels: {ideal}", []))
    if record["walks"]:
        nodes = _decimal(record["walks"][0]["nodes"], 0)
        rows.append((f"walks over {nodes} nodes, mean of {record['walk_images']} images", []))
        for name, title, digits in (
            ("nodes_seen", "nodes that a row looks at", 1),
            ("hubs", "nodes that all rows together look at", 1),
            ("reach", "distance that a row looks, in pixels", 1),
            ("self_weight", "weight of a node on itself", 3),
            ("own_class", "share of its weight on its own class", 3),
        ):
            rows.append((f"  {title}", ["", *(_decimal(walk[name], digits) for walk in record["walks"])]))
    first = max(len(title) for title, _ in rows)
    return "\n".join(f"  {title:<{first}}" + "".join(f"{it:>9}" for it in row) for title, row in rows)


def _with_classes(record: dict[str, Any], measures: MapMeasures, classes: list[str]) -> dict[str, Any]:
    by_class = measures.fragments.by_class(classes)
    return record | {"fragments": record["fragments"] | {"classes": by_class}}


def _decimal(value: float | None, digits: int = 1) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
