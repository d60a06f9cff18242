"""Tables of docs/experiments.md beside the main one: IoU of each class, the walks, and the recipes.

These tables, and the figures in the text of the page, are made of columns, as the main table is. A column
takes one number from the record of each run. It has a key, such as "mean_iou" or "iou.road".
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from difnet.experiments.plan import Experiment
from difnet.experiments.records import Record
from difnet.experiments.tables import COLUMNS, Column, Summary, at, format_summary, make_table, summarize
from difnet.measures.collect import GainBySize, gain_by_class_size
from difnet.training.recipes import RECIPES
from reporting.report import markdown_table


class _Walk(NamedTuple):
    """A column of the table of the walks: heading, place of its number in a record, factor and digits."""

    heading: str
    path: str
    factor: float = 1.0
    digits: int = 1


WALK_COLUMNS = {
    "mu": _Walk("mu", "evaluation.mu.{}", digits=3),
    "beta": _Walk("beta", "evaluation.beta.{}", digits=3),
    "walk_iou": _Walk("mean IoU after it, %", "evaluation.walk_mean_iou.{}", 100.0, 2),
    "nodes_seen": _Walk("nodes seen", "evaluation.measures.walks.{}.nodes_seen"),
    "reach": _Walk("reach, pixels", "evaluation.measures.walks.{}.reach"),
    "self_weight": _Walk("weight on itself", "evaluation.measures.walks.{}.self_weight", digits=3),
    "own_class": _Walk("on its class", "evaluation.measures.walks.{}.own_class", digits=3),
    "hubs": _Walk("hubs", "evaluation.measures.walks.{}.hubs"),
    "nodes": _Walk("nodes", "evaluation.measures.walks.{}.nodes", digits=0),
}
"""What is known of each walk, by the key of its column without the number of the walk."""


class ClassGain(NamedTuple):
    """What a variant gains over the baseline in one class.

    Attributes:
        name: of the class.
        share: of the labelled pixels.
        gain: in IoU, in points: the difference of the means over the seeds that both have.
    """

    name: str
    share: float
    gain: float


def by_variant(experiment: Experiment, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each variant that has any, in the order of the experiment."""
    names = [variant.name for variant in experiment.variants]
    found = {name: [record for record in records if record["variant"] == name] for name in names}
    return {name: of_variant for name, of_variant in found.items() if of_variant}


