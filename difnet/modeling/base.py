"""What every network of this package is made of and returns."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import _register_namedtuple

from difnet.modeling.backbones import NUM_BLOCKS, Backbone, Normalize
from difnet.modeling.heads import DILATIONS, Classifier
from difnet.modeling.options import positive_whole_number
from difnet.modeling.resampling import upsample_bilinear


class Details(NamedTuple):
    """Everything between the image and its logits. N = h * w nodes, T walks, k classes."""

    logits: Tensor
    """(B, k, H, W), the last state (the seed if T = 0) upsampled to the image."""
    score_map: Tensor
    """x, (B, k, h, w), before importance and walks."""
    importance: Tensor
    """M, (B, 1, h, w), in (0, 1)."""
    seed: Tensor
    """s = M x, (B, k, h, w), or, if the nodes are finer than the score map, M x upsampled to them."""
    states: Tensor
    """y_1 to y_T, (T, B, k, h, w), of the size of the seed."""
    mu: Tensor
    """(T,), in (0, 1)."""
    beta: Tensor
    """(T,), in (0, 1)."""
    transitions: list[tuple[Tensor, Tensor | None]]
    """What the transition matrix of each walk is computed from: Psi_t over the square root of the
    temperature, with the positions if there is a reach, (B, N, d), and the node bias (B, N), or None.
    `difnet_kernels.transition_rows` of both shows where each node takes its prediction from."""


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
        branches: int = 1,
        pretrained: bool = False,
        in_chans: int = 3,
    ):
        super().__init__()
        num_classes = positive_whole_number("num_classes", num_classes)
        in_chans = positive_whole_number("in_chans", in_chans)
        self.num_classes = num_classes
        self.config: dict[str, Any] = {
            **{"name": backbone, "num_classes": num_classes, "aspp": bool(aspp)},
            **{"walk_sources": None, "in_chans": in_chans, "branches": 1, "diffusion": {}},
        }
        self.seed_branch = Backbone(backbone, (NUM_BLOCKS,), pretrained=pretrained, in_chans=in_chans)
        self.normalize = Normalize(self.seed_branch.mean, self.seed_branch.std)
        channels = branches * self.seed_branch.channels[-1]
        self.classifier = Classifier(channels, num_classes, DILATIONS if aspp else (1,))

    def scores(self, normalized: Tensor) -> Tensor:
        """Map a normalised image (B, in_chans, H, W) to the score map (B, k, h, w)."""
        return self._score_map(self.seed_branch(normalized)[-1])

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

    def parameter_groups(
        self,
        lr: float,
        *,
        weight_decay: float = 0.0,
        head_lr_multiplier: float = 1.0,
        gate_lr_multiplier: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Return the optimizer groups "backbone", "gates" and "head" (the rest) with rates and weight decay.

        The gates are the logits of mu and beta, and the temperatures and reaches that are learned. A network
        without them has no such group. Ten times the rate for the heads is usual with pretrained backbones.
        The paper's release trains everything at one rate, hence the defaults.

        As in the paper, one weight decay is for all parameters, but for the gates it is divided by their
        multiplier: at any rate, decay pulls them as at `lr`. It pulls mu and beta towards 1/2, temperatures
        and reaches towards their start, but weakly. With no gradient, the logits would shrink by 18 % over
        30,000 steps of SGD at rate 2.5e-3, poly 0.9, momentum 0.9 and decay 5e-4:
        exp(-2.5e-3 * 5e-4 * 30,000 / 1.9 / (1 - 0.9)) = 0.82.
        """
        # A checkpoint numbers the parameters in this order.
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "gates": [], "head": []}
        for name, parameter in self.named_parameters():
            groups[_group_of(name)].append(parameter)
        multipliers = {"backbone": 1.0, "gates": gate_lr_multiplier, "head": head_lr_multiplier}
        return [
            {
                "name": name,
                "params": parameters,
                "lr": lr * multipliers[name],
                "weight_decay": weight_decay / (gate_lr_multiplier if name == "gates" else 1.0),
            }
            for name, parameters in groups.items()
            if parameters
        ]

    def _normalized(self, image: Tensor) -> Tensor:
        """The normalised image in the dtype of the backbone's weights, which sharding may have cast."""
        return self.normalize(image).to(next(self.seed_branch.parameters()).dtype)

    def _score_map(self, features: Tensor) -> Tensor:
        """x, (B, k, h, w), in float32 or wider: seed and states keep their precision under autocast."""
        score_map = self.classifier(features)
        return score_map.to(torch.promote_types(score_map.dtype, torch.float32))


def _group_of(parameter: str) -> str:
    """The optimizer group of a parameter's name."""
    if parameter.startswith(("seed_branch.", "second_branch.", "similarity_branch.")):
        return "backbone"
    gate = parameter in ("mu_logit", "beta_logit") or parameter.endswith(("log_temperature", "log_reach"))
    return "gates" if gate else "head"
