"""The base class of all data sets: items, classes, palette, and the check before training."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

VOID = 255
"""Label value of pixels without a class, which the loss and every metric ignore."""

Split = Literal["train", "val"]
Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[Tensor, Tensor]]


class DataError(ValueError):
    """The data on disk cannot be used; the message names file, value and remedy."""

    def __init__(self, message: str):
        # In a data-loading worker, PyTorch puts a traceback before the message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class DataReport(NamedTuple):
    """The result of reading a whole split.

    Attributes:
        images: number of images.
        pixels: (k,) number of labelled pixels of each class.
        present: (k,) number of labelled pixels in the images that show the class.
        sizes: each (height, width) that occurs, with the index of an image of that size.
        void: number of void pixels.
        digests: a digest of the pixels of each image, in order.
        notes: what the user should know about the data, one sentence each.
    """

    images: int
    pixels: np.ndarray
    present: np.ndarray
    sizes: Mapping[tuple[int, int], int] = MappingProxyType({})
    void: int = 0
    digests: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = ()

    def median_frequency_weights(self) -> list[float]:
        """Compute class weights median(f) / f_c, f_c = pixels of c / labelled pixels of images showing c.

        Source: Eigen and Fergus, ICCV 2015, as used by SegNet on CamVid. A class that never occurs gets 0.
        """
        frequency = self.pixels / np.maximum(self.present, 1)
        median = np.median(frequency[frequency > 0]) if (frequency > 0).any() else 0.0
        return [float(median / f) if f > 0 else 0.0 for f in frequency]


class SegmentationDataset(Dataset[Any], ABC):
    """Images with a class index, or 255 (void), for every pixel.

    Attributes:
        name: name in the registry.
        split: "train" or "val".
        classes: class names in index order.
        palette: (k, 3) uint8 RGB, one colour per class.
        transform: applied to (image, label) by ``__getitem__``; None returns them as read.
        void_value: the numbers that mean void in the stored labels.
        label_offset: the number of the first class in the stored labels.
    """

    name: str
    split: Split
    classes: list[str]
    palette: np.ndarray
    transform: Transform | None
    void_value: tuple[int, ...] = (VOID,)
    label_offset: int = 0

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

    def check(self, progress: Callable[[int], None] | None = None) -> DataReport:
        """Read every item once, in a thread pool.

        Args:
            progress: called after each item with the number of items done.

        Raises:
            DataError: items cannot be used (the message lists the first ten and the number of the rest), or
                the labels show no class, or a single one.
        """
        pixels, void = np.zeros(len(self.classes), np.int64), 0
        present = np.zeros(len(self.classes), np.int64)
        sizes: dict[tuple[int, int], int] = {}
        digests: list[bytes] = []
        one_and_void: list[int] = []  # items whose labels hold one class and void
        several, several_and_void = False, False  # whether any label holds several classes, also with void
        errors: list[str] = []
        with ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool:
            for done, found in enumerate(pool.map(self._count, range(len(self))), start=1):
                if isinstance(found, DataError):
                    errors.append(str(found))
                else:
                    counts, size, digest = found
                    labelled = counts[: len(self.classes)]
                    pixels += labelled
                    present += np.where(labelled > 0, labelled.sum(), 0)
                    void += int(counts[VOID])
                    sizes.setdefault(size, done - 1)
                    digests.append(digest)
                    shown = int(np.count_nonzero(labelled))
                    if shown == 1 and counts[VOID]:
                        one_and_void.append(done - 1)
                    several |= shown > 1
                    several_and_void |= bool(shown > 1 and counts[VOID])
                if progress is not None:
                    progress(done)
        raise_all(errors, f"{self.name} {self.split}")
        notes = [self._class_note(pixels, void)]
        if one_and_void and several and not several_and_void:
            names = listed([self.item_name(index) for index in one_and_void])
            notes.append(
                f"{len(one_and_void)} {self.split} label(s) hold void beside a single class ({names}), and "
                f"no label of several classes holds void; {self._void_hint()}"
            )
        return DataReport(len(self), pixels, present, sizes, void, tuple(digests), tuple(notes))

    def _class_note(self, pixels: np.ndarray, void: int) -> str:
        """Say which classes occur.

        Raises:
            DataError: no class occurs, or a single one.
        """
        numbers = self._void_numbers()
        if not pixels.any():
            raise DataError(
                f"{self.name} {self.split}: every pixel of the {len(self)} labels is void ({numbers}); "
                "label at least one pixel with a class index"
            )
        absent = [f"{i + self.label_offset} ({self.classes[i]})" for i in np.flatnonzero(pixels == 0)]
        split = {"train": "training", "val": "validation"}[self.split]
        missing = f"{'class' if len(absent) == 1 else 'classes'} {listed(absent)} in no {split} label"
        found = (
            f"{len(self.classes) - len(absent)} of {len(self.classes)} classes occur"
            + (f", {missing}" if absent else "")
            + f"; {numbers} {'are' if len(self.void_value) > 1 else 'is'} void: "
            + f"{100.0 * void / (void + pixels.sum()):.1f} % of the pixels"
        )
        if np.count_nonzero(pixels) == 1:
            hint = f"; {self._void_hint()}" if void else ""
            raise DataError(
                f"{self.name} {self.split}: {found}; a single class can be neither learned nor measured, "
                f"because to predict it everywhere is always correct{hint}"
            )
        return f"{self.split} labels: {found}"

    def _void_numbers(self) -> str:
        return ", ".join(map(str, self.void_value)) or "no number"

    def _void_hint(self) -> str:
        return f"if {self._void_numbers()} stands for a class here, write the class's number there"

    def _item(self, index: int) -> tuple[Tensor, Tensor]:
        """Read an item for `check`."""
        return self.read(index)

    def _count(self, index: int) -> tuple[np.ndarray, tuple[int, int], bytes] | DataError:
        """Count the pixels of each label value, (256,); with (height, width) and a digest of the image."""
        try:
            image, label = self._item(index)
        except DataError as error:
            return error
        size = (label.shape[-2], label.shape[-1])
        digest = hashlib.blake2b(repr(size).encode() + image.numpy().tobytes(), digest_size=16).digest()
        return np.bincount(label.numpy().ravel(), minlength=256), size, digest


def listed(items: list[str], shown: int = 5) -> str:
    """Join the first `shown` items, and say how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def raise_all(errors: list[str], where: str, shown: int = 10) -> None:
    """Raise a `DataError` that lists the first `shown` errors, if there are any."""
    if not errors:
        return
    lines = [f"{where}: {len(errors)} item(s) cannot be used", *(f"  {error}" for error in errors[:shown])]
    if len(errors) > shown:
        lines.append(f"  ... and {len(errors) - shown} more")
    raise DataError("\n".join(lines))


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
