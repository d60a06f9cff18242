"""How well a segmentation follows the boundaries between classes: trimap mean IoU and boundary F score.

A boundary runs between two neighbouring pixels, beside or above each other, that have different classes. Both
must be labelled: void is no class, so there is no boundary between a class and void. Predictions at void
pixels change neither measure. The edge of the image is no boundary either.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree

from difnet.data.errors import VOID
from difnet.measures.segmentation import SegmentationScores, scores_from_confusion

WIDTHS = (1, 2, 5, 10, 20)
TOLERANCE = 0.0075
"""Tolerance of the boundary F score, as a share of the image's diagonal."""


def boundary_pixels(classes: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Find the pixels that touch a boundary of a map, on either side of it.

    Args:
        classes: (H, W), the class of each pixel.
        labelled: (H, W), False where a pixel is void.

    Returns:
        (H, W), True where one of the four neighbours has another class and both pixels are labelled.
    """
    touching = np.zeros(classes.shape, bool)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (classes[one] != classes[other]) & labelled[one] & labelled[other]
        touching[one] |= differ
        touching[other] |= differ
    return touching


class Outline:
    """The boundaries of a label, with which predictions for its image are compared.

    Args:
        label: (H, W), class indices, or 255 for void.
        tolerance: in pixels, for the boundary F score. By default 0.75 % of the diagonal, rounded, but at
            least 1.

    Attributes:
        label: as given.
        labelled: (H, W), False where the label is void.
        distance: (H, W), in pixels, to the nearest pixel that touches a boundary, 0 at such pixels. Infinite
            if the label has no boundary.
        tolerance: in pixels.

    Raises:
        ValueError: `tolerance` is negative.
    """

    def __init__(self, label: np.ndarray, tolerance: int | None = None):
        if tolerance is None:
            tolerance = max(1, round(TOLERANCE * math.hypot(*label.shape)))
        if tolerance < 0:
            raise ValueError(f"tolerance: expected a number of pixels that is not negative, got {tolerance}")
        self.label, self.tolerance = label, tolerance
        self.labelled = label != VOID
        touching = boundary_pixels(label, self.labelled)
        self.distance = _distance(touching)
        self._counts = _distance(~self.labelled) > tolerance
        self._points = self._of_classes(label, touching)
        self._tree = KDTree(self._points)

    def boundary_f(self, predicted: np.ndarray) -> float:
        """Compute the boundary F score of a prediction (H, W), the mean over the classes of the image.

        The boundary pixels of a class are the pixels of the class that touch a boundary. Precision is the
        share of the predicted ones that have one of the label within the tolerance, recall the share of those
        of the label that have a predicted one within it, and F = 2 precision recall / (precision + recall).

        A boundary pixel near void, within the tolerance, enters no share, because its match may lie in the
        void. It may still be the match of another. A share of no pixels is 1. A class without a pixel in
        either share is left out of the mean.

        Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013.

        Returns:
            A number in [0, 1], 1 for the label itself. NaN if no class has a boundary pixel that counts.
        """
        points = self._of_classes(predicted, boundary_pixels(predicted, self.labelled))
        found = self._counted(points, self._tree)
        wanted = self._counted(self._points, KDTree(points))
        scores = []
        for height in sorted({*found, *wanted}):
            precision, recall = found.get(height, 1.0), wanted.get(height, 1.0)
            total = precision + recall
            scores.append(2.0 * precision * recall / total if total > 0.0 else 0.0)
        return float(np.mean(scores)) if scores else math.nan

    def _of_classes(self, classes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Points (n, 3) of some pixels: row, column, and a height for each class.

        The heights of two classes differ by more than the tolerance, so a pixel is near those of its own
        class alone, and one search serves all classes.
        """
        return np.column_stack([np.argwhere(pixels), classes[pixels].astype(np.int64) * (self.tolerance + 1)])

    def _counted(self, points: np.ndarray, others: KDTree) -> dict[int, float]:
        """For each height of `points` that count, the share that has one of `others` within the tolerance."""
        points = points[self._counts[points[:, 0], points[:, 1]]]
        # Squared distances are whole numbers, so one half more settles on which side of the limit they are.
        distance, _ = others.query(points, distance_upper_bound=math.sqrt(self.tolerance**2 + 0.5))
        near, heights = np.isfinite(distance), points[:, 2]
        return {int(height): float(near[heights == height].mean()) for height in np.unique(heights)}


class Trimap:
    """Mean IoU over the labelled pixels within some pixels of a boundary of the label, for several widths.

    At a straight boundary, the band of width w holds w pixels on each side: the pixels that touch the
    boundary, and those whose centres are less than w from the centre of such a pixel.

    Sources: Kohli et al., "Robust higher order potentials for enforcing label consistency", IJCV 2009;
    Kraehenbuehl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials",
    NIPS 2011.

    Args:
        num_classes: k.
        widths: in pixels, increasing.

    Raises:
        ValueError: `widths` is empty, not increasing or not positive.
    """

    def __init__(self, num_classes: int, widths: Sequence[int] = WIDTHS):
        if not widths or widths[0] <= 0 or any(a >= b for a, b in pairwise(widths)):
            raise ValueError(f"widths: expected increasing positive numbers of pixels, got {list(widths)}")
        self.widths = tuple(widths)
        # One matrix for the pixels that each width adds to those of the width before.
        self._added = np.zeros((len(widths), num_classes, num_classes), np.int64)

    def update(self, predicted: np.ndarray, outline: Outline) -> None:
        """Count the pixels of a prediction (H, W)."""
        inside = outline.labelled & (outline.distance < self.widths[-1])
        width = np.searchsorted(self.widths, outline.distance[inside], side="right")
        cell = np.ravel_multi_index((width, outline.label[inside], predicted[inside]), self._added.shape)
        self._added += np.bincount(cell, minlength=self._added.size).reshape(self._added.shape)

    def compute(self) -> dict[int, SegmentationScores]:
        """Return the metrics of each width over everything counted so far; NaN where there is no pixel."""
        confusions = torch.from_numpy(self._added.cumsum(0))
        return {w: scores_from_confusion(matrix) for w, matrix in zip(self.widths, confusions, strict=True)}


def _distance(pixels: np.ndarray) -> np.ndarray:
    """Distance (H, W) of each pixel to the nearest of `pixels`, infinite if there is none."""
    if not pixels.any():
        return np.full(pixels.shape, np.inf)
    return ndimage.distance_transform_edt(~pixels)
