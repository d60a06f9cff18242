"""The base class of all data sets: items, classes, palette, and the check before training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from difnet.data.checks.finding import Finding, examined
from difnet.data.checks.report import DataReport
from difnet.data.checks.survey import survey
from difnet.data.errors import VOID

Split = Literal["train", "val"]
Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[Tensor, Tensor]]


class SegmentationDataset(Dataset[Any], ABC):
    """Images with a class index, or 255 (void), for every pixel.

    Attributes:
        name: name in the registry.
        split: "train" or "val".
        classes: class names in index order.
        palette: (k, 3) uint8 RGB, one colour per class.
        transform: applied to (image, label) by ``__getitem__``; None returns them as read.
        void_text: what means void in the stored labels, for messages.
        label_offset: the number of the first class in the stored labels, for messages.
        notes: what the user should know about the files, one sentence each; a check returns them too.
    """

    name: str
    split: Split
    classes: list[str]
    palette: np.ndarray
    transform: Transform | None
    void_text: str = str(VOID)
    label_offset: int = 0
    notes: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Read image (3, H, W) uint8 RGB and label (H, W) uint8, untransformed.

        Raises:
            DataError: the item cannot be used; the message names file, value and remedy.
        """

    @abstractmethod
    def item_name(self, index: int) -> str:
        """Return a short name of an item, unique in the split, with ``/`` between folders."""

    def __getitem__(self, index: int) -> Any:
        """Return the transformed pair; see `read` for the untransformed one."""
        pair = self.read(index)
        return self.transform(*pair) if self.transform is not None else pair

    def examine(self, index: int) -> Finding:
        """Read an item, and return what `survey` counts of it.

        Raises:
            DataError: as `read`.
        """
        image, label = self.read(index)
        return examined(image.permute(1, 2, 0).numpy(), label.numpy())

    def stamp(self, index: int) -> bytes | None:
        """Return what changes when the item may have changed; None if what is found of it is not kept."""
        return None

    def reading_key(self) -> str:
        """Return all that decides how the items are read, for the cache of what was found."""
        return f"{self.name} {self.split}"

    def check(self, progress: Callable[[int], None] | None = None) -> DataReport:
        """Read every item once, on all cores; see `difnet.data.checks.survey.survey`."""
        return survey(self, progress)


def distinct_palette(count: int) -> np.ndarray:
    """Make (count, 3) uint8 colours for data without a palette: golden-ratio hues, three brightnesses."""
    hue = (np.arange(count) * 0.618034) % 1.0
    value = np.array([0.95, 0.7, 0.45])[np.arange(count) % 3]
    return hsv_to_rgb(hue, np.full(count, 0.75), value)


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Convert hue, saturation and value in [0, 1] to uint8 RGB (..., 3)."""
    sector = (np.array([5.0, 3.0, 1.0]) + hue[..., None] * 6.0) % 6.0
    ramp = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    rgb = value[..., None] * (1.0 - saturation[..., None] * ramp)
    return np.round(rgb * 255.0).astype(np.uint8)
