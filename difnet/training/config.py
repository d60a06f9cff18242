"""Typed settings of the three commands; tyro turns them into command lines."""

import json
import math
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typeguard
import tyro

from difnet.data.base import VOID
from difnet.utils.files import read_text

_SMALLEST, _LARGEST = 1e-37, 1e37
"""Bounds of learning rates: float32 holds 1.2e-38 to 3.4e38, and AdamW divides the first rate by 0.1."""

DatasetName = Literal["scenes", "camvid", "folder"]


@dataclass(frozen=True)
class Recipe:
    """Settings that depend on the data; `TrainConfig` fields left at None take them from `RECIPES`."""

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
"""The paper's recipe, for real photographs. Its 30,000 steps are for VOC; epochs fit any data."""

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
"""The drawn scenes, sized for about three minutes on two CPU cores. Networks start from random weights and
see a few hundred steps, where AdamW learns several times faster than the paper's SGD does."""

RECIPES: dict[str, Recipe] = {"scenes": SCENES, "camvid": PAPER, "folder": PAPER}


def _default(text: str) -> Any:
    """What --help shows for an option whose default, None, stands for `text`."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


def _by_recipe(name: str) -> Any:
    """The same for an option that follows the data set."""
    scenes, paper = (getattr(recipe, name) for recipe in (SCENES, PAPER))
    return _default(f"{scenes} for scenes, {paper} for photographs")


@dataclass(frozen=True)
class TrainConfig:
    """Train a segmentation network; without any option, a small DifNet on drawn scenes, in minutes.

    Options that `Recipe` holds as well and that are None follow the data set: on photographs the paper's
    recipe, on the drawn scenes one made for a few minutes on a CPU.
    """

    dataset: DatasetName = "scenes"
    """scenes (drawn in memory), camvid, or folder (images/{train,val}, labels/{train,val}, classes.txt)."""
    data_root: Annotated[Path | None, _default("none")] = None
    """Folder of the data, for camvid and folder."""
    void_value: tuple[int, ...] = (VOID,)
    """Numbers in the labels of folder that mean void: such pixels are ignored."""
    label_offset: int = 0
    """Number of the first class in the labels of folder; 1 where classes are numbered from 1."""
    out: Annotated[Path | None, _default("runs/DATASET-MODEL-TIME")] = None
    """Run folder to create."""
    resume: Annotated[Path | None, _default("start a new run")] = None
    """Run folder to continue, with its own settings; only --data-root, --workers and --eval-batch-size may
    be given beside it."""

    model: str = "difnet18"
    """difnet18|34|50|101, simdeeplab18|34|50|101, or any timm backbone."""
    aspp: bool = True
    """DeepLab-v2 ASPP classifier instead of one plain 3x3 classifier."""
    walks: tuple[int, ...] = (0, 1, 2, 3, 4)
    """What drives each walk: 0 the image, 1 to 4 the blocks of the similarity branch."""
    pretrained: bool = False
    """Start the backbones from timm's ImageNet weights (downloads them)."""
    init_from: Annotated[Path | None, _default("none")] = None
    """Start from the weights of a network on the same backbone: a run folder (its best weights) or a weights
    file. What does not fit starts anew, such as the classifier where the classes differ."""

    crop: Annotated[int | None, _by_recipe("crop")] = None
    """Side of the square training crop, in pixels."""
    scale: Annotated[tuple[float, float] | None, _by_recipe("scale")] = None
    """Range of the random scale factor."""
    flip: bool = True
    """Random horizontal flip."""

    optimizer: Annotated[Literal["sgd", "adamw"] | None, _by_recipe("optimizer")] = None
    """Optimizer."""
    lr: Annotated[float | None, _by_recipe("lr")] = None
    """Learning rate at the first step; falls to 0 as (1 - step / steps)^poly-power."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, _by_recipe("weight_decay")] = None
    """Weight decay, of all parameters."""
    head_lr_multiplier: float = 1.0
    """Learning rate of everything but the backbones, as a multiple of --lr."""
    poly_power: float = 0.9
    """Exponent of the learning-rate schedule."""
    batch_size: Annotated[int | None, _by_recipe("batch_size")] = None
    """Images of one optimizer step, over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches per optimizer step; batch statistics are taken over each micro-batch."""
    epochs: Annotated[int | None, _by_recipe("epochs")] = None
    """Passes over the training images."""
    max_steps: Annotated[int | None, _default("as --epochs says")] = None
    """Number of optimizer steps, instead of --epochs."""
    class_weights: str = "none"
    """none, median-frequency, a file with one number a line, or numbers separated by commas."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision; fp16 needs a GPU."""
    channels_last: bool = False
    """Keep activations in channels-last memory format."""
    deterministic: bool = False
    """Refuse every operation without a deterministic implementation (a CPU run is deterministic anyway)."""
    seed: int = 0
    """Of weights, data order and augmentation."""
    workers: int = 2
    """Data-loading processes; 0 loads in the main process. Changes nothing but speed."""

    eval_every: int = 1
    """Epochs between evaluations; the last step is always evaluated."""
    eval_batch_size: Annotated[int | None, _by_recipe("eval_batch_size")] = None
    """Images per evaluation batch; those of another size get a batch of their own. It changes only speed."""
    checkpoint_every: int = 200
    """Steps between checkpoints; one is also written after each evaluation and on Ctrl-C."""
    log_every: int = 10
    """Steps between lines of training loss."""
    overlays: int = 6
    """Validation pictures to save at the end."""

    def resolved(self) -> "TrainConfig":
        """Every None that the data set's recipe decides, filled in; checked.

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
        """See that float32, in which the optimizers compute, holds the factors and their products.

        Raises:
            ValueError: it does not; the message names the options.
        """
        recipe, heads = self.recipe(), "--lr times --head-lr-multiplier"
        decay = recipe.weight_decay if recipe.optimizer == "adamw" else 0.0  # SGD has no product of the two
        for words, value, least in (
            ("--lr", recipe.lr, _SMALLEST),
            (heads, recipe.lr * self.head_lr_multiplier, _SMALLEST),
            ("--weight-decay", recipe.weight_decay, 0.0),
            ("--lr times --weight-decay", recipe.lr * decay, 0.0),
            (f"{heads} times --weight-decay", recipe.lr * self.head_lr_multiplier * decay, 0.0),
            ("--momentum", self.momentum, 0.0),
            ("--poly-power", self.poly_power, 0.0),
        ):
            if not least <= value <= _LARGEST:
                raise ValueError(f"{words} must be from {least:g} to {_LARGEST:g}, got {value:g}")

    def recipe(self) -> Recipe:
        """The data-dependent settings of a resolved configuration."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

    def to_json(self) -> str:
        """Readable JSON of every field."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"

    @staticmethod
    def from_json(path: Path) -> "TrainConfig":
        """Read what `to_json` wrote.

        Raises:
            ValueError: the file is not such a configuration.
            OSError: the file cannot be read.
        """
        try:
            values: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
            values.setdefault("init_from", None)  # runs of earlier versions have none
            for name in ("data_root", "out", "resume", "init_from"):
                values[name] = Path(values[name]) if isinstance(values[name], str) else values[name]
            for name in ("walks", "scale", "void_value"):
                if isinstance(values.get(name), list):  # runs of older versions have no void_value
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


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained network on the validation images of a data set."""

    checkpoint: Path
    """Run folder (its best weights) or weights file."""
    dataset: DatasetName = "scenes"
    """Data set, as in training."""
    data_root: Annotated[Path | None, _default("none")] = None
    """Folder of the data, for camvid and folder."""
    split: Literal["val", "train"] = "val"
    """Split to evaluate."""
    void_value: Annotated[tuple[int, ...] | None, _default("as in training")] = None
    """Numbers in the labels of folder that mean void: such pixels are ignored."""
    label_offset: Annotated[int | None, _default("as in training")] = None
    """Number of the first class in the labels of folder; 1 where classes are numbered from 1."""
    multi_scale: bool = False
    """Average class probabilities over scales 0.5, 0.75, 1, 1.25 and 1.5."""
    flip: bool = False
    """Average class probabilities with those of the mirrored image."""
    batch_size: int = 1
    """Images per batch; those of another size get a batch of their own. It changes only speed."""
    workers: int = 2
    """Data-loading processes."""
    device: Annotated[str | None, _default("the best one present")] = None
    """Device, such as cuda or cpu."""
    out: Annotated[Path | None, _default("not written")] = None
    """File for the metrics as JSON; an earlier one is replaced, a file of the run or the data is not."""


