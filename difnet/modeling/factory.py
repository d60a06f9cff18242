"""Models by name."""

import difflib
from collections.abc import Sequence
from typing import Any

import timm

from difnet.modeling.network import DifNet, SimDeepLab

# torchvision's ImageNet weights (tag tv_in1k, BSD-3-Clause) are the ones that the paper's release starts
# from.
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
    walks: Sequence[int] | None = (0, 1, 2, 3, 4),
    pretrained: bool = False,
    in_chans: int = 3,
) -> DifNet | SimDeepLab:
    """Build a network by name.

    Args:
        name: one of `MODELS`, or a timm network for a DifNet on that backbone.
        num_classes: k, the channels of the scores.
        aspp: the ASPP classifier of DeepLab-v2, or else one 3x3 convolution.
        walks: what drives each walk, see `DifNet`; None for the baseline without diffusion, a SimDeepLab,
            which the names simdeeplab* always give.
        pretrained: timm's ImageNet weights for the backbones, downloaded if need be.
        in_chans: channels of the images, such as 1 for grey ones or 4 for RGB with depth. timm adapts the
            first layer of pretrained weights; every channel is then normalised by the average of RGB's means
            and deviations.

    Returns:
        A network from images (B, in_chans, H, W) in [0, 1], RGB if they have three channels, to scores
        (B, num_classes, H, W), in training mode. Its `check_size` tells whether it takes a size of images.

    Raises:
        ValueError: the name is unknown, its backbone cannot be dilated to stride 8, or an argument is out of
            range.
        TypeError: the name is no text, a count no integer, or `walks` no sequence.
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
    if kind is SimDeepLab or walks is None:
        model = SimDeepLab(backbone, num_classes, **options)
    else:
        model = DifNet(backbone, num_classes, walks=walks, **options)
    model.config["name"] = name
    return model
