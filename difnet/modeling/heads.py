"""Heads of the two branches: classifier and importance map of the seed, embeddings Psi_t of the walks."""

import math

import torch
from torch import Tensor, nn

from difnet.modeling.options import DiffusionOptions
from difnet.modeling.resampling import adaptive_max_pool2d, upsample_bilinear

DILATIONS = (6, 12, 18, 24)
EMBEDDING_DIM = 64


class Classifier(nn.Module):
    """Sum of parallel 3x3 convolutions that map features directly to class logits, the score map x.

    With the default dilations this is the ASPP classifier of DeepLab-v2; with `dilations=(1,)` it is one
    plain 3x3 convolution. As in DeepLab, weights start normal with standard deviation 0.01 and biases at
    zero. That is Kaiming's scale for the 2048 channels of a ResNet-50, and half of it for the 512 channels of
    a ResNet-18.

    Args:
        in_channels: number of channels of the features.
        num_classes: k, number of channels of the score map.
        dilations: one convolution is made for each.
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
        """Map features (B, c, h, w) to a score map (B, k, h, w)."""
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
        """Map a score map (B, k, h, w) of any dtype to weights (B, 1, h, w) in the convolutions' dtype."""
        convolution = next(layer for layer in self if isinstance(layer, nn.Conv2d))
        return super().forward(score_map.to(convolution.weight.dtype))


class Embedding(nn.Module):
    """Psi_t: 1x1 convolution with bias, batch norm, adaptive max pool to the grid of the nodes.

    Its output is the matrix F of walk t, whose scores F F^T give the transition matrix P_t; (1) and (2) of
    docs/math.md.

    The convolution starts with Kaiming's scale, which keeps the variance of its input. The batch norm then
    sets the variance of the embedding, whatever the backbone. With the temperature, it sets how sharp the
    softmax is at the start.

    Args:
        in_channels: number of channels of the features f_t.
        options: affinity and temperature, by default the paper's.
        coarse: the features have a larger stride than the nodes, and are upsampled instead of pooled.
        dim: d, the size of the embedding; 64 in the paper's experiments.
    """

    def __init__(
        self,
        in_channels: int,
        options: DiffusionOptions | None = None,
        *,
        coarse: bool = False,
        dim: int = EMBEDDING_DIM,
    ):
        super().__init__()
        options = options or DiffusionOptions()
        self.coarse = coarse
        self.node_stride = options.node_stride
        self.cosine = options.affinity == "cosine"
        self.temperature = float(options.temperature)
        self.project = nn.Conv2d(in_channels, dim, 1)
        self.norm = nn.BatchNorm2d(dim)
        nn.init.kaiming_normal_(self.project.weight, nonlinearity="linear")
        nn.init.zeros_(self.project.get_parameter("bias"))
        self.reach = float(options.reach)
        # Both are logarithms relative to the start, to which weight decay then pulls.
        if options.learn_temperature:
            self.log_temperature = nn.Parameter(torch.zeros(()))
        if self.reach > 0.0:
            self.log_reach = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Map features (B, c, H, W) to nodes (B, N, d), N = h * w for `size` = (h, w), row by row.

        With a reach, two channels are appended: the position of each node over the reach.
        """
        resize = upsample_bilinear if self.coarse else adaptive_max_pool2d
        embedding = resize(self.local(features), size)  # Psi_t(f_t), (B, d, h, w)
        nodes = self.scaled(embedding.permute(0, 2, 3, 1).flatten(1, 2))
        if not self.has_positions:
            return nodes
        positions = self.positions(size, nodes.device).to(nodes.dtype)
        return torch.cat([nodes, positions.expand(nodes.shape[0], -1, -1)], dim=-1)

    def local(self, features: Tensor) -> Tensor:
        """What precedes pooling or upsampling, (B, c, H, W) to (B, d, H, W); pixel by pixel in evaluation."""
        return self.norm(self.project(features))

    def scaled(self, nodes: Tensor) -> Tensor:
        """Give each row of the nodes (B, N, d) the length that affinity and temperature ask for."""
        if self.cosine:
            # In float32: float16 has no number as small as the least length that `normalize` divides by.
            wide = nodes.to(torch.promote_types(nodes.dtype, torch.float32))
            nodes = (math.sqrt(nodes.shape[-1]) * nn.functional.normalize(wide, dim=-1)).to(nodes.dtype)
        scale = self.temperature**-0.5
        if hasattr(self, "log_temperature"):
            nodes = nodes * (scale * torch.exp(-0.5 * self.log_temperature)).to(nodes.dtype)
        elif scale != 1.0:
            nodes = nodes * scale
        return nodes

    @property
    def has_positions(self) -> bool:
        """Whether two channels are appended, because there is a reach."""
        return hasattr(self, "log_reach")

    def positions(self, size: tuple[int, int], device: torch.device) -> Tensor:
        """The appended channels: the position of each node of the grid over the reach, (N, 2)."""
        # The score of two positions is a small difference of large numbers. Matrix products of every
        # precision take numbers of bfloat16 without rounding them, and the node bias is made of the same.
        positions = self._positions(size, device) / (self.reach * torch.exp(self.log_reach))
        return positions.to(torch.bfloat16)

    def _positions(self, size: tuple[int, int], device: torch.device) -> Tensor:
        """Row and column of each node, (N, 2), in pixels from the centre of the grid."""
        height, width = (torch.arange(length, device=device) - 0.5 * (length - 1) for length in size)
        rows, columns = torch.meshgrid(height, width, indexing="ij")
        return self.node_stride * torch.stack([rows.flatten(), columns.flatten()], dim=-1)
