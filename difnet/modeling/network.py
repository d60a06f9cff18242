"""DifNet and its baseline without diffusion.

    x = classifier(seed branch)          score map at stride 8, (B, k, h, w)
    s = M x,  M = H(x)                   seed, y_0 = s
    P_t = softmax(Psi_t Psi_t^T)         transition matrix of walk t, from the similarity branch; (1), (2)
    y_{t+1} = beta_t (mu_t P_t y_t + (1 - mu_t) s) + (1 - beta_t) y_t               (4); paper, Eq. 5

Source: "DifNet: Semantic Segmentation by Diffusion Networks", NeurIPS 2018. Plain numbers in brackets are the
equations of docs/math.md.
"""

import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.utils._pytree import _register_namedtuple

from difnet.modeling.backbones import NUM_BLOCKS, Backbone, Normalize
from difnet.modeling.heads import DILATIONS, Classifier, Embedding, ImportanceHead
from difnet.modeling.resampling import upsample_bilinear
from difnet_kernels import cascaded_random_walk


class Details(NamedTuple):
    """Everything between the image and its logits. N = h * w nodes, T walks, k classes."""

    logits: Tensor
    """(B, k, H, W), the last state (the seed if T = 0) upsampled to the image."""
    score_map: Tensor
    """x, (B, k, h, w), before importance and walks."""
    importance: Tensor
    """M, (B, 1, h, w), in (0, 1)."""
    seed: Tensor
    """s = M x, (B, k, h, w)."""
    states: Tensor
    """y_1 to y_T, (T, B, k, h, w)."""
    mu: Tensor
    """(T,), in (0, 1)."""
    beta: Tensor
    """(T,), in (0, 1)."""


# Without this, an exported program that returns `Details` cannot be saved.
_register_namedtuple(Details, serialized_type_name="difnet.Details")


class SegmentationNetwork(nn.Module):
    """What DifNet and its baseline share: normalisation, a backbone with a classifier, upsampling.

    Attributes:
        config: JSON-able arguments with which `difnet.create_model` builds the same network.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        aspp: bool = True,
        pretrained: bool = False,
        in_chans: int = 3,
    ):
        super().__init__()
        num_classes = _positive_integer("num_classes", num_classes)
        in_chans = _positive_integer("in_chans", in_chans)
        self.num_classes = num_classes
        self.config: dict[str, Any] = {
            **{"name": backbone, "num_classes": num_classes, "aspp": bool(aspp)},
            **{"walk_sources": None, "in_chans": in_chans},
        }
        self.seed_branch = Backbone(backbone, (NUM_BLOCKS,), pretrained=pretrained, in_chans=in_chans)
        self.normalize = Normalize(self.seed_branch.mean, self.seed_branch.std)
        self.classifier = Classifier(self.seed_branch.channels[-1], num_classes, DILATIONS if aspp else (1,))

    def upsample(self, score_map: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolate a map (B, c, h, w) bilinearly to (B, c, H, W) for `size` = (H, W)."""
        return upsample_bilinear(score_map, size)

    def check_size(self, size: tuple[int, int], *, batch: int = 1) -> tuple[int, int]:
        """Return (h, w) of the score map of `batch` images of `size` = (H, W), without computing it.

        Raises:
            ValueError: the network does not take such images in its current mode, training or evaluation; the
                message names backbone, size and remedy.
        """
        (grid,) = self.seed_branch.check(size, batch=batch)
        return grid

    def parameter_groups(self, lr: float, *, head_lr_multiplier: float = 1.0) -> list[dict[str, Any]]:
        """Return two optimizer groups, "backbone" and "head" (all the rest), with their learning rates.

        Ten times the rate for the heads is usual with pretrained backbones. The paper's release trains
        everything at one rate, hence the default. Weight decay is left to the optimizer: as in the paper, one
        value for all parameters. It pulls mu and beta towards 1/2, but weakly. With no gradient, their logits
        would shrink by 18 % over 30,000 steps at rate 2.5e-3, poly 0.9, momentum 0.9 and decay 5e-4:
        exp(-2.5e-3 * 5e-4 * 30,000 / 1.9 / (1 - 0.9)) = 0.82.
        """
        backbone = [p for name, p in self.named_parameters() if _is_backbone(name)]
        head = [p for name, p in self.named_parameters() if not _is_backbone(name)]
        return [
            {"name": "backbone", "params": backbone, "lr": lr},
            {"name": "head", "params": head, "lr": lr * head_lr_multiplier},
        ]

    def _normalized(self, image: Tensor) -> Tensor:
        """The normalised image in the dtype of the backbone's weights, which sharding may have cast."""
        return self.normalize(image).to(next(self.seed_branch.parameters()).dtype)

    def _score_map(self, normalized: Tensor) -> Tensor:
        """x, (B, k, h, w), in float32 or wider: seed and states keep their precision under autocast."""
        score_map = self.classifier(self.seed_branch(normalized)[-1])
        return score_map.to(torch.promote_types(score_map.dtype, torch.float32))


