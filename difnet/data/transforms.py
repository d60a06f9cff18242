"""Augmentation with torchvision.transforms.v2, which uses the same random parameters for image and label."""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from difnet.data.errors import VOID

PAD_COLOUR = (124, 116, 104)
"""ImageNet's mean RGB, so that padding is near zero after the model has normalised its input."""


class RandomScale(v2.Transform):
    """Resize image and label by one factor drawn uniformly from `scale`.

    The label takes the nearest pixel, with the same half-pixel centres as the bilinear grid of the image.
    torchvision's own resize of masks is off by up to half a source pixel.
    """

    def __init__(self, scale: tuple[float, float]):
        super().__init__()
        low, high = scale
        if not 0.0 < low <= high:
            raise ValueError(f"scale must be 0 < low <= high, got {scale}")
        self.scale = (low, high)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor; torchvision calls this once per (image, label) pair."""
        low, high = self.scale
        factor = low + (high - low) * float(torch.rand(()))
        height, width = flat_inputs[0].shape[-2:]
        size = list(scaled_size((height, width), factor))
        # PyTorch 2.14 cannot resize an 8-bit picture to a single pixel.
        return {"size": [1, 2] if size == [1, 1] else size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        size = params["size"]
        if isinstance(inpt, tv_tensors.Mask):
            plain = inpt.as_subclass(torch.Tensor)[None]
            nearest = tvf.InterpolationMode.NEAREST_EXACT
            return tv_tensors.Mask(tvf.resize_image(plain, size, interpolation=nearest)[0])
        return tvf.resize(inpt, size, antialias=True)


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return (height, width) of an image of `size` that is resized by `factor`, at least one pixel."""
    height, width = size
    return max(1, round(height * factor)), max(1, round(width * factor))


def _to_tensors() -> list[v2.Transform]:
    return [
        v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
        v2.ToPureTensor(),
    ]


def train_transform(
    crop_size: int, scale: tuple[float, float] = (0.5, 1.5), flip: bool = True
) -> v2.Transform:
    """Make a random flip, scale and crop, which draws from torch's global generator.

    Returns:
        (image uint8 (3, H, W), label uint8 (H, W)) -> (image float (3, c, c) in [0, 1], label int64 (c, c)),
        c = crop_size. If the scaled image is smaller than the crop, it is padded with `PAD_COLOUR`, and the
        label with 255.
    """
    fill = {tv_tensors.Image: PAD_COLOUR, tv_tensors.Mask: VOID}
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip()] if flip else []
    steps += [RandomScale(scale), v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill)]
    return v2.Compose(steps + _to_tensors())


def eval_transform(scale: float = 1.0) -> v2.Transform:
    """Make the transform (image uint8, label uint8) -> (image float in [0, 1], label int64).

    Args:
        scale: factor by which image and label are resized.
    """
    steps: list[v2.Transform] = [] if scale == 1.0 else [RandomScale((scale, scale))]
    return v2.Compose(steps + _to_tensors())
