"""Heads of the seed branch: classifiers for the score map, and the importance map."""

import torch
from torch import Tensor, nn

DILATIONS = (6, 12, 18, 24)


class Classifier(nn.Module):
    """Sum of parallel 3x3 convolutions from the features straight to class scores.

    With the default dilations this is the ASPP classifier of DeepLab-v2; with `dilations=(1,)` it is one
    plain 3x3 convolution. Weights start normal with standard deviation 0.01 and biases at zero, as DeepLab's:
    Kaiming's scale for the 2048 channels of a ResNet-50, and half of it for the 512 of a ResNet-18.

    Args:
        in_channels: channels of the features.
        num_classes: k, channels of the scores.
        dilations: one convolution for each.
    """

    def __init__(self, in_channels: int, num_classes: int, dilations: tuple[int, ...] = DILATIONS):
        super().__init__()
        self.branches = nn.ModuleList()
        for dilation in dilations:
            branch = nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation)
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.get_parameter("bias"))
            self.branches.append(branch)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, c, h, w) to scores (B, k, h, w)."""
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


class ImportanceHead(nn.Sequential):
    """M = H(x): one weight in (0, 1) for each node, from the score map (B, k, h, w) to (B, 1, h, w).

    Three times batch norm, ReLU and a 5x5 convolution without bias, to 8, 4 and 1 channels, then a sigmoid.
    The convolutions start with Kaiming's scale for ReLU inputs, so that M starts around 1/2 with some spread.
    """

    def __init__(self, num_classes: int):
        layers: list[nn.Module] = []
        for in_channels, out_channels in ((num_classes, 8), (8, 4), (4, 1)):
            convolution = nn.Conv2d(in_channels, out_channels, 5, padding=2, bias=False)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), convolution]
        super().__init__(*layers, nn.Sigmoid())

    def forward(self, score_map: Tensor) -> Tensor:
        """Map scores (B, k, h, w) of any type to weights (B, 1, h, w) in the type of the convolutions."""
        convolution = next(layer for layer in self if isinstance(layer, nn.Conv2d))
        return super().forward(score_map.to(convolution.weight.dtype))
