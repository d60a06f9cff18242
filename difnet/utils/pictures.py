"""Draws label maps: as palette PNG, as overlay on the image, side by side."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difnet.data.base import SegmentationDataset, distinct_palette
from difnet.data.errors import VOID
from difnet.utils.files import distinct_names, write_atomically

PIXELS_AT_ONCE = 2**20
"""Pixels whose colours are mixed at a time: double precision takes 24 bytes for each, several times."""


def to_array(image: Tensor) -> np.ndarray:
    """Convert an image (3, H, W), uint8 or float in [0, 1], to (H, W, 3) uint8."""
    if image.is_floating_point():
        image = (image.clamp(0.0, 1.0) * 255.0).round()
    return image.detach().cpu().permute(1, 2, 0).numpy().astype(np.uint8)


def palette_of(metadata: dict[str, Any], classes: int) -> np.ndarray:
    """Return (k, 3) uint8 colours of a network's k classes: those saved with its weights, or generated ones.

    Raises:
        ValueError: the saved palette does not hold one colour for each class.
    """
    saved = metadata.get("palette")
    if saved is None:
        return distinct_palette(classes)
    try:
        colours = np.array(saved)
    except ValueError:  # the rows differ in length
        colours = np.zeros(0)
    if (
        colours.shape != (classes, 3)
        or colours.dtype.kind not in "iu"
        or not (colours == colours % 256).all()
    ):
        raise ValueError(
            "the palette saved with the weights is not one colour [r, g, b] of whole numbers 0 to 255 for "
            f"each of the {classes} classes; save them with such a palette, or without one"
        )
    return colours.astype(np.uint8)


def colour_labels(label: Tensor, palette: np.ndarray) -> Image.Image:
    """Draw a label map as a palette picture: pixel value = class index, void (255) is black.

    Args:
        label: (H, W) class indices, 255 = void.
        palette: (k, 3) uint8 RGB.
    """
    picture = Image.fromarray(label.detach().cpu().numpy().astype(np.uint8))
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    picture.putpalette(colours.tobytes())
    return picture


def overlay(image: Tensor, label: Tensor, palette: np.ndarray, opacity: float = 0.5) -> Image.Image:
    """Draw the colours of label (H, W) over image (3, H, W); void pixels show only the image."""
    height, width = label.shape
    picture = np.empty((height, width, 3), np.uint8)
    step = max(1, PIXELS_AT_ONCE // max(1, width))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        base = to_array(image[:, rows]).astype(np.float64)
        colours = np.asarray(colour_labels(label[rows], palette).convert("RGB"), np.float64)
        weight = opacity * (label[rows].detach().cpu().numpy() != VOID)[..., None]
        picture[rows] = np.round((1.0 - weight) * base + weight * colours).astype(np.uint8)
    return Image.fromarray(picture)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write `picture` as PNG, whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def side_by_side(*pictures: Image.Image, gap: int = 4) -> Image.Image:
    """Join pictures of equal height to one RGB picture, left to right with a white gap."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture.convert("RGB"), (left, 0))
        left += picture.width + gap
    return sheet


@torch.inference_mode()
def save_overlays(
    model: torch.nn.Module, dataset: SegmentationDataset, folder: Path, count: int, device: torch.device
) -> None:
    """Write `count` pictures, spread evenly over `dataset`: image, true labels, predicted labels."""
    model.eval()
    count = min(count, len(dataset))
    indices = sorted({round(i * (len(dataset) - 1) / max(1, count - 1)) for i in range(count)})
    names = distinct_names([dataset.item_name(index) for index in indices])
    for index, name in zip(indices, names, strict=True):
        image, label = dataset[index]
        predicted = model(image[None].to(device)).argmax(1)[0].cpu()
        truth = overlay(image, label, dataset.palette)
        plain = overlay(image, label, dataset.palette, opacity=0.0)
        sheet = side_by_side(plain, truth, overlay(image, predicted, dataset.palette))
        save_picture(sheet, folder / f"{name}.png")


def image_scale_of(metadata: dict[str, Any], option: float | None, checkpoint: Path) -> float:
    """Return the factor by which a network's images are resized: `option`, or if it is None, as in training.

    Args:
        metadata: saved with the network's weights.
        option: the value of --image-scale.
        checkpoint: where the metadata are from, for an error.

    Raises:
        ValueError: it is not a positive number.
    """
    if option is not None:
        if not 0.0 < option < math.inf:
            raise ValueError(f"--image-scale must be positive and finite, got {option}")
        return option
    saved = metadata.get("image_scale", 1.0)  # earlier versions had none
    if isinstance(saved, bool) or not isinstance(saved, int | float) or not 0.0 < saved < math.inf:
        raise ValueError(
            f"{checkpoint}: its metadata hold image_scale = {saved!r}, expected a positive number; give "
            "--image-scale"
        )
    return float(saved)