def with_walks(experiment: Experiment, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each variant that diffuses its seed."""
    variants = by_variant(experiment, records).items()
    return {name: found for name, found in variants if found[0]["evaluation"].get("walk_mean_iou")}


def column_of(key: str) -> Column:
    """Return the column of a key: one of the main table, "iou.CLASS", or "mu.T" and so on of walk T from 1.

    Raises:
        ValueError: there is no such column.
    """
    kind, _, part = key.partition(".")
    if key in COLUMNS:
        return COLUMNS[key]
    if kind == "iou" and part:
        return Column(part, lambda record: _percent(record["evaluation"]["iou"].get(part)), digits=1)
    if kind in WALK_COLUMNS and part.isdigit() and int(part) > 0:
        walk = WALK_COLUMNS[kind]
        return Column(walk.heading, at(walk.path.format(int(part) - 1), walk.factor), walk.digits)
    walks = ", ".join(f"{name}.T" for name in WALK_COLUMNS)
    raise ValueError(f"no column {key!r}; choose one of {', '.join(COLUMNS)}, iou.CLASS, {walks}")


def summaries(experiment: Experiment, records: Sequence[Record], key: str) -> dict[str, Summary]:
    """Summarize a column over the seeds of each variant.

    Raises:
        ValueError: there is no such column.
    """
    if key in COLUMNS:
        rows = make_table(replace(experiment, columns=(key,)), records, 0)["rows"]
        return {row["variant"]: Summary(**row["values"][key]) for row in rows}
    value = column_of(key).value
    variants = by_variant(experiment, records).items()
    return {name: summarize({it["seed"]: value(it) for it in found}) for name, found in variants}


def class_table(experiment: Experiment, records: Sequence[Record]) -> str:
    """The IoU of each class; variants or classes are the lines, whichever are more."""
    variants, classes = list(by_variant(experiment, records)), list(records[0]["evaluation"]["iou"])
    shares = class_shares(records)
    table = [["", *variants]]
    if shares:
        table[0].insert(1, "pixels, %")
    for name in classes:
        found = summaries(experiment, records, f"iou.{name}")
        share = [f"{100.0 * (shares[name] or 0.0):.2f}"] if shares else []
        table.append([name, *share, *(_cell(f"iou.{name}", found[variant]) for variant in variants)])
    if len(variants) > len(classes):
        table = [list(line) for line in zip(*table, strict=True)]
    return markdown_table(table[0], table[1:])


def walk_table(experiment: Experiment, records: Sequence[Record]) -> str:
    """What is known of each walk of each variant; empty if no variant has walks."""
    lines = []
    for name, found in with_walks(experiment, records).items():
        for walk in range(1, len(found[0]["evaluation"]["mu"]) + 1):
            keys = [f"{kind}.{walk}" for kind in WALK_COLUMNS]
            cells = [_cell(key, summaries(experiment, found, key)[name]) for key in keys]
            lines.append([name if walk == 1 else "", str(walk), *cells])
    headings = ["", "walk", *(column.heading for column in WALK_COLUMNS.values())]
    return markdown_table(headings, lines) if lines else ""


def nodes_of(records: Sequence[Record]) -> int | None:
    """Return the number of nodes of the walks, as measured; None if it was not, or differs."""
    walks = [walk for it in records for walk in it["evaluation"].get("measures", {}).get("walks", [])]
    nodes = {round(walk["nodes"]) for walk in walks}
    return nodes.pop() if len(nodes) == 1 else None


def class_shares(records: Sequence[Record]) -> dict[str, float | None]:
    """Return the share of each class in the labelled pixels; empty if it was not measured."""
    shares = (it["evaluation"].get("measures", {}).get("class_share") for it in records)
    return next((share for share in shares if share), {})


def class_gains(experiment: Experiment, records: Sequence[Record]) -> dict[str, list[ClassGain]]:
    """Return what each variant gains over the baseline, in each class with an IoU in both and a share."""
    shares, gains = class_shares(records), {}
    for name in by_variant(experiment, records):
        if name == experiment.baseline:
            continue
        base, means = _class_means(experiment, records, name)
        rows = [(key, shares.get(key), base.get(key), value) for key, value in means.items()]
        gains[name] = [
            ClassGain(key, share, value - before)
            for key, share, before, value in rows
            if share and before is not None and value is not None
        ]
    return {name: of_variant for name, of_variant in gains.items() if of_variant}


def size_correlation(experiment: Experiment, records: Sequence[Record], variant: str) -> GainBySize:
    """Correlate a variant's gain over the baseline in each class with the share of the class."""
    shares, (base, means) = class_shares(records), _class_means(experiment, records, variant)
    if not (base and means and shares):
        return GainBySize(None, 0)
    return gain_by_class_size(base, means, shares)


def recipe_table() -> str:
    """The settings of each recipe; an empty cell stands for the setting of the first one."""
    (first, paper), *others = ((name, asdict(recipe)) for name, recipe in RECIPES.items())
    lines = []
    for setting, value in paper.items():
        cells = ["" if it[setting] == value else _setting(it[setting]) for _, it in others]
        lines.append([f"`--{setting.replace('_', '-')}`", _setting(value), *cells])
    return markdown_table(["", f"`{first}`", *(f"`{name}`" for name, _ in others)], lines)


def _class_means(
    experiment: Experiment, records: Sequence[Record], variant: str
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """The mean IoU of each class, in percent, of the baseline and of a variant, over the seeds of both."""
    variants = by_variant(experiment, records)
    both = [variants.get(name, []) for name in (experiment.baseline or "", variant)]
    seeds = set.intersection(*({it["seed"] for it in found} for found in both))
    means: tuple[dict[str, float | None], dict[str, float | None]] = ({}, {})
    for found, of_class in zip(both, means, strict=True):
        chosen = [it["evaluation"]["iou"] for it in found if it["seed"] in seeds]
        for key in chosen[0] if chosen else []:
            known = [iou[key] for iou in chosen if iou[key] is not None]
            of_class[key] = _percent(statistics.fmean(known) if known else None)
    return means


def _cell(key: str, summary: Summary) -> str:
    return format_summary(column_of(key), summary)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " to ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
