"""One image of a data set on disk, and where its label comes from.

An annotation tool may keep a label as numbers, colours, polygons or several files. Each kind is a subclass of
`Label`; the data set reads all of them in the same way.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np

FilePath = str | Path
"""A file. To make objects of pathlib for a hundred thousand files takes seconds."""


class Picture(NamedTuple):
    """What a label may need to know about its image.

    Attributes:
        path: the file.
        size: (height, width) of the upright image.
        orientation: the value of its EXIF tag Orientation, 1 to 8; 1 leaves the stored pixels as they are.
    """

    path: FilePath
    size: tuple[int, int]
    orientation: int = 1


class LabelMap(NamedTuple):
    """A label that was read.

    Attributes:
        classes: (H, W) uint8 class indices, 255 = void.
        orientation: the value of the label file's own EXIF tag Orientation, which `classes` has followed.
    """

    classes: np.ndarray
    orientation: int = 1


class Label(ABC):
    """The label of one image, on disk. Instances are small, immutable and can be pickled."""

    @property
    @abstractmethod
    def files(self) -> tuple[FilePath, ...]:
        """The files that the label is read from; the first one stands for it in messages."""

    @property
    def key(self) -> str:
        """What else decides what is read, beside the files, the classes and the options of `Reading`."""
        return ""

    @abstractmethod
    def read(self, picture: Picture) -> LabelMap:
        """Read the label for the upright image.

        The result may have another size than the image: the data set compares the two and says what is wrong.

        Raises:
            DataError: a file cannot be used; the message names file, value and remedy.
        """


class Item(NamedTuple):
    """An image with its label.

    Attributes:
        name: unique in its split, with ``/`` between folders and without the ending of the image's file.
        image: the image file.
        label: where its label comes from.
    """

    name: str
    image: FilePath
    label: Label
