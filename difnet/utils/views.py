"""Test-time augmentation: predictions averaged over an image at several scales, and mirrored."""

from collections.abc import Sequence

from torch import Tensor, nn

from difnet.data.transforms import scaled_size
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.resampling import upsample_bilinear

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)


class Views:
    """Test-time augmentation: class probabilities averaged over scales and mirroring.

    Args:
        scales: factors of the input's size.
        flip: also average over the mirrored image.
    """

    def __init__(self, scales: Sequence[float] = SCALES, flip: bool = False):
        self.scales = tuple(scales)
        self.flip = flip

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (h, w) of an image of `size` = (H, W) at each scale."""
        return [scaled_size(size, scale) for scale in self.scales]

    def probabilities(self, model: nn.Module, image: Tensor) -> Tensor:
        """Average the class probabilities, (B, k, H, W), of image (B, 3, H, W) in [0, 1]."""
        height, width = image.shape[-2:]
        total: Tensor | None = None
        count = 0
        for size in self.sizes((height, width)):
            scaled = resize_antialiased(image, size)
            for mirrored in (False, True) if self.flip else (False,):
                logits = model(scaled.flip(-1) if mirrored else scaled).float()
                probabilities = upsample_bilinear(logits, (height, width)).softmax(1)
                probabilities = probabilities.flip(-1) if mirrored else probabilities
                total = probabilities if total is None else total + probabilities
                count += 1
        if total is None:
            raise ValueError("scales: expected at least one factor, got none")
        return total / count


def make_views(multi_scale: bool, flip: bool, image_scale: float = 1.0) -> Views | None:
    """Make the views of --multi-scale, --flip and --image-scale; None if they leave the image as it is."""
    if not (multi_scale or flip) and image_scale == 1.0:
        return None
    return Views([image_scale * scale for scale in (SCALES if multi_scale else (1.0,))], flip)


def check_views(model: DifNet | SimDeepLab, size: tuple[int, int], views: Views | None) -> None:
    """Check that `model` takes images of `size` = (H, W), and its views.

    Raises:
        ValueError: it does not; the message names backbone, size and remedy.
    """
    for view in [size] if views is None else views.sizes(size):
        try:
            model.check_size(view)
        except ValueError as error:
            if view == size:
                raise
            raise ValueError(
                f"a view of {size[0]} x {size[1]} pixels (--multi-scale and --image-scale resize pictures): "
                f"{error}"
            ) from error


def resize_antialiased(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image (B, c, H, W) to `size`, as training resizes its images."""
    if tuple(image.shape[-2:]) == size:
        return image
    return nn.functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
