"""The settings of a training run; tyro turns them into the command line of ``python -m difnet.train``."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typeguard
import tyro

from difnet.data.base import VOID
from difnet.data.registry import DatasetName
from difnet.utils.console import shown_default

_SMALLEST, _LARGEST = 1e-37, 1e37
"""Bounds of learning rates: float32 holds 1.2e-38 to 3.4e38, and AdamW divides the first rate by 0.1."""


@dataclass(frozen=True)
class Recipe:
    """Settings that depend on the data set: a field of `TrainConfig` that is None takes its value here."""

    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    batch_size: int
    crop: int
    scale: tuple[float, float]
    epochs: int
    eval_batch_size: int


PAPER = Recipe(
    optimizer="sgd",
    lr=2.5e-3,
    weight_decay=5e-4,
    batch_size=16,
    crop=321,
    scale=(0.5, 1.5),
    epochs=100,
    eval_batch_size=1,
)
"""The paper's recipe, for photographs. The paper gives 30,000 steps, for VOC; epochs fit data of any size."""

SCENES = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-2,
    batch_size=8,
    crop=64,
    scale=(0.75, 1.25),
    epochs=1,
    eval_batch_size=8,
)
"""The recipe of the drawn scenes, which takes about three minutes on two CPU cores. Networks start from
random weights and train for a few hundred steps, in which AdamW learns several times faster than SGD."""

RECIPES: dict[str, Recipe] = {"scenes": SCENES, "camvid": PAPER, "folder": PAPER}


def _by_recipe(name: str) -> Any:
    """Let --help show both recipes' values as the default of an option."""
    scenes, paper = (getattr(recipe, name) for recipe in (SCENES, PAPER))
    return shown_default(f"{scenes} for scenes, {paper} for photographs")


@dataclass(frozen=True)
class TrainConfig:
    """Train a segmentation network; without options, a small DifNet on drawn scenes, in minutes.

    A field of `Recipe` that is None here follows the data set: for photographs it is the value of the paper's
    recipe, for drawn scenes that of a recipe for a few minutes on a CPU.
    """

    dataset: DatasetName = "scenes"
    """scenes (drawn in memory), camvid, or folder (images/{train,val}, labels/{train,val}, classes.txt)."""
    data_root: Annotated[Path | None, shown_default("none")] = None
    """Folder of the data, for camvid and folder."""
    void_value: tuple[int, ...] = (VOID,)
    """Numbers that mean void in the labels of folder; void pixels are ignored."""
    label_offset: int = 0
    """Number of the first class in the labels of folder; 1 if classes are numbered from 1."""
    out: Annotated[Path | None, shown_default("runs/DATASET-MODEL-TIME")] = None
    """Run folder to create."""
    resume: Annotated[Path | None, shown_default("start a new run")] = None
    """Run folder to continue, with its own settings; only --data-root, --workers and --eval-batch-size may
    be changed."""

    model: str = "difnet18"
    """difnet18|34|50|101, simdeeplab18|34|50|101, or any timm backbone."""
    aspp: bool = True
    """DeepLab-v2 ASPP classifier instead of one plain 3x3 classifier."""
    walk_sources: Annotated[tuple[int, ...], tyro.conf.arg(aliases=("--walks",))] = (0, 1, 2, 3, 4)
    """Source of the features of each walk: 0 the image, 1 to 4 the blocks of the similarity branch."""
    pretrained: bool = False
    """Start the backbones from timm's ImageNet weights, which are downloaded."""
    init_from: Annotated[Path | None, shown_default("none")] = None
    """Start from the weights of a network on the same backbone: a run folder (its best weights) or a weights
    file. Parts that do not fit keep their random weights, such as the classifier if the classes differ."""

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
    """Learning rate of all parameters outside the backbones, as a multiple of --lr."""
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
    """none, median-frequency, a file with one number per line, or numbers separated by commas."""

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
        """Return a copy, checked, in which the data set's recipe replaces None.

        Raises:
            ValueError: a value is out of its range; the message names the option.
        """
        recipe = asdict(RECIPES[self.dataset])
        config = replace(
            self, **{name: value for name, value in recipe.items() if getattr(self, name) is None}
        )
        for name, value in asdict(config).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
                raise ValueError(f"--{name.replace('_', '-')} must be finite, got {value}")
        if not config.seed < 2**32:
            raise ValueError(f"--seed must be below 2^32, got {config.seed}")
        positive = ("crop", "lr", "batch_size", "accumulation", "epochs", "eval_every", "eval_batch_size")
        for name in (*positive, "checkpoint_every", "log_every", "max_steps", "head_lr_multiplier"):
            value = getattr(config, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
        for name in ("workers", "overlays", "seed", "momentum", "weight_decay", "poly_power"):
            if getattr(config, name) < 0:
                raise ValueError(
                    f"--{name.replace('_', '-')} must not be negative, got {getattr(config, name)}"
                )
        config._check_range()
        return config

    def _check_range(self) -> None:
        """Check that the factors and their products are in the range of float32, the optimizers' dtype.

        Raises:
            ValueError: one is not; the message names the options.
        """
        recipe, heads = self.recipe(), "--lr times --head-lr-multiplier"
        # AdamW multiplies learning rate and weight decay, SGD does not.
        decay = recipe.weight_decay if recipe.optimizer == "adamw" else 0.0
        for options, value, least in (
            ("--lr", recipe.lr, _SMALLEST),
            (heads, recipe.lr * self.head_lr_multiplier, _SMALLEST),
            ("--weight-decay", recipe.weight_decay, 0.0),
            ("--lr times --weight-decay", recipe.lr * decay, 0.0),
            (f"{heads} times --weight-decay", recipe.lr * self.head_lr_multiplier * decay, 0.0),
            ("--momentum", self.momentum, 0.0),
            ("--poly-power", self.poly_power, 0.0),
        ):
            if not least <= value <= _LARGEST:
                raise ValueError(f"{options} must be from {least:g} to {_LARGEST:g}, got {value:g}")

    def recipe(self) -> Recipe:
        """Return the settings that depend on the data set; the configuration must be resolved."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

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
            values.setdefault("init_from", None)  # earlier versions did not have it
            if "walks" in values:  # the name of walk_sources in earlier versions
                values.setdefault("walk_sources", values.pop("walks"))
            for name in ("data_root", "out", "resume", "init_from"):
                values[name] = Path(values[name]) if isinstance(values[name], str) else values[name]
            for name in ("walk_sources", "scale", "void_value"):
                if isinstance(values.get(name), list):  # earlier versions did not have void_value
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
