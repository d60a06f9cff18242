"""What the check of a whole split found."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from difnet.data.checks.finding import Finding


class DataReport(NamedTuple):
    """The result of reading a whole split.

    Attributes:
        images: number of images.
        pixels: (k,) number of labelled pixels of each class.
        present: (k,) number of labelled pixels in the images that show the class.
        sizes: each (height, width) that occurs, with the index of an image of that size.
        void: number of void pixels.
        findings: what was found of each image, in order.
        notes: what the user should know about the data, one sentence each.
    """

    images: int
    pixels: np.ndarray
    present: np.ndarray
    sizes: Mapping[tuple[int, int], int] = MappingProxyType({})
    void: int = 0
    findings: Sequence[Finding] = ()
    notes: tuple[str, ...] = ()

    def median_frequency_weights(self) -> list[float]:
        """Compute class weights median(f) / f_c, f_c = pixels of c / labelled pixels of images showing c.

        Source: Eigen and Fergus, ICCV 2015, as used by SegNet on CamVid. A class that never occurs gets 0.
        """
        frequency = self.pixels / np.maximum(self.present, 1)
        median = np.median(frequency[frequency > 0]) if (frequency > 0).any() else 0.0
        return [float(median / f) if f > 0 else 0.0 for f in frequency]
