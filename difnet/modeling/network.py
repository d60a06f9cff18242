"""DifNet and its baseline without diffusion.

    x = classifier(seed branch)          score map at stride 8, (B, k, h, w)
    s = M x,  M = H(x)                   seed, y_0 = s
    P_t = softmax(Psi_t Psi_t^T)         transition matrix of walk t, from the similarity branch; (1), (2)
    y_{t+1} = beta_t (mu_t P_t y_t + (1 - mu_t) s) + (1 - beta_t) y_t               (4); paper, Eq. 5

Source: "DifNet: Semantic Segmentation by Diffusion Networks", NeurIPS 2018. Plain numbers in brackets are the
equations of docs/math.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from difnet.modeling.backbones import NUM_BLOCKS, OUTPUT_STRIDE, Backbone
from difnet.modeling.base import Details, SegmentationNetwork
from difnet.modeling.heads import Embedding, ImportanceHead
from difnet.modeling.options import DiffusionOptions, whole_number
from difnet_kernels import cascaded_random_walk


class SimDeepLab(SegmentationNetwork):
    """The baseline: the classifier on one backbone, no diffusion.

    With two branches, it has the parameters of a DifNet without diffusion: the classifier takes the last
    features of both.

    Args:
        backbone: name of a timm network that can be dilated to stride 8.
        num_classes: k.
        aspp: use the ASPP classifier of DeepLab-v2 instead of one 3x3 convolution.
        branches: 1, or 2 backbones side by side.
        pretrained: load timm's weights for the backbone.
        in_chans: number of channels of the image.

    Raises:
        ValueError: `branches` is neither 1 nor 2, or a count is below 1.
        TypeError: a count is not an integer.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        aspp: bool = True,
        branches: int = 1,
        pretrained: bool = False,
        in_chans: int = 3,
    ):
        if whole_number(branches) not in (1, 2):
            raise ValueError(f"branches: expected 1 or 2, got {branches!r}")
        super().__init__(
            backbone, num_classes, aspp=aspp, branches=branches, pretrained=pretrained, in_chans=in_chans
        )
        self.config["branches"] = int(branches)
        self.second_branch = (
            Backbone(backbone, (NUM_BLOCKS,), pretrained=pretrained, in_chans=self.config["in_chans"])
            if branches == 2
            else None
        )

    @overload
    def forward(self, image: Tensor, *, details: Literal[False] = ...) -> Tensor: ...
    @overload
    def forward(self, image: Tensor, *, details: Literal[True]) -> Details: ...
    def forward(self, image: Tensor, *, details: bool = False) -> Tensor | Details:
        """Map an image (B, in_chans, H, W) in [0, 1] to logits (B, k, H, W).

        With `details`, return a `Details` with T = 0, importance 1 and the score map as seed.
        """
        score_map = self.scores(self._normalized(image))
        logits = self.upsample(score_map, (image.shape[-2], image.shape[-1]))
        if not details:
            return logits
        importance = torch.ones_like(score_map[:, :1])
        none = score_map.new_empty(0)
        states = score_map.new_empty(0, *score_map.shape)
        return Details(logits, score_map, importance, score_map, states, none, none, [])

    def scores(self, normalized: Tensor) -> Tensor:
        """Map a normalised image (B, in_chans, H, W) to the score map (B, k, h, w) of both branches."""
        if self.second_branch is None:
            return super().scores(normalized)
        branches = (self.seed_branch, self.second_branch)
        return self._score_map(torch.cat([branch(normalized)[-1] for branch in branches], dim=1))


