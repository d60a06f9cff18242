"""Labels whose stored number decides the class: grey and palette PNGs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from difnet.data.errors import VOID, DataError, listed
from difnet.data.files.disk import read_numbers
from difnet.data.items.item import FilePath, Label, LabelMap, Picture

_UNKNOWN = -1


class Numbering:
    """What the numbers stored in labels mean.

    Args:
        classes: the class index, or 255 for void, of each number that may be stored.
        meaning: the numbers in words, for an error: "0 to 10, 255 = void".
        remedy: what the user can do about another number.

    Attributes:
        key: a digest of the meaning of all numbers.
    """

    def __init__(self, classes: Mapping[int, int], meaning: str, remedy: str):
        self.meaning, self.remedy = meaning, remedy
        self.table = np.full(max(255, *classes, 0) + 2, _UNKNOWN, np.int16)
        for number, index in classes.items():
            self.table[number] = index
        self.key = hashlib.blake2b(self.table.tobytes(), digest_size=16).hexdigest()

    @classmethod
    def shifted(
        cls,
        num_classes: int,
        *,
        void_value: Sequence[int] = (VOID,),
        label_offset: int = 0,
        class_list: str = "classes.txt",
    ) -> "Numbering":
        """Class c is stored as label_offset + c, void as one of the numbers of `void_value`.

        `class_list` is the name of the file that lists the classes, for an error.
        """
        void = ", ".join(map(str, void_value)) or "no number"
        last = label_offset + num_classes - 1
        numbers = {label_offset + index: index for index in range(num_classes)}
        return cls(
            numbers | dict.fromkeys(void_value, VOID),
            f"outside the {num_classes} classes ({label_offset} to {last}, {void} = void)",
            f"correct the label, add the class to {class_list}, or set --label-offset and --void-value to "
            "the labels' numbering",
        )

    def classes_of(self, stored: np.ndarray, path: FilePath) -> np.ndarray:
        """Return the uint8 class indices of the numbers in `stored`, which `path` holds.

        Raises:
            DataError: a number means nothing; the message names the file, the numbers and the remedy.
        """
        small = stored
        if stored.dtype != np.uint8:  # the table has an entry for each number of 8 bits
            small = stored.clip(max=len(self.table) - 1)  # its last entry is unknown
        index = self.table[small]
        if index.size and index.min() < 0:
            unknown = np.unique(stored[index < 0])
            raise DataError(
                f"{path} holds label value(s) {listed(list(map(str, unknown)))} {self.meaning}; {self.remedy}"
            )
        return index.astype(np.uint8)


@dataclass(frozen=True)
class IndexLabel(Label):
    """A grey or palette PNG whose numbers `numbering` explains."""

    path: FilePath
    numbering: Numbering

    @property
    def files(self) -> tuple[FilePath, ...]:
        return (self.path,)

    @property
    def key(self) -> str:
        return self.numbering.key

    def read(self, picture: Picture) -> LabelMap:
        stored, orientation = read_numbers(self.path)
        return LabelMap(self.numbering.classes_of(stored, self.path), orientation)


@dataclass(frozen=True)
class ConstantLabel(Label):
    """One class, or void, for every pixel of an image that nobody annotated."""

    index: int

    @property
    def files(self) -> tuple[FilePath, ...]:
        return ()

    @property
    def key(self) -> str:
        return str(self.index)

    def read(self, picture: Picture) -> LabelMap:
        return LabelMap(np.full(picture.size, self.index, np.uint8))
