"""Builds a network by its name."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm

from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.options import DiffusionOptions

# The paper's release starts from torchvision's ImageNet weights: tag tv_in1k, BSD-3-Clause.
MODELS: dict[str, tuple[type[DifNet] | type[SimDeepLab], str]] = {
    "difnet18": (DifNet, "resnet18.tv_in1k"),
    "difnet34": (DifNet, "resnet34.tv_in1k"),
    "difnet50": (DifNet, "resnet50.tv_in1k"),
    "difnet101": (DifNet, "resnet101.tv_in1k"),
    "simdeeplab18": (SimDeepLab, "resnet18.tv_in1k"),
    "simdeeplab34": (SimDeepLab, "resnet34.tv_in1k"),
    "simdeeplab50": (SimDeepLab, "resnet50.tv_in1k"),
    "simdeeplab101": (SimDeepLab, "resnet101.tv_in1k"),
}


def create_model(
    name: str,
    num_classes: int,
    *,
    aspp: bool = True,
    walk_sources: Sequence[int] | None = (0, 1, 2, 3, 4),
    diffusion: DiffusionOptions | Mapping[str, Any] | None = None,
    branches: int = 1,
    pretrained: bool = False,
    in_chans: int = 3,
) -> DifNet | SimDeepLab:
    """Build a network by name.

    Args:
        name: one of `MODELS`, or a timm network for a DifNet on that backbone.
        num_classes: k, the number of channels of the logits.
        aspp: use the ASPP classifier of DeepLab-v2 instead of one 3x3 convolution.
        walk_sources: where the features of each walk come from, see `DifNet`; None for the baseline without
            diffusion, `SimDeepLab`. The names simdeeplab* always give the baseline.
        diffusion: how the walks differ from the paper's, see `DifNet`.
        branches: number of backbones of the baseline, 1 or 2, see `SimDeepLab`; a DifNet ignores it.
        pretrained: load timm's ImageNet weights for the backbones, downloading them if they are not cached.
        in_chans: number of channels of the images, such as 1 for grey ones or 4 for RGB with depth. timm
            adapts the first layer of pretrained weights; each channel is then normalised by the average of
            the RGB means and deviations.

    Returns:
        A network in training mode that maps images (B, in_chans, H, W) in [0, 1], RGB if they have three
        channels, to logits (B, num_classes, H, W). Its `check_size` tells whether it takes images of a size.

    Raises:
        ValueError: the name is unknown, its backbone cannot be dilated to stride 8, or an argument is out of
            range.
        TypeError: the name is not a string, a count not an integer, or `walk_sources` not a sequence.
        RuntimeError: the pretrained weights could not be read.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected the name of a network, got {name!r}")
    if name not in MODELS and not timm.is_model(name):
        near = difflib.get_close_matches(name, [*MODELS, *timm.list_models()], n=4)
        raise ValueError(
            f"name: no model {name!r}; "
            + (f"did you mean {', '.join(near)}? " if near else "")
            + f"Known are {', '.join(MODELS)} and every network in timm.list_models()"
        )
    kind, backbone = MODELS.get(name, (DifNet, name))
    options: dict[str, Any] = {"aspp": aspp, "pretrained": pretrained, "in_chans": in_chans}
    model: DifNet | SimDeepLab
    if kind is SimDeepLab or walk_sources is None:
        model = SimDeepLab(backbone, num_classes, branches=branches, **options)
    else:
        model = DifNet(backbone, num_classes, walk_sources=walk_sources, diffusion=diffusion, **options)
    model.config["name"] = name
    return model