class DifNet(SegmentationNetwork):
    """Seed branch, similarity branch and one random walk for each entry of `walk_sources`.

    Args:
        backbone: name of a timm network that can be dilated to stride 8; each branch has its own copy.
        num_classes: k.
        aspp: use the ASPP classifier of DeepLab-v2 instead of one 3x3 convolution.
        walk_sources: where the features f_t of each walk come from, in order: 0 is the normalised image, 1 to
            4 are the outputs of the blocks of the similarity branch. A source may occur twice; with an empty
            sequence there are no walks, and the seed itself is upsampled.
        diffusion: how the walks differ from the paper's: `DiffusionOptions`, or a mapping of some of them.
        pretrained: load timm's weights for both backbones.
        in_chans: number of channels of the image.

    Raises:
        ValueError: an entry of `walk_sources` is not one of 0 to 4, a count is below 1, or an option of
            `diffusion` is unknown or out of its range.
        TypeError: `walk_sources` is not a sequence, a count is not an integer, or an option is of another
            type.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        aspp: bool = True,
        walk_sources: Sequence[int] = (0, 1, 2, 3, 4),
        diffusion: DiffusionOptions | Mapping[str, Any] | None = None,
        pretrained: bool = False,
        in_chans: int = 3,
    ):
        super().__init__(backbone, num_classes, aspp=aspp, pretrained=pretrained, in_chans=in_chans)
        self.walk_sources = _checked_walk_sources(walk_sources)
        self.diffusion = DiffusionOptions.make(diffusion)
        in_chans = self.config["in_chans"]
        self.config |= {"walk_sources": list(self.walk_sources), "diffusion": self.diffusion.changes()}
        self.importance = ImportanceHead(self.num_classes) if self.diffusion.importance else None
        self.transition_sources = self.walk_sources  # the source of the features that make P_t
        if self.diffusion.shared_transition:
            self.transition_sources = self.walk_sources[-1:] * len(self.walk_sources)
        blocks = tuple(range(1, max(self.transition_sources, default=0) + 1))
        self.similarity_branch = (
            Backbone(backbone, blocks, pretrained=pretrained, in_chans=in_chans) if blocks else None
        )
        channels, strides = [in_chans], [1]
        if self.similarity_branch is not None:
            channels += self.similarity_branch.channels
            strides += self.similarity_branch.strides
        stride = self.diffusion.node_stride
        self.embeddings = nn.ModuleList(
            Embedding(channels[source], self.diffusion, coarse=strides[source] > stride)
            for source in self.transition_sources[: 1 if self.diffusion.shared_transition else None]
        )
        logits = 1 if self.diffusion.gates == "tied" and self.walk_sources else len(self.walk_sources)
        self.mu_logit = nn.Parameter(torch.zeros(logits), requires_grad=self.diffusion.gates != "mu-fixed")
        self.beta_logit = nn.Parameter(torch.zeros(logits))

    def check_size(self, size: tuple[int, int], *, batch: int = 1) -> tuple[int, int]:
        """See `SegmentationNetwork.check_size`; in training, the importance head needs at least two nodes."""
        grid = super().check_size(size, batch=batch)
        if self.importance is not None and self.training and batch * grid[0] * grid[1] == 1:
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
        score_map = self.scores(normalized)  # x, (B, k, h, w)
        sources = self._sources(normalized)  # f_t, (B, c_t, H_t, W_t)
        size = image.shape[-2], image.shape[-1]
        grid = self.node_grid(size, score_map)
        importance, seed = self.weighted(score_map, grid)  # M = H(x), (B, 1, h, w), and s, (B, k, h, w)

        features = self._embed(sources, grid)  # Psi_t, (B, N, 64) each
        mu, beta = self._gate(self.mu_logit, seed.dtype), self._gate(self.beta_logit, seed.dtype)  # (T,)
        biases = [self._bias(feature) for feature in features]  # c_t, (B, N) each, or None
        state, states = self.diffuse(seed, features, biases, (mu, beta), return_states=details)

        logits = self.upsample(state, size)  # (B, k, H, W)
        if states is None:
            return logits
        transitions = list(zip(features, biases, strict=True))
        return Details(logits, score_map, importance, seed, states, mu, beta, transitions)

    def node_grid(self, size: tuple[int, int], score_map: Tensor) -> tuple[int, int]:
        """(h, w) of the nodes of an image of `size`: the grid of its score map, or a finer one."""
        stride = self.diffusion.node_stride
        if stride == OUTPUT_STRIDE:
            return score_map.shape[-2], score_map.shape[-1]
        return (size[0] + stride - 1) // stride, (size[1] + stride - 1) // stride

    def weighted(self, score_map: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """M, (B, 1, h, w), and the seed s = M x, (B, k, *grid): upsampled if the nodes are finer than x."""
        importance = self._importance(score_map)
        return importance, self.upsample(importance * score_map, grid)

    def diffuse(
        self,
        seed: Tensor,
        features: list[Tensor],
        biases: list[Tensor | None],
        gates: tuple[Tensor, Tensor],
        *,
        return_states: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """All walks over a seed (B, k, h, w), with features (B, N, d) and biases (B, N) of each walk.

        `gates` are mu and beta, (T,) each. The result is y_T, (B, k, h, w), and, if asked for, y_1 to y_T,
        (T, B, k, h, w).
        """
        grid = seed.shape[-2], seed.shape[-1]
        detached = self.diffusion.detach_seed and len(self.walk_sources) > 0
        nodes = seed.detach() if detached else seed
        nodes = nodes.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, k)
        walked = cascaded_random_walk(  # (4); paper, Eq. 5
            features, nodes, *gates, node_bias=_stacked(biases), return_states=return_states
        )
        state, states = walked if isinstance(walked, tuple) else (walked, None)
        state = state.unflatten(1, grid).permute(0, 3, 1, 2)
        return state, None if states is None else states.unflatten(2, grid).permute(0, 1, 4, 2, 3)

    def _importance(self, score_map: Tensor) -> Tensor:
        if self.importance is None:
            return torch.ones_like(score_map[:, :1])
        return self.importance(score_map).to(score_map.dtype)

    def _gate(self, logit: Tensor, dtype: torch.dtype) -> Tensor:
        """mu or beta of each walk, (T,), from the logits of all walks or of each."""
        return logit.to(dtype).sigmoid().expand(len(self.walk_sources))

    def _sources(self, normalized: Tensor) -> list[Tensor]:
        """Every possible source of a walk: the normalised image, and the blocks of the similarity branch."""
        return [normalized, *(self.similarity_branch(normalized) if self.similarity_branch else [])]

    def _embed(self, sources: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        pairs = zip(self.transition_sources, self.embeddings, strict=False)  # a shared P has one embedding
        features = [psi(sources[source], size) for source, psi in pairs]
        return features * len(self.walk_sources) if self.diffusion.shared_transition else features

    def _bias(self, feature: Tensor) -> Tensor | None:
        """c_j = -|f_j|^2 / 2, (B, N): with it, the softmax is that of the scores -|f_i - f_j|^2 / 2.

        It is taken over the channels whose distance counts: all, the two of the position, or none.
        """
        if self.diffusion.affinity != "gaussian":
            if self.diffusion.reach == 0.0:
                return None
            feature = feature[..., -2:]
        return -0.5 * feature.to(torch.promote_types(feature.dtype, torch.float32)).square().sum(-1)


def _stacked(biases: list[Tensor | None]) -> Tensor | None:
    """The biases of all walks, (T, B, N), of which all or none are None."""
    present = [bias for bias in biases if bias is not None]
    return torch.stack(present) if present else None


def has_walks(network: nn.Module) -> bool:
    """Whether the network diffuses its seed."""
    return isinstance(network, DifNet) and bool(network.walk_sources)


def _checked_walk_sources(values: Any) -> tuple[int, ...]:
    expected = f"numbers from 0 (image) to {NUM_BLOCKS} (last block)"
    try:
        given = list(values)
    except TypeError as error:
        raise TypeError(f"walk_sources: expected a sequence of {expected}, got {values!r}") from error
    sources = [whole_number(value) for value in given]
    if any(source is None or not 0 <= source <= NUM_BLOCKS for source in sources):
        raise ValueError(f"walk_sources: expected {expected}, got {given}")
    return tuple(source for source in sources if source is not None)
