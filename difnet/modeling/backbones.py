"""Feature extractors from timm at output stride 8, and the sizes of images that they take."""

from itertools import chain
from typing import Any

import timm
import torch
from timm.layers import AvgPool2dSame, Conv2dSame, to_2tuple
from torch import Tensor, nn

OUTPUT_STRIDE = 8
NUM_BLOCKS = 4
SEARCH_RANGE = 256
"""How far from an unsupported side, in pixels, `Backbone.check` searches for a supported one."""


class Backbone(nn.Module):
    """The outputs of the last four blocks of a timm network; the last block has stride 8.

    For a ResNet these are its four residual stages, of stride 4, 8, 8 and 8: the strides of the third and
    fourth are replaced by dilation. The number of rows and columns of a map depends on the network: the last
    map of a 161 x 161 image has 20, 21 or 22 rows (docs/backbones.md), and some networks take few sizes.

    Args:
        name: a timm name, with or without a tag ("resnet50.tv_in1k").
        blocks: which of the four (1 to 4) to return, in ascending order. timm leaves out the layers after the
            last of them, if the network allows it.
        pretrained: load timm's weights for that name, downloading them if they are not cached.
        in_chans: number of channels of the image. timm adapts the first layer of weights trained on 3.

    Attributes:
        channels: the number of channels of each returned map.
        mean, std: the normalisation that timm's weights for that name expect, one number per channel of the
            image. If the weights were trained on another number of channels, each number is their average.

    Raises:
        ValueError: the network has no feature maps of stride 8, or no pretrained weights.
        RuntimeError: the pretrained weights could not be read.
    """

    def __init__(
        self,
        name: str,
        blocks: tuple[int, ...] = (1, 2, 3, 4),
        *,
        pretrained: bool = False,
        in_chans: int = 3,
    ):
        super().__init__()
        self.name, self.in_chans = name, in_chans
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
                in_chans=in_chans,
            )
        except OSError as error:
            reason = str(error).rstrip(".")
            raise RuntimeError(
                f"the pretrained weights of {name!r} could not be read: {reason}. Use pretrained=False, or "
                "set HF_HOME to a cache that holds them"
            ) from error
        except RuntimeError as error:
            if "pretrained tag" not in str(error):
                raise
            known = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
            raise ValueError(f"name: timm has no weights {name!r}; it has {known}") from error
        except (TypeError, AssertionError, NotImplementedError, ValueError, IndexError) as error:
            raise _unsupported(name, str(error) or "timm refuses output_stride=8") from error
        info = network.feature_info
        if max(info.reduction()) > OUTPUT_STRIDE or (
            blocks[-1] == NUM_BLOCKS and info.reduction()[-1] != OUTPUT_STRIDE
        ):
            raise _unsupported(name, f"its feature maps have strides {info.reduction()}")
        _use_constant_padding(network)
        self.network: nn.Module = network
        self.channels: list[int] = info.channels()
        self.strides: list[int] = info.reduction()
        self.mean = _for_channels(network.pretrained_cfg["mean"], in_chans)
        self.std = _for_channels(network.pretrained_cfg["std"], in_chans)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map a normalised image (B, in_chans, H, W) to the chosen feature maps (B, c, h, w).

        Raises:
            ValueError: the network does not take images of this size, or not a batch of one in training.
        """
        try:
            return self.network(image)
        except Exception as error:
            if not torch.compiler.is_compiling():
                self._raise_if_size((image.shape[-2], image.shape[-1]), image.shape[0], error)
            raise  # the size is not the reason

    def check(self, size: tuple[int, int], *, batch: int = 1) -> list[tuple[int, int]]:
        """Return (h, w) of each chosen map of `batch` images of `size` = (H, W), without computing them.

        Raises:
            ValueError: the network does not take such images in its current mode, training or evaluation; the
                message names sizes that it takes, or says that other sizes fail too.
        """
        try:
            return self._map_sizes(size, batch)
        except Exception as error:
            self._raise_if_size(size, batch, error)
            raise ValueError(
                f"backbone {self.name!r} fails for images of {_text(size)} pixels as for other sizes: {error}"
            ) from error

    def _raise_if_size(self, size: tuple[int, int], batch: int, error: Exception) -> None:
        """Raise the ValueError of `check` if `error` is due to the size or batch: others then work."""
        if self.takes(size, batch):
            return
        if batch == 1 and self.training and self.takes(size, 2):
            raise ValueError(
                f"backbone {self.name!r} cannot be trained on one image of {_text(size)} pixels at a "
                "time: a batch norm in it would see one value per channel. Give it at least two at a time"
            ) from error
        near = [_text(found) for found in self._sizes_near(size, batch)]
        if near:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"backbone {self.name!r} does not take images of {_text(size)} pixels (height x width)"
                + (f" ({reason})" if reason else "")
                + f"; it takes {' and '.join(near)}"
            ) from error

    def _map_sizes(self, size: tuple[int, int], batch: int) -> list[tuple[int, int]]:
        # All floating-point tensors have one dtype, so that only the size can fail.
        fakes = {
            name: torch.empty(
                tensor.shape,
                dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype,
                device="meta",
            )
            for name, tensor in chain(self.network.named_parameters(), self.network.named_buffers())
        }
        image = torch.empty(batch, self.in_chans, *size, dtype=torch.float32, device="meta")
        with torch.no_grad():
            maps = torch.func.functional_call(self.network, fakes, (image,))
        return [(found.shape[-2], found.shape[-1]) for found in maps]

    def takes(self, size: tuple[int, int], batch: int = 1) -> bool:
        """Whether `check` raises no error."""
        try:
            self._map_sizes(size, batch)
        except Exception:  # timm's networks raise errors of many types
            return False
        return True

    def _sizes_near(self, size: tuple[int, int], batch: int) -> list[tuple[int, int]]:
        """Sizes that the network takes: the nearest smaller and larger, or the one it was made for."""
        config: Any = self.network
        config = config.pretrained_cfg
        height, width = config["input_size"][-2:]
        pairs = [(height, width)]
        if not config.get("fixed_input_size"):
            found = [self._sides_near(side, batch) for side in size]
            pairs = [(h, w) for h, w in zip(*found, strict=True) if h and w] or pairs
        return [pair for pair in dict.fromkeys(pairs) if self.takes(pair, batch)]

    def _sides_near(self, side: int, batch: int) -> tuple[int | None, int | None]:
        """Nearest smaller and larger side of square images that the network takes, or `side` twice."""
        if self.takes((side, side), batch):
            return side, side
        start = side // OUTPUT_STRIDE * OUTPUT_STRIDE
        below = range(start, max(0, start - SEARCH_RANGE), -OUTPUT_STRIDE)
        above = range(start + OUTPUT_STRIDE, start + SEARCH_RANGE, OUTPUT_STRIDE)
        smaller, larger = (
            next((n for n in sides if self.takes((n, n), batch)), None) for sides in (below, above)
        )
        return smaller, larger


class Normalize(nn.Module):
    """(image - mean) / std per channel, with mean and std stored among the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, C, H, W) with values in [0, 1] to the backbone's range, in the weights' dtype.

        Raises:
            TypeError: `image` is not a tensor, or not floating point.
            ValueError: `image` has another shape, or no pixels.
        """
        if not isinstance(image, Tensor):
            raise TypeError(f"image: expected a tensor (B, C, H, W), got {type(image).__name__}")
        if not image.is_floating_point():
            raise TypeError(
                f"image: expected floating point values in [0, 1], got {image.dtype}; divide uint8 by 255"
            )
        channels = self.mean.shape[0]
        if image.ndim != 4 or image.shape[1] != channels or 0 in image.shape:
            raise ValueError(
                f"image: expected shape (B, {channels}, H, W), none of them 0, got {tuple(image.shape)}"
            )
        return (image.to(self.mean.dtype) - self.mean) / self.std


class _SamePool(nn.AvgPool2d):
    """timm's AvgPool2dSame of stride 1, with constant padding."""

    def __init__(self, pool: AvgPool2dSame):
        size = to_2tuple(pool.kernel_size)
        super().__init__(size, 1)
        self.margins = _margins(size, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, self.margins))


