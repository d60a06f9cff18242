"""How well the outlines of a label lie on the edges of its image, as it is and turned in seven other ways.

A label that was stored turned, mirrored or transposed has the right size if the picture is square or was
turned by 180 degrees. But its outlines then cross smooth surfaces.
"""

import numpy as np
from PIL import Image

_SIDE = 96
"""Side of the square grid on which image and label are compared."""

TURNS = (
    *("as it is", "mirrored left to right", "turned by 180 degrees", "mirrored top to bottom"),
    *("transposed", "turned by 90 degrees clockwise", "transposed along the other diagonal"),
    "turned by 90 degrees counterclockwise",
)
"""What was done to the label, in the order of EXIF's tag Orientation 1 to 8."""


def turned(label: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels (H, W) upright as the tag Orientation says."""
    turns = (
        lambda it: it,
        lambda it: it[:, ::-1],
        lambda it: it[::-1, ::-1],
        lambda it: it[::-1],
        lambda it: it.T,
        lambda it: it.T[:, ::-1],
        lambda it: it[::-1, ::-1].T,
        lambda it: it.T[::-1],
    )
    return turns[orientation - 1](label)


def alignments(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Compare the edges of an image (H, W, 3) with the outlines of its label (H, W), turned in eight ways.

    Returns:
        (8,) float32: the mean gradient of the image along the outlines, over that of all pixels, when the
        label is turned by the EXIF orientations 1 to 8. It is 0 where there are no outlines or no edges, and
        for the turns that exchange height and width of a picture that is not square.
    """
    height, width = label.shape
    side = (min(_SIDE, width), min(_SIDE, height))
    grey = Image.fromarray(image[..., 1]).resize(
        side, Image.Resampling.BOX
    )  # green is most of the brightness
    small = np.asarray(Image.fromarray(label).resize(side, Image.Resampling.NEAREST))
    edges = _jumps(np.asarray(grey, np.float32))
    outlines = (_jumps(small.astype(np.float32)) > 0).astype(np.float32)
    found = np.zeros(8, np.float32)
    total = float(edges.mean()) * float(outlines.sum())
    if total > 0:
        for orientation in range(1, 9 if height == width else 5):
            found[orientation - 1] = float((edges * turned(outlines, orientation)).sum()) / total
    return found


def _jumps(values: np.ndarray) -> np.ndarray:
    """The largest difference of each pixel (H, W) to its four neighbours."""
    found = np.zeros_like(values)
    down, right = np.abs(np.diff(values, axis=0)), np.abs(np.diff(values, axis=1))
    np.maximum(found[:-1], down, out=found[:-1])
    np.maximum(found[1:], down, out=found[1:])
    np.maximum(found[:, :-1], right, out=found[:, :-1])
    np.maximum(found[:, 1:], right, out=found[:, 1:])
    return found
