"""The settings of a training run; tyro turns them into the command line of ``python -m difnet.train``."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typeguard
import tyro

from difnet.data.options import Reading
from difnet.data.registry import DatasetName
from difnet.modeling.options import Affinity, DiffusionOptions, Gates
from difnet.training.recipes import (
    DEFAULT_RECIPES,
    PAPER,
    RECIPES,
    SCENES,
    WALK_OPTIONS,
    Recipe,
    RecipeName,
)
from difnet.utils.options import shown_default

_SMALLEST, _LARGEST = 1e-37, 1e37
"""Bounds of learning rates: float32 holds 1.2e-38 to 3.4e38, and AdamW divides the first rate by 0.1."""

_POSITIVE = (
    *("crop", "lr", "batch_size", "accumulation", "epochs", "eval_every", "eval_batch_size", "max_steps"),
    *("checkpoint_every", "log_every", "head_lr_multiplier", "gate_lr_multiplier", "image_scale"),
)
_NOT_NEGATIVE = (
    *("workers", "overlays", "seed", "momentum", "weight_decay", "poly_power"),
    *("seed_loss", "transition_loss"),
)


def _by_recipe(name: str) -> Any:
    """Let --help show the values of an option in the two recipes that are defaults."""
    scenes, paper = (getattr(recipe, name) for recipe in (SCENES, PAPER))
    return shown_default(f"{scenes} for scenes, {paper} for photographs" if scenes != paper else str(paper))


@dataclass(frozen=True)
class TrainConfig(Reading):
    """Train a segmentation network; without options, a small DifNet on drawn scenes, in minutes.

    A field of `Recipe` that is None here takes its value from the recipe.
    """

    dataset: DatasetName = "scenes"
    """scenes (drawn in memory), folder (your own data, or what an annotation tool exports), or a published
    set."""
    data_root: Annotated[Path | None, shown_default("none")] = None
    """Folder of the data, for all but scenes."""
    out: Annotated[Path | None, shown_default("runs/DATASET-MODEL-TIME")] = None
    """Run folder to create."""
    resume: Annotated[Path | None, shown_default("start a new run")] = None
    """Run folder to continue, with its own settings; only --data-root, --workers and --eval-batch-size may
    be changed."""

    recipe: Annotated[RecipeName | None, shown_default("scenes for scenes, paper for photographs")] = None
    """Defaults of the options below: paper (the text of the paper), release (the authors' code), tuned
    (paper, with other walks), scenes (for drawn scenes, in minutes)."""

    model: Annotated[str | None, _by_recipe("model")] = None
    """difnet18|34|50|101, simdeeplab18|34|50|101, or any timm backbone."""
    aspp: bool = True
    """DeepLab-v2 ASPP classifier instead of one plain 3x3 classifier."""
    walk_sources: Annotated[tuple[int, ...], tyro.conf.arg(aliases=("--walks",))] = (0, 1, 2, 3, 4)
    """Source of the features of each walk: 0 the image, 1 to 4 the blocks of the similarity branch."""
    diffusion: bool = True
    """Diffuse the seed; if not, the network is the baseline, SimDeepLab. The names simdeeplab* never do."""
    branches: int = 1
    """Backbones of the baseline, 1 or 2: with two, it has the parameters of a DifNet."""
    affinity: Annotated[Affinity | None, _by_recipe("affinity")] = None
    """Score of two nodes: dot (the paper's), gaussian or cosine; see DiffusionOptions."""
    temperature: Annotated[float | None, _by_recipe("temperature")] = None
    """All scores are divided by it."""
    learn_temperature: Annotated[bool | None, _by_recipe("learn_temperature")] = None
    """Learn the temperature of each walk."""
    gates: Annotated[Gates | None, _by_recipe("gates")] = None
    """mu and beta: learned for each walk, mu-fixed at 1/2, or tied, one of each for all walks."""
    importance: Annotated[bool | None, _by_recipe("importance")] = None
    """Weight the score map by the importance map."""
    detach_seed: Annotated[bool | None, _by_recipe("detach_seed")] = None
    """Stop the gradient of the walks at the seed, whose branch then learns from --seed-loss alone."""
    shared_transition: Annotated[bool | None, _by_recipe("shared_transition")] = None
    """One transition matrix for all walks, that of the last."""
    reach: Annotated[float | None, _by_recipe("reach")] = None
    """Start of the learned reach of each walk, in pixels of the resized image (--image-scale); 0 ignores
    distances. See DiffusionOptions."""
    node_stride: Annotated[int | None, _by_recipe("node_stride")] = None
    """Pixels from one node to the next: 8, 4, 2 or 1; see DiffusionOptions."""
    pretrained: Annotated[bool | None, _by_recipe("pretrained")] = None
    """Start the backbones from timm's ImageNet weights, which are downloaded."""
    init_from: Annotated[Path | None, shown_default("none")] = None
    """Start from weights on the same backbone: a run folder (its best weights), a weights file or a name.
    Parts that do not fit keep their random weights, such as the classifier if the classes differ."""

    image_scale: float = 1.0
    """Resize all images and labels by this factor, in training and evaluation. Metrics are of the resized
    labels."""
    crop: Annotated[int | None, _by_recipe("crop")] = None
    """Side of the square training crop, in pixels."""
    scale: Annotated[tuple[float, float] | None, _by_recipe("scale")] = None
    """Range of the random scale factor."""
    flip: bool = True
    """Random horizontal flip."""

    optimizer: Annotated[Literal["sgd", "adamw"] | None, _by_recipe("optimizer")] = None
    """Optimizer."""
    lr: Annotated[float | None, _by_recipe("lr")] = None
    """Learning rate at the first step; it falls to 0 as (1 - step / steps)^poly-power."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, _by_recipe("weight_decay")] = None
    """Weight decay, of all parameters."""
    head_lr_multiplier: float = 1.0
    """Learning rate of classifier, importance map and embeddings, as a multiple of --lr."""
    gate_lr_multiplier: Annotated[float | None, _by_recipe("gate_lr_multiplier")] = None
    """Learning rate of mu, beta and the learned temperatures and reaches, as a multiple of --lr."""
    seed_loss: Annotated[float | None, _by_recipe("seed_loss")] = None
    """Weight of a second cross-entropy, that of the upsampled seed, for a network with walks."""
    transition_loss: Annotated[float | None, _by_recipe("transition_loss")] = None
    """Weight of a third cross-entropy, that of labels which each walk carries from a random quarter of the
    nodes to the others. It teaches the features which nodes belong together."""
    poly_power: float = 0.9
    """Exponent of the learning-rate schedule."""
    batch_size: Annotated[int | None, _by_recipe("batch_size")] = None
    """Images per optimizer step, over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches per optimizer step; batch statistics are those of each micro-batch."""
    epochs: Annotated[int | None, _by_recipe("epochs")] = None
    """Passes over the training images."""
    max_steps: Annotated[int | None, shown_default("from --epochs")] = None
    """Number of optimizer steps, instead of --epochs."""
    class_weights: str = "none"
    """none, median-frequency, sqrt-median-frequency (the square roots), a file with one number per line, or
    numbers separated by commas."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; fp16 needs a GPU."""
    channels_last: bool = False
    """Keep activations in channels-last memory format."""
    deterministic: bool = False
    """Refuse every operation without a deterministic implementation (a CPU run is deterministic anyway)."""
    seed: int = 0
    """Random seed of weights, data order and augmentation."""
    workers: int = 2
    """Data-loading processes; 0 loads in the main process. It changes only speed."""

    eval_every: int = 1
    """Epochs between evaluations; the last step is always evaluated."""
    eval_batch_size: Annotated[int | None, _by_recipe("eval_batch_size")] = None
    """Images per evaluation batch; images of different sizes go to different batches. It changes only
    speed."""
    checkpoint_every: int = 200
    """Steps between checkpoints; one is also written at each evaluation and on Ctrl-C."""
    log_every: int = 10
    """Steps between lines of training loss."""
    overlays: int = 6
    """Validation pictures to save at the end."""

    def resolved(self) -> "TrainConfig":
        """Return a copy, checked, in which the recipe replaces None.

        Raises:
            ValueError: a value is out of its range; the message names the option.
        """
        recipe = self.recipe or DEFAULT_RECIPES[self.dataset]
        values = {key: value for key, value in asdict(RECIPES[recipe]).items() if getattr(self, key) is None}
        config = replace(self, recipe=recipe, **values)
        for name, value in asdict(config).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
                raise ValueError(f"--{name.replace('_', '-')} must be finite, got {value}")
        if not config.seed < 2**32:
            raise ValueError(f"--seed must be below 2^32, got {config.seed}")
        for name in _POSITIVE:
            value = getattr(config, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
        for name in _NOT_NEGATIVE:
            if not (value := getattr(config, name)) >= 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, got {value}")
        config._check_network()
        config._check_range()
        return config

    def _check_network(self) -> None:
        """Check the options of the network.

        Raises:
            ValueError: one is out of its range or contradicts another; the message names the options.
        """
        diffuses = self.diffusion and not str(self.model).startswith("simdeeplab")
        if self.branches not in (1, 2):
            raise ValueError(f"--branches must be 1 or 2, got {self.branches}")
        if self.branches == 2 and diffuses:
            raise ValueError(
                "--branches 2 is for networks without diffusion; add --no-diffusion, or leave it out"
            )
        try:
            self.network(1)
        except ValueError as error:
            option, _, problem = str(error).partition(":")
            raise ValueError(f"--{option.replace('_', '-')}:{problem}") from error
        if diffuses and self.walk_sources and self.detach_seed and not self.seed_loss:
            raise ValueError(
                f"--seed-loss 0 leaves the seed branch without a loss, because the seed is detached (by "
                f"--detach-seed or the recipe {self.recipe}); give --detach-seed False, or --seed-loss 1"
            )

    def _check_range(self) -> None:
        """Check that the factors and their products are in the range of float32, the optimizers' dtype.

        Raises:
            ValueError: one is not; the message names the options.
        """
        recipe, heads = self.settings(), "--lr times --head-lr-multiplier"
        # AdamW multiplies learning rate and weight decay, SGD does not.
        decay = recipe.weight_decay if recipe.optimizer == "adamw" else 0.0
        for options, value, least in (
            ("--lr", recipe.lr, _SMALLEST),
            (heads, recipe.lr * self.head_lr_multiplier, _SMALLEST),
            ("--lr times --gate-lr-multiplier", recipe.lr * recipe.gate_lr_multiplier, _SMALLEST),
            ("--weight-decay", recipe.weight_decay, 0.0),
            ("--lr times --weight-decay", recipe.lr * decay, 0.0),
            (f"{heads} times --weight-decay", recipe.lr * self.head_lr_multiplier * decay, 0.0),
            ("--momentum", self.momentum, 0.0),
            ("--poly-power", self.poly_power, 0.0),
        ):
            if not least <= value <= _LARGEST:
                raise ValueError(f"{options} must be from {least:g} to {_LARGEST:g}, got {value:g}")

    def settings(self) -> Recipe:
        """Return the settings that a recipe decides; the configuration must be resolved."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

    def network(self, num_classes: int) -> dict[str, Any]:
        """Return the arguments of `create_model`; the configuration must be resolved."""
        recipe = self.settings()
        options = {field.name: getattr(recipe, field.name) for field in fields(DiffusionOptions)}
        return {
            "name": recipe.model,
            "num_classes": num_classes,
            "aspp": self.aspp,
            "walk_sources": self.walk_sources if self.diffusion else None,
            "diffusion": DiffusionOptions(**options),
            "branches": self.branches,
            "pretrained": recipe.pretrained,
        }

    def to_json(self) -> str:
        """Return all fields as indented JSON."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"

    @staticmethod
    def from_json(path: Path) -> "TrainConfig":
        """Read a file that `to_json` wrote, in this version or an earlier one.

        Raises:
            ValueError: the file is not such a configuration.
            OSError: the file cannot be read.
        """
        try:
            values: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
            values = {"init_from": None, "class_list": None} | values  # earlier versions had neither
            if "recipe" not in values:  # nor recipes by name
                values["recipe"] = DEFAULT_RECIPES.get(values.get("dataset", ""), "paper")
            # An option that the version did not have was the paper's. mu and beta had the rate of the heads.
            paper = {name: getattr(PAPER, name) for name in WALK_OPTIONS}
            paper["gate_lr_multiplier"] = values.get("head_lr_multiplier", 1.0)
            values = paper | values
            if "walks" in values:  # the name of walk_sources in earlier versions
                values.setdefault("walk_sources", values.pop("walks"))
            # Earlier versions wrote the defaults.
            values["void_value"] = None if values.get("void_value") == [255] else values.get("void_value")
            values["label_offset"] = values.get("label_offset") or None
            for name in ("data_root", "out", "resume", "init_from", "class_list"):
                values[name] = Path(values[name]) if isinstance(values[name], str) else values[name]
            for name in ("walk_sources", "scale", "void_value"):
                if isinstance(values.get(name), list):
                    values[name] = tuple(values[name])
            config = TrainConfig(**values)
            for name, kind in get_type_hints(TrainConfig).items():
                value = getattr(config, name)
                try:
                    typeguard.check_type(value, kind)
                except typeguard.TypeCheckError:
                    expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
                    raise ValueError(f"{name} is {value!r}, expected {expected}") from None
            config.resolved()
        except KeyError as error:
            raise ValueError(f"{path} is not the configuration of a run ({error} is missing)") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not the configuration of a run ({error})") from error
        return config
