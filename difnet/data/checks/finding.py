"""What a check keeps of one image and its label, as a value and as bytes for a cache."""

import hashlib
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from difnet.data.checks.alignment import alignments
from difnet.data.errors import VOID

_HEAD = struct.Struct("<IIBB16s8fH")  # size, turns, digest, alignments, number of label values


class Finding(NamedTuple):
    """What is known of an item that can be used.

    Attributes:
        size: (height, width) of the upright image.
        values: (m,) uint8, the class indices that occur in the label, 255 = void, in order.
        counts: (m,) int64, the number of pixels of each.
        digest: a digest of the image's pixels.
        alignments: (8,) float32; see `difnet.data.checks.alignment.alignments`.
        turn, label_turn: the EXIF tags Orientation of the two files, which both have followed.
    """

    size: tuple[int, int]
    values: np.ndarray
    counts: np.ndarray
    digest: bytes
    alignments: np.ndarray
    turn: int = 1
    label_turn: int = 1

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.size[0] * self.size[1]

    @property
    def void(self) -> int:
        """The number of void pixels."""
        return int(self.counts[-1]) if len(self.values) and self.values[-1] == VOID else 0

    def to_bytes(self) -> bytes:
        """Write all fields as bytes."""
        head = _HEAD.pack(
            *self.size, self.turn, self.label_turn, self.digest, *self.alignments.tolist(), len(self.values)
        )
        return head + self.values.astype("u1").tobytes() + self.counts.astype("<i8").tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> "Finding":
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: the bytes are something else.
        """
        try:
            height, width, turn, label_turn, digest, *scores, length = _HEAD.unpack_from(data)
        except struct.error as error:
            raise ValueError(f"{len(data)} bytes are not a finding") from error
        if len(data) != _HEAD.size + 9 * length:
            raise ValueError(f"{len(data)} bytes are not a finding of {length} label values")
        values = np.frombuffer(data, "u1", length, _HEAD.size)
        counts = np.frombuffer(data, "<i8", length, _HEAD.size + length)
        return Finding(
            (height, width), values, counts, digest, np.array(scores, np.float32), turn, label_turn
        )


def examined(image: np.ndarray, label: np.ndarray, turn: int = 1, label_turn: int = 1) -> Finding:
    """Count an image (H, W, 3) uint8 and its label (H, W) uint8, whose files had these EXIF turns."""
    counts = np.array(Image.fromarray(label).histogram())  # three times as fast as numpy's bincount
    values = np.flatnonzero(counts)
    size = (label.shape[0], label.shape[1])
    digest = hashlib.blake2b(repr(size).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Finding(
        size,
        values.astype(np.uint8),
        counts[values].astype(np.int64),
        digest.digest(),
        alignments(image, label),
        turn,
        label_turn,
    )