class SimDeepLab(SegmentationNetwork):
    """The baseline: one backbone with the classifier, no diffusion.

    Args:
        backbone: name of a timm network that can be dilated to stride 8.
        num_classes: k.
        aspp: use the ASPP classifier of DeepLab-v2 instead of one 3x3 convolution.
        pretrained: load timm's weights for the backbone.
        in_chans: number of channels of the image.
    """

    @overload
    def forward(self, image: Tensor, *, details: Literal[False] = ...) -> Tensor: ...
    @overload
    def forward(self, image: Tensor, *, details: Literal[True]) -> Details: ...
    def forward(self, image: Tensor, *, details: bool = False) -> Tensor | Details:
        """Map an image (B, in_chans, H, W) in [0, 1] to logits (B, k, H, W).

        With `details`, return a `Details` with T = 0, importance 1 and the score map as seed.
        """
        score_map = self._score_map(self._normalized(image))
        logits = self.upsample(score_map, (image.shape[-2], image.shape[-1]))
        if not details:
            return logits
        importance = torch.ones_like(score_map[:, :1])
        none = score_map.new_empty(0)
        states = score_map.new_empty(0, *score_map.shape)
        return Details(logits, score_map, importance, score_map, states, none, none)


class DifNet(SegmentationNetwork):
    """Seed branch, similarity branch and one random walk for each entry of `walk_sources`.

    Args:
        backbone: name of a timm network that can be dilated to stride 8; each branch has its own copy.
        num_classes: k.
        aspp: use the ASPP classifier of DeepLab-v2 instead of one 3x3 convolution.
        walk_sources: where the features f_t of each walk come from, in order: 0 is the normalised image, 1 to
            4 are the outputs of the blocks of the similarity branch. A source may occur twice; with an empty
            sequence there are no walks, and the seed itself is upsampled.
        pretrained: load timm's weights for both backbones.
        in_chans: number of channels of the image.

    Raises:
        ValueError: an entry of `walk_sources` is not one of 0 to 4, or a count is below 1.
        TypeError: `walk_sources` is not a sequence, or a count is not an integer.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        aspp: bool = True,
        walk_sources: Sequence[int] = (0, 1, 2, 3, 4),
        pretrained: bool = False,
        in_chans: int = 3,
    ):
        super().__init__(backbone, num_classes, aspp=aspp, pretrained=pretrained, in_chans=in_chans)
        self.walk_sources = _checked_walk_sources(walk_sources)
        in_chans = self.config["in_chans"]
        self.config["walk_sources"] = list(self.walk_sources)
        self.importance = ImportanceHead(self.num_classes)
        blocks = tuple(range(1, max(self.walk_sources, default=0) + 1))
        self.similarity_branch = (
            Backbone(backbone, blocks, pretrained=pretrained, in_chans=in_chans) if blocks else None
        )
        channels = [in_chans, *(self.similarity_branch.channels if self.similarity_branch else [])]
        self.embeddings = nn.ModuleList(Embedding(channels[source]) for source in self.walk_sources)
        self.mu_logit = nn.Parameter(torch.zeros(len(self.walk_sources)))
        self.beta_logit = nn.Parameter(torch.zeros(len(self.walk_sources)))

    def check_size(self, size: tuple[int, int], *, batch: int = 1) -> tuple[int, int]:
        """See `SegmentationNetwork.check_size`; in training, the importance head needs at least two nodes."""
        grid = super().check_size(size, batch=batch)
        if self.training and batch * grid[0] * grid[1] == 1:
            raise ValueError(
                f"one image of {size[0]} x {size[1]} pixels has one node, and the batch norm of the "
                "importance head cannot be trained on one value; give it larger images or more at a time"
            )
        return grid

    @overload
    def forward(self, image: Tensor, *, details: Literal[False] = ...) -> Tensor: ...
    @overload
    def forward(self, image: Tensor, *, details: Literal[True]) -> Details: ...
    def forward(self, image: Tensor, *, details: bool = False) -> Tensor | Details:
        """Map an image (B, in_chans, H, W) in [0, 1] to logits (B, k, H, W), or to all `Details`."""
        normalized = self._normalized(image)  # (B, in_chans, H, W)
        score_map = self._score_map(normalized)  # x, (B, k, h, w)
        sources = self._sources(normalized)  # f_t, (B, c_t, H_t, W_t)
        importance = self.importance(score_map).to(score_map.dtype)  # M = H(x), (B, 1, h, w)
        seed = importance * score_map  # s = M x, (B, k, h, w)
        height, width = seed.shape[-2:]

        features = self._embed(sources, (height, width))  # Psi_t, (B, N, 64) each
        mu, beta = self.mu_logit.to(seed.dtype).sigmoid(), self.beta_logit.to(seed.dtype).sigmoid()  # (T,)
        nodes = seed.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, k)
        walked = cascaded_random_walk(features, nodes, mu, beta, return_states=details)  # (4); paper, Eq. 5

        state, states = walked if isinstance(walked, tuple) else (walked, None)
        state = state.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # y_T, (B, k, h, w)
        logits = self.upsample(state, (image.shape[-2], image.shape[-1]))  # (B, k, H, W)
        if states is None:
            return logits
        states = states.unflatten(2, (height, width)).permute(0, 1, 4, 2, 3)  # (T, B, k, h, w)
        return Details(logits, score_map, importance, seed, states, mu, beta)

    @torch.no_grad()
    def embed(self, image: Tensor) -> list[Tensor]:
        """Return Psi_t of each walk for an image (B, in_chans, H, W) in [0, 1]: T tensors (B, N, 64).

        `difnet_kernels.transition_rows` of these shows where each node takes its prediction from. They carry
        no gradient.
        """
        normalized = self._normalized(image)
        height, width = self.seed_branch(normalized)[-1].shape[-2:]
        return self._embed(self._sources(normalized), (height, width))

    def _sources(self, normalized: Tensor) -> list[Tensor]:
        """Every possible source of a walk: the normalised image, and the blocks of the similarity branch."""
        return [normalized, *(self.similarity_branch(normalized) if self.similarity_branch else [])]

    def _embed(self, sources: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        pairs = zip(self.walk_sources, self.embeddings, strict=True)
        return [psi(sources[source], size) for source, psi in pairs]


def _is_backbone(parameter: str) -> bool:
    return parameter.startswith(("seed_branch.", "similarity_branch."))


def _integer(value: Any) -> int | None:
    """Convert an integer of any library to Python's; None for anything else, booleans included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _positive_integer(argument: str, value: Any) -> int:
    count = _integer(value)
    if count is None:
        raise TypeError(f"{argument}: expected an integer, got {value!r}")
    if count < 1:
        raise ValueError(f"{argument}: expected at least 1, got {count}")
    return count


def _checked_walk_sources(values: Any) -> tuple[int, ...]:
    expected = f"numbers from 0 (image) to {NUM_BLOCKS} (last block)"
    try:
        given = list(values)
    except TypeError as error:
        raise TypeError(f"walk_sources: expected a sequence of {expected}, got {values!r}") from error
    sources = [_integer(value) for value in given]
    if any(source is None or not 0 <= source <= NUM_BLOCKS for source in sources):
        raise ValueError(f"walk_sources: expected {expected}, got {given}")
    return tuple(source for source in sources if source is not None)
