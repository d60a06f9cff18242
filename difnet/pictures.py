"""Label maps as pictures: palette PNG, overlay on the image, side by side."""

import numpy as np
from PIL import Image
from torch import Tensor

from difnet.data.base import VOID


def to_array(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 of an image (3, H, W), uint8 or float in [0, 1]."""
    if image.is_floating_point():
        image = (image.clamp(0.0, 1.0) * 255.0).round()
    return image.detach().cpu().permute(1, 2, 0).numpy().astype(np.uint8)


def colour_labels(label: Tensor, palette: np.ndarray) -> Image.Image:
    """Palette picture of label (H, W): pixel value = class index, void (255) black.

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
    """RGB picture of image (3, H, W) under the colours of label (H, W); void pixels show the image alone."""
    base = to_array(image).astype(np.float64)
    colours = np.asarray(colour_labels(label, palette).convert("RGB"), np.float64)
    weight = opacity * (label.detach().cpu().numpy() != VOID)[..., None]
    return Image.fromarray(np.round((1.0 - weight) * base + weight * colours).astype(np.uint8))


def side_by_side(*pictures: Image.Image, gap: int = 4) -> Image.Image:
    """One RGB picture of pictures of equal height, left to right with a white gap."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture.convert("RGB"), (left, 0))
        left += picture.width + gap
    return sheet
