"""Procedurally drawn scenes with exact labels: no files, no download, equal on every machine for one seed.

Sky, ground, discs, squares, triangles and rings each have a mean colour. But colours vary and overlap under
texture and shading, and one surface in four has the colour of a random class. So the colour of a patch only
hints at its class: the horizon separates sky and ground, and outlines show the shapes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torchvision import tv_tensors

from difnet.data.base import SegmentationDataset, Split, Transform
from difnet.data.checks.report import DataReport

_MEAN_COLOURS = np.array(
    [
        [0.45, 0.62, 0.80],  # sky
        [0.50, 0.40, 0.28],  # ground
        [0.75, 0.33, 0.30],  # disc
        [0.80, 0.68, 0.28],  # square
        [0.32, 0.62, 0.36],  # triangle
        [0.56, 0.34, 0.66],  # ring
    ]
)
_SPLIT_KEYS = {"train": 0, "val": 1}
_COUNTS = {"train": 1920, "val": 96}


class Scenes(SegmentationDataset):
    """Drawn scenes of six classes; item i depends only on (rng_seed, split, i).

    Args:
        split: "train" or "val"; the two never share an item.
        transform: see `SegmentationDataset`.
        count: number of items, 1920 for training and 96 for validation by default.
        size: side of the square image in pixels.
        rng_seed: the random seed of the whole data set.
    """

    name = "scenes"
    classes = ["sky", "ground", "disc", "square", "triangle", "ring"]  # noqa: RUF012
    palette = np.array(
        [[110, 170, 230], [120, 90, 60], [220, 60, 50], [250, 190, 40], [60, 170, 80], [150, 70, 180]],
        np.uint8,
    )

    def __init__(
        self,
        split: Split,
        *,
        transform: Transform | None = None,
        count: int | None = None,
        size: int = 96,
        rng_seed: int = 0,
    ):
        self.split = split
        self.transform = transform
        self.count = _COUNTS[split] if count is None else count
        self.size = size
        self.rng_seed = rng_seed

    def __len__(self) -> int:
        return self.count

    def item_name(self, index: int) -> str:
        """Return the name, ``scene_00012`` for item 12."""
        return f"scene_{index:05d}"

    def check(self, progress: Callable[[int], None] | None = None) -> DataReport:
        """Estimate the class frequencies from the first 64 items; drawn scenes need no further check."""
        sample = Scenes(self.split, count=min(64, self.count), size=self.size, rng_seed=self.rng_seed)
        return super(Scenes, sample).check(progress)

    def read(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Draw item `index`."""
        if not 0 <= index < self.count:
            raise IndexError(f"scenes {self.split} has items 0 to {self.count - 1}, got index {index}")
        rng = np.random.default_rng([self.rng_seed, _SPLIT_KEYS[self.split], index])
        image, label = draw_scene(rng, self.size)
        return (
            tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous()),
            tv_tensors.Mask(torch.from_numpy(label)),
        )


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: image (size, size, 3) uint8 and label (size, size) uint8."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64) / size
    horizon = rng.uniform(0.3, 0.7) + rng.uniform(-0.25, 0.25) * (columns - 0.5)
    horizon += rng.uniform(0.0, 0.03) * np.sin(rng.uniform(4.0, 12.0) * columns + rng.uniform(0.0, 6.0))
    label = (rows > horizon).astype(np.uint8)

    sky, ground = _colour(rng, 0), _colour(rng, 1)
    while np.abs(sky - ground).max() < 0.15:
        ground = _colour(rng, 1)
    image = np.where(
        label[..., None] == 0, _surface(rng, sky, rows, columns), _surface(rng, ground, rows, columns)
    )

    for _ in range(rng.integers(2, 6)):
        kind = int(rng.integers(2, 6))
        inside = _shape(rng, kind, rows, columns)
        colour = _colour(rng, kind)
        while min(np.abs(colour - sky).max(), np.abs(colour - ground).max()) < 0.15:
            colour = _colour(rng, kind)
        image[inside] = _surface(rng, colour, rows, columns)[inside]
        label[inside] = kind

    image *= 1.0 + _plane(rng, 0.3, rows, columns)[..., None]
    image += rng.normal(0.0, rng.uniform(0.01, 0.05), image.shape)
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8), label


def _colour(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Draw a colour near the mean of class `kind` or, with probability 1/4, of a random class."""
    if rng.uniform() < 0.25:
        kind = int(rng.integers(len(_MEAN_COLOURS)))
    varied = _MEAN_COLOURS[kind] + rng.uniform(-0.15, 0.15) + rng.normal(0.0, 0.09, 3)
    return np.clip(varied, 0.05, 0.95)


def _plane(rng: np.random.Generator, strength: float, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Draw shading: a linear ramp in a random direction, 0 at the centre."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    return rng.uniform(0.0, strength) * (np.cos(angle) * (rows - 0.5) + np.sin(angle) * (columns - 0.5)) * 2.0


def _surface(
    rng: np.random.Generator, colour: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Draw (H, W, 3) of one colour with shading, stripes and blotches."""
    angle, frequency = rng.uniform(0.0, np.pi), rng.uniform(20.0, 70.0)
    stripes = np.sin(frequency * (np.cos(angle) * rows + np.sin(angle) * columns) + rng.uniform(0.0, 6.0))
    blotches = rng.normal(0.0, 1.0, (5, 5))
    r, c = np.minimum(rows * 4.0, 3.999), np.minimum(columns * 4.0, 3.999)
    i, j = r.astype(int), c.astype(int)
    u, v = r - i, c - j
    smooth = (1 - u) * ((1 - v) * blotches[i, j] + v * blotches[i, j + 1]) + u * (
        (1 - v) * blotches[i + 1, j] + v * blotches[i + 1, j + 1]
    )
    light = rng.uniform(0.0, 0.1) * stripes + 0.04 * smooth + _plane(rng, 0.15, rows, columns)
    return colour + light[..., None]


def _shape(rng: np.random.Generator, kind: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Draw the mask of a disc (2), square (3), triangle (4) or ring (5) of random place, size and angle."""
    radius, angle = rng.uniform(0.14, 0.28), rng.uniform(0.0, 2.0 * np.pi)
    y, x = rows - rng.uniform(0.1, 0.9), columns - rng.uniform(0.1, 0.9)
    if kind in (2, 5):
        distance = np.hypot(y, x)
        return (distance < radius) & (distance > (0.55 * radius if kind == 5 else -1.0))
    corners = 4 if kind == 3 else 3
    normals = angle + 2.0 * np.pi * np.arange(corners) / corners
    apothem = radius * np.cos(np.pi / corners) * (1.0 if kind == 3 else 1.25)
    return np.all([np.cos(a) * y + np.sin(a) * x < apothem for a in normals], axis=0)
