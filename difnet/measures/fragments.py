"""Into how many pieces a segmentation falls: connected components of each class.

Two pixels of a class are connected if one is beside or above the other (4-connectivity). Diagonal neighbours
are not.
"""

from typing import Any

import numpy as np
from scipy import ndimage

from difnet.data.errors import VOID


def count_fragments(classes: np.ndarray, labelled: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the connected components of each class.

    Args:
        classes: (H, W), the class of each pixel.
        labelled: (H, W), False where the label is void. These pixels are left out, also of a prediction, so
            void cuts the components of label and prediction alike.
        num_classes: k.

    Returns:
        (k,) numbers of components.
    """
    counts = np.zeros(num_classes, np.int64)
    for index in np.unique(classes[labelled]):
        # Without a structure, `label` connects the four neighbours.
        counts[index] = ndimage.label((classes == index) & labelled)[1]
    return counts


class Fragments:
    """Numbers of components in predictions and labels, summed over images.

    Args:
        num_classes: k.
    """

    def __init__(self, num_classes: int):
        self.images = 0
        self.predicted, self.labelled = (np.zeros(num_classes, np.int64) for _ in range(2))

    def update(self, predicted: np.ndarray, label: np.ndarray) -> None:
        """Count the components of a prediction (H, W) and its label (H, W), with 255 for void."""
        labelled = label != VOID
        self.images += 1
        self.predicted += count_fragments(predicted, labelled, len(self.predicted))
        self.labelled += count_fragments(label, labelled, len(self.labelled))

    def as_record(self) -> dict[str, Any]:
        """Return mean numbers for each image, and their ratio, over all classes; null if there are none."""
        return self._record(int(self.predicted.sum()), int(self.labelled.sum()))

    def by_class(self, classes: list[str]) -> dict[str, Any]:
        """Return the same for each class, by its name."""
        counts = zip(classes, self.predicted.tolist(), self.labelled.tolist(), strict=True)
        return {name: self._record(predicted, labelled) for name, predicted, labelled in counts}

    def _record(self, predicted: int, labelled: int) -> dict[str, float | None]:
        return {
            "predicted": predicted / self.images if self.images else None,
            "labelled": labelled / self.images if self.images else None,
            "ratio": predicted / labelled if labelled else None,
        }
