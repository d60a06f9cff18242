"""Recipes: the settings of a training that belong together, by name."""

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from difnet.modeling.options import Affinity, DiffusionOptions, Gates

RecipeName = Literal["paper", "release", "tuned", "scenes"]


@dataclass(frozen=True)
class Recipe:
    """Settings that a recipe decides: a field of `TrainConfig` that is None takes its value here."""

    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    batch_size: int
    crop: int
    scale: tuple[float, float]
    epochs: int
    eval_batch_size: int
    model: str = "difnet18"
    pretrained: bool = False
    gate_lr_multiplier: float = 1.0
    seed_loss: float = 0.0
    transition_loss: float = 0.0
    affinity: Affinity = "dot"
    temperature: float = 1.0
    learn_temperature: bool = False
    gates: Gates = "learned"
    importance: bool = True
    detach_seed: bool = False
    shared_transition: bool = False
    reach: float = 0.0
    node_stride: int = 8


PAPER = Recipe(
    optimizer="sgd",
    lr=2.5e-3,
    weight_decay=5e-4,
    batch_size=16,
    crop=321,
    scale=(0.5, 1.5),
    epochs=200,
    eval_batch_size=1,
)
"""The text of the paper: from random weights, 200 epochs in batches of 16."""

RELEASE = replace(PAPER, scale=(0.5, 1.4), pretrained=True)
"""The authors' code: from ImageNet weights; it draws one of ten scale factors from 0.5 to 1.4."""

TUNED = replace(
    PAPER,
    gate_lr_multiplier=30.0,
    seed_loss=1.0,
    transition_loss=1.0,
    affinity="cosine",
    temperature=4.0,
    importance=False,
    detach_seed=True,
    reach=24.0,
    node_stride=4,
)
"""The paper's recipe with the walks that helped most on CamVid at a third of its resolution, where the reach
was a third of this one."""

SCENES = replace(
    TUNED,
    optimizer="adamw",
    lr=3e-3,
    weight_decay=1e-2,
    batch_size=8,
    crop=64,
    scale=(0.75, 1.25),
    epochs=2,
    eval_batch_size=8,
    model="resnet10t",
    reach=8.0,
)
"""The recipe of the drawn scenes, for a few minutes on two CPU cores. Networks start from random weights and
train for a few hundred steps, in which AdamW learns several times faster than SGD."""

WALK_OPTIONS = (
    *("gate_lr_multiplier", "seed_loss", "transition_loss"),
    *(field.name for field in fields(DiffusionOptions)),
)
"""The settings of a recipe that concern the walks: of their training, and of the network."""

RECIPES: dict[str, Recipe] = dict(zip(get_args(RecipeName), (PAPER, RELEASE, TUNED, SCENES), strict=True))

DEFAULT_RECIPES: dict[str, RecipeName] = {
    "scenes": "scenes",
    **dict.fromkeys(("camvid", "folder", "voc", "voc-aug", "context", "cityscapes", "ade20k"), "paper"),
}
"""The recipe of each data set if none is named."""
