"""Miniature files in the layouts of published data sets, and how tests read them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difnet.data import DataError, create_dataset
from difnet.data.options import Reading

SIZE = (24, 32)


def regions(numbers: Sequence[int], seed: int = 0) -> np.ndarray:
    """Draw (24, 32) uint8: the last number in the top row, the first on the left, the others in boxes."""
    first, *others, last = numbers
    drawn = np.full(SIZE, first, np.uint8)
    for place, number in enumerate(others):
        drawn[4 + seed % 3 + 4 * place : 12 + 4 * place, 10 + 5 * place :] = number
    drawn[0] = last
    return drawn


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_label(path: Path, pixels: np.ndarray, palette: Sequence[Sequence[int]] = ()) -> Path:
    """Write (H, W) numbers as a grey or palette PNG, or (H, W, 3) as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:
        picture = picture.convert("P")  # from L, this keeps the numbers
        picture.putpalette([level for colour in palette for level in colour])
    picture.save(path)
    return path


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def labels_of(name: str, root: Path, split: str = "train", **options) -> dict[str, np.ndarray]:
    """Read all labels of a miniature set by name, and check that their images are read too."""
    dataset = create_dataset(name, root, split, reading=Reading(**{"subset": True, **options}))
    found = {}
    for index in range(len(dataset)):
        image, label = dataset.read(index)
        assert image.shape[-2:] == label.shape
        found[dataset.item_name(index)] = label.numpy()
    assert list(found) == sorted(found)
    return found


def refusal(name: str, root: Path, split: str = "train", **options) -> str:
    """Return the message with which a miniature set is refused when it is opened or read."""
    with pytest.raises(DataError) as caught:
        labels_of(name, root, split, **options)
    return str(caught.value)


def notes_of(name: str, root: Path, split: str = "train", **options) -> str:
    """Return the notes of a miniature set, one a line."""
    return "\n".join(create_dataset(name, root, split, reading=Reading(**{"subset": True, **options})).notes)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[it], expected[it]) for it in expected)
