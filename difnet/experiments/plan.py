"""An experiment as data: its variants, the runs that it needs, and the command line of each run."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from difnet.data.registry import DatasetName
from difnet.training.config import TrainConfig
from difnet.utils.console import parse

_OWN_OPTIONS = ("dataset", "data_root", "seed", "workers", "out", "resume")
"""Settings that the experiment decides, or that are options of ``difnet.experiment`` itself."""
_FREE_SETTINGS = ("out", "resume", "workers", "eval_batch_size")
"""Settings that change no result, so that a run may continue with others."""


class DataSize(NamedTuple):
    """What the cost of a run depends on: numbers of images and classes, and the size of one image.

    Attributes:
        train, val: number of images.
        image: (height, width) of a validation image, before --image-scale.
        classes: number of classes.
        source: where the numbers come from, as a note for the reader; empty if from the data.
    """

    train: int
    val: int
    image: tuple[int, int]
    classes: int
    source: str = ""


PUBLISHED: tuple[DatasetName, ...] = ("voc", "voc-aug", "context", "cityscapes", "ade20k")


@dataclass(frozen=True)
class Variant:
    """One line of a table.

    Attributes:
        name: as the table shows it.
        changes: settings of `TrainConfig` by name, in which it differs from its experiment.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name of its folder: "DifNet-50, no ASPP" becomes "difnet-50-no-aspp"."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower().replace("'", "")).strip("-")


@dataclass(frozen=True)
class Experiment:
    """A set of variants that are trained on the same data and compared in one table.

    Attributes:
        name: as the command line takes it.
        title: heading of the table.
        question: what the experiment asks, in one sentence.
        variants: lines of the table, in order.
        baseline: name of the variant from which differences are taken; None for a table without them.
        columns: keys of `difnet.experiments.tables.COLUMNS`.
        settings: settings of `TrainConfig` by name, of all variants.
        datasets: names of the data sets it can use; the first is the default.
        published: numbers for an estimate without the data, by data set.
    """

    name: str
    title: str
    question: str
    variants: tuple[Variant, ...]
    baseline: str | None
    columns: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[DatasetName, ...] = ("camvid", "scenes", "folder", *PUBLISHED)
    published: Mapping[str, DataSize] = field(default_factory=dict)

    def chosen(self, only: Sequence[str]) -> tuple[Variant, ...]:
        """Return the variants with these names or folder names; all if `only` is empty.

        Raises:
            ValueError: a name is unknown.
        """
        known = {name: variant for variant in self.variants for name in (variant.name, variant.slug)}
        for name in only:
            if name not in known:
                raise ValueError(
                    f"--only {name}: {self.name} has no such variant; its variants are "
                    f"{', '.join(variant.slug for variant in self.variants)}"
                )
        return tuple(it for it in self.variants if not only or it in [known[name] for name in only])


@dataclass(frozen=True)
class Run:
    """The training of one variant with one random seed.

    Attributes:
        experiment, variant: what is trained.
        base: all settings but the run folder, not resolved.
    """

    experiment: Experiment
    variant: Variant
    base: TrainConfig

    @property
    def seed(self) -> int:
        return self.base.seed

    @property
    def name(self) -> str:
        """Name for printed lines, such as "DifNet-18, seed 0"."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder, relative to the folder of the experiment."""
        return Path(self.variant.slug) / f"seed-{self.seed}"

    def config(self, out: Path) -> TrainConfig:
        """Return the settings of the training, not resolved; `out` is the folder of the experiment."""
        return replace(self.base, out=out / self.folder)

    def command(self, out: Path) -> list[str]:
        """Return the arguments of ``python -m difnet.train`` that start the training from nothing."""
        return to_arguments(self.config(out))


def make_runs(
    experiment: Experiment,
    *,
    dataset: DatasetName | None = None,
    data_root: Path | None = None,
    seeds: int = 3,
    only: Sequence[str] = (),
    workers: int | None = None,
    more: Sequence[str] = (),
) -> list[Run]:
    """List the runs of an experiment: every seed of the first variant, then of the next.

    Args:
        experiment: what to run.
        dataset: name of the data set; None for the default of the experiment.
        data_root: folder of the data.
        seeds: number of seeds, which are 0, 1, ...
        only: names of the variants to run; all if empty.
        workers: data-loading processes; None for the experiment's own number.
        more: arguments of ``difnet.train`` for all runs.

    Raises:
        ValueError: a value is out of its range, or `more` changes what the experiment decides.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    dataset = dataset or experiment.datasets[0]
    if dataset not in experiment.datasets:
        raise ValueError(
            f"--dataset {dataset} is not for {experiment.name}; choose {' or '.join(experiment.datasets)}"
        )
    runs = []
    fixed = {name for it in experiment.variants for name in it.changes} | {*_OWN_OPTIONS}
    for variant in experiment.chosen(only):
        plain = TrainConfig(dataset=dataset, data_root=data_root)
        plain = replace(plain, **{**experiment.settings, **variant.changes})
        config = parse(TrainConfig, more, "train", None, default=plain) if more else plain
        for name in sorted(fixed):
            if getattr(config, name) != getattr(plain, name):
                option = f"--{name.replace('_', '-')}"
                why = (
                    "is decided by the options before --"
                    if name in _OWN_OPTIONS
                    else f"is what the variants of {experiment.name} differ in"
                )
                raise ValueError(f"{option} after --: it {why}; leave it out")
        config = config if workers is None else replace(config, workers=workers)
        config.resolved()
        runs += [Run(experiment, variant, replace(config, seed=seed)) for seed in range(seeds)]
    return runs


def to_arguments(config: TrainConfig) -> list[str]:
    """Return the arguments of ``python -m difnet.train`` from which tyro makes `config`.

    A setting that has its default is left out.
    """
    arguments: list[str] = []
    for setting in dataclasses.fields(TrainConfig):
        value = getattr(config, setting.name)
        if value == setting.default:
            continue
        option = f"--{setting.name.replace('_', '-')}"
        if isinstance(value, bool) and isinstance(setting.default, bool):
            arguments.append(option if value else option.replace("--", "--no-", 1))
        else:
            values = value if isinstance(value, tuple) else (value,)
            arguments += [option, *map(str, values)]
    return arguments


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the resolved settings that decide the result, as values of JSON without paths."""
    values = json.loads(without_paths(config).resolved().to_json())
    return {name: value for name, value in values.items() if name not in _FREE_SETTINGS}


def without_paths(config: TrainConfig) -> TrainConfig:
    """Return a copy in which the paths of inputs are replaced by their last part."""

    def last(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.basename(os.path.abspath(path)))

    weights = config.class_weights
    return replace(
        config,
        data_root=last(config.data_root),
        init_from=last(config.init_from),
        class_weights=os.path.basename(weights) if os.path.sep in weights else weights,
    )