@dataclass(frozen=True)
class PredictConfig:
    """Label images of any size: a palette PNG and an overlay for each."""

    checkpoint: Path
    """Run folder (its best weights) or weights file."""
    out: Path
    """Folder for the pictures, created if need be."""
    multi_scale: bool = False
    """Average class probabilities over scales 0.5, 0.75, 1, 1.25 and 1.5."""
    flip: bool = False
    """Average class probabilities with those of the mirrored image."""
    device: Annotated[str | None, _default("the best one present")] = None
    """Device, such as cuda or cpu."""


def class_weights(choice: str, classes: int) -> list[float] | None:
    """Class weights that the option ``--class-weights`` gives; None where it is a word for others.

    Raises:
        ValueError: not one non-negative number for each class.
    """
    if choice in ("none", "median-frequency"):
        return None
    weights, source = _numbers(choice), f"--class-weights {choice}"
    if weights is None:
        source = f"the file of --class-weights, {choice},"
        try:
            weights = _numbers(read_text(Path(os.path.expanduser(choice))), source)
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f"--class-weights {choice} is neither none, median-frequency, numbers, nor "
                f"a readable file ({error})"
            ) from error
        if weights is None:
            raise ValueError(f"{source} must hold nothing but numbers")
    if len(weights) != classes or not all(weight == 0.0 or 1e-20 <= weight <= 1e20 for weight in weights):
        raise ValueError(  # weighted sums over pixels are in float32
            f"{source} must hold {classes} non-negative numbers, one per class, those above 0 between "
            f"1e-20 and 1e20, but holds {len(weights)}: {weights}"
        )
    return weights


def _numbers(text: str, source: str = "--class-weights") -> list[float] | None:
    """Numbers separated by commas, spaces or ends of lines; None where `text` is something else.

    Raises:
        ValueError: they are separated in several ways: a decimal comma, or numbers beside the weights.
    """
    text = text.strip().rstrip(",")
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        return None
    separators = re.findall(r"[\s,]+", text.rstrip())
    if len({("," in separator, "\n" in separator) for separator in separators}) > 1:
        raise ValueError(
            f"{source} separates numbers in several ways, {text[:40]!r}; write one number a line or all "
            "on one line with commas, each with a decimal point"
        )
    return numbers
