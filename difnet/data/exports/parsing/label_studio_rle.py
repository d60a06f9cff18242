"""Unpacks the brush masks of Label Studio: a stream of bits, which is not the run-length code of COCO.

The stream begins with the number of values (32 bits), the bits of a value less one (5), and the bits of a
length less one, for each of four kinds of packets (4 each). Each packet has a bit that says whether one value
is repeated, two bits for its kind, and its length less one; then follows the value, or as many values as the
length says. The highest bit of a byte comes first. The values are the red, green, blue and opacity of the
pixels in turn, row by row, and the opacity says what was painted.

These facts are those of HumanSignal/label-studio-sdk: src/label_studio_sdk/converter/brush.py.
"""

import numpy as np

_HEADER = 32 + 5 + 4 * 4  # bits


class BrokenStream(ValueError):
    """The bits are no brush mask; the message completes the sentence "the stream ..."."""


def unpack(stream: bytes) -> np.ndarray:
    """Return the values of a stream, uint8.

    Raises:
        BrokenStream: it ends too early, or its values have more than 8 bits.
    """
    end = 8 * len(stream)
    if end < _HEADER:
        raise BrokenStream(f"has only {len(stream)} bytes")
    padded = stream + bytes(8)
    header = int.from_bytes(stream[:7], "big") >> (56 - _HEADER)
    count, word = header >> 21, (header >> 16 & 31) + 1
    lengths = [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    if word > 8:
        raise BrokenStream(f"has values of {word} bits, expected 8")
    values = bytearray()
    single = [bytes([value]) for value in range(256)]
    place = _HEADER
    while len(values) < count:
        # The eight bytes from the one that holds bit `place` hold at least 57 more bits; a packet's beginning
        # with its first value has at most 3 + 16 + 8.
        bits = int.from_bytes(padded[place >> 3 : (place >> 3) + 8], "big") << (place & 7)
        size = lengths[bits >> 61 & 3]
        length = (bits >> (61 - size) & ((1 << size) - 1)) + 1
        place += 3 + size
        if bits >> 63 & 1 or length == 1:  # loops over packets of one value would be slow with NumPy
            values += single[bits >> (61 - size - word) & ((1 << word) - 1)] * length
            place += word
        elif place + word * length <= end:
            values += _words(padded, place, word, length).tobytes()
            place += word * length
        else:
            place = end + 1
        if place > end:
            raise BrokenStream(f"ends before all of its {count} values")
    if len(values) > count:
        raise BrokenStream(f"holds more than the {count} values that it announces")
    return np.frombuffer(values, np.uint8)


def _words(stream: bytes, place: int, word: int, length: int) -> np.ndarray:
    """Read `length` numbers of `word` bits, one after another from bit `place`."""
    first = place >> 3
    part = np.frombuffer(stream, np.uint8, (place + word * length + 7 >> 3) - first, first)
    bits = np.unpackbits(part)[place & 7 :][: word * length].reshape(length, word)
    return np.packbits(bits, axis=1)[:, 0] >> (8 - word)


def painted(opacity: np.ndarray) -> np.ndarray:
    """Decide which pixels a brush mask covers.

    The edge of a brush stroke is smooth, with values from 1 to 254: more than half of 255 counts. Where no
    value is above 1, the mask was imported from one of 0 and 1, and 1 counts.

    Args:
        opacity: uint8, of any shape.

    Returns:
        bool, of the same shape.
    """
    return opacity > (127 if opacity.max(initial=0) > 1 else 0)