class _SameConv(nn.Conv2d):
    """timm's Conv2dSame of stride 1, with its weights and with constant padding."""

    def __init__(self, conv: Conv2dSame):
        size, dilation = to_2tuple(conv.kernel_size), to_2tuple(conv.dilation)
        super().__init__(
            conv.in_channels, conv.out_channels, size, dilation=dilation, groups=conv.groups, device="meta"
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.margins = _margins(size, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, self.margins))


def _margins(kernel_size: tuple[int, int], dilation: tuple[int, int]) -> list[int]:
    """Padding in the order of `torch.nn.functional.pad`: left, right, top, bottom."""
    height, width = ((size - 1) * step for size, step in zip(kernel_size, dilation, strict=True))
    return [width // 2, width - width // 2, height // 2, height - height // 2]


def _use_constant_padding(network: nn.Module) -> None:
    """Replace layers of stride 1 that compute their padding from the image, though it is always the same.

    torch.export can neither prove timm's computation for every size nor save it.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, AvgPool2dSame) and layer.stride == (1, 1):
            network.set_submodule(name, _SamePool(layer))
        elif isinstance(layer, Conv2dSame) and layer.stride == (1, 1):
            network.set_submodule(name, _SameConv(layer))


def _unsupported(name: str, reason: str) -> ValueError:
    return ValueError(
        f"backbone {name!r} cannot give four feature maps down to stride {OUTPUT_STRIDE}: {reason}. Choose a "
        "network that timm can dilate, such as a ResNet, RegNet, ConvNeXt, EfficientNet or MobileNet"
    )


def _for_channels(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """Means or deviations of `count` channels; if timm has another number of channels, their average."""
    return tuple(values) if len(values) == count else (sum(values) / len(values),) * count


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
