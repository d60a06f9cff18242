"""Feature extractors from timm at output stride 8."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

OUTPUT_STRIDE = 8
NUM_BLOCKS = 4


class Backbone(nn.Module):
    """The outputs of the last four blocks of a timm network, the last of them at stride 8.

    For a ResNet these are its four residual stages, of stride 4, 8, 8 and 8: the strides of the third and
    fourth are replaced by dilation.

    Args:
        name: a timm name, with or without a tag ("resnet50.tv_in1k").
        blocks: which of the four (1 to 4) to return, ascending; timm leaves out the layers after the last
            where the network allows it.
        pretrained: load timm's weights for that name, downloading them if need be.

    Attributes:
        channels: the number of channels of each returned map.
        mean, std: the normalisation that timm's weights for that name expect, (3,) each.

    Raises:
        ValueError: the network has no feature maps of stride 8, or no pretrained weights.
        RuntimeError: the pretrained weights could not be read.
    """

    def __init__(self, name: str, blocks: tuple[int, ...] = (1, 2, 3, 4), *, pretrained: bool = False):
        super().__init__()
        if pretrained and not timm.is_model_pretrained(name):
            raise ValueError(
                f"timm has no pretrained weights for {name!r}: use pretrained=False or another tag of it"
            )
        out_indices = tuple(block - 1 - NUM_BLOCKS for block in blocks)
        try:
            network: Any = timm.create_model(
                name,
                pretrained=pretrained,
                features_only=True,
                output_stride=OUTPUT_STRIDE,
                out_indices=out_indices,
            )
        except OSError as error:
            raise RuntimeError(
                f"the pretrained weights of {name!r} could not be read: {error}. Use pretrained=False, or "
                "let HF_HOME name a cache that holds them"
            ) from error
        except (TypeError, AssertionError, NotImplementedError, ValueError, IndexError) as error:
            raise _unsupported(name, str(error) or "timm refuses output_stride=8") from error
        info = network.feature_info
        if max(info.reduction()) > OUTPUT_STRIDE or (
            blocks[-1] == NUM_BLOCKS and info.reduction()[-1] != OUTPUT_STRIDE
        ):
            raise _unsupported(name, f"its feature maps have strides {info.reduction()}")
        self.network: nn.Module = network
        self.channels: list[int] = info.channels()
        self.mean: tuple[float, float, float] = network.pretrained_cfg["mean"]
        self.std: tuple[float, float, float] = network.pretrained_cfg["std"]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map a normalised image (B, 3, H, W) to the chosen feature maps (B, c, h, w)."""
        return self.network(image)


class Normalize(nn.Module):
    """(image - mean) / std per channel, with mean and std stored among the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, 3, H, W) with values in [0, 1] to the backbone's range, in the weights' type.

        Raises:
            TypeError: `image` is not floating point.
            ValueError: `image` has another shape, or no pixels.
        """
        if not image.is_floating_point():
            raise TypeError(
                f"image: expected floating point values in [0, 1], got {image.dtype}; divide uint8 by 255"
            )
        if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
            raise ValueError(f"image: expected shape (B, 3, H, W), none of them 0, got {tuple(image.shape)}")
        return (image.to(self.mean.dtype) - self.mean) / self.std


def _unsupported(name: str, reason: str) -> ValueError:
    return ValueError(
        f"backbone {name!r} cannot give four feature maps down to stride {OUTPUT_STRIDE}: {reason}. Choose a "
        "network that timm can dilate, such as a ResNet, RegNet, ConvNeXt, EfficientNet or MobileNet"
    )
