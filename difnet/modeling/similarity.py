"""Embeddings of the nodes that give each walk its transition matrix."""

from torch import Tensor, nn

from difnet.modeling.resampling import adaptive_max_pool2d

EMBEDDING_DIM = 64


class Embedding(nn.Module):
    """Psi_t: 1x1 convolution with bias, batch norm, adaptive max pool to the score map's size.

    The convolution starts with Kaiming's scale, which keeps the variance of its input; the batch norm then
    fixes it whatever the backbone, and so the first temperature of the softmax.

    Args:
        in_channels: channels of the features f_t.
        dim: d, the size of the embedding; 64 in the paper's experiments.
    """

    def __init__(self, in_channels: int, dim: int = EMBEDDING_DIM):
        super().__init__()
        self.project = nn.Conv2d(in_channels, dim, 1)
        self.norm = nn.BatchNorm2d(dim)
        nn.init.kaiming_normal_(self.project.weight, nonlinearity="linear")
        nn.init.zeros_(self.project.get_parameter("bias"))

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Map features (B, c, H, W) to nodes (B, N, d), N = h * w for `size` = (h, w), row by row."""
        embedding = adaptive_max_pool2d(self.norm(self.project(features)), size)
        return embedding.permute(0, 2, 3, 1).flatten(1, 2)
