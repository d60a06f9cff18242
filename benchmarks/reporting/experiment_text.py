"""Text of docs/experiments.md that is written by hand, and the placeholders in it.

No measured figure is typed. A placeholder takes it from the records:

    {EXPERIMENT:VARIANT:COLUMN}           mean over the seeds; the variant is named as its folder
    {EXPERIMENT:VARIANT:COLUMN:spread}    sample standard deviation over the seeds
    {EXPERIMENT:VARIANT:COLUMN:seeds}     number of seeds

COLUMN is a column of the main table, iou.CLASS, size_correlation, or mu.T, beta.T, walk_iou.T, nodes_seen.T,
reach.T, self_weight.T, own_class.T or hubs.T of walk T. A plain brace is written twice.
"""

import re
from typing import NamedTuple

from difnet.experiments.plan import Experiment
from difnet.experiments.records import Record
from reporting.experiment_tables import by_variant, column_of, size_correlation, summaries


class Results(NamedTuple):
    """An experiment and the records of its runs."""

    experiment: Experiment
    records: list[Record]


class PageError(ValueError):
    """The page cannot be written; the message names the file and the remedy."""


def fill(text: str, results: dict[str, Results], source: str) -> str:
    """Replace the placeholders of a text from `source` by figures of the records.

    Raises:
        PageError: a placeholder has no figure; the message names it.
    """

    def figure(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        try:
            return look_up(match[1] or "", results)
        except ValueError as error:
            raise PageError(f"{source}: {match[0]}: {error}") from error

    return re.sub(r"\{\{|\}\}|\{([^{}]*)\}|[{}]", figure, text)


def look_up(placeholder: str, results: dict[str, Results]) -> str:
    """Return the figure of a placeholder without its braces.

    Raises:
        ValueError: there is none; the message says which part is unknown.
    """
    name, variant, key, part = (*placeholder.split(":", 3), "", "", "", "")[:4]
    if not key:
        raise ValueError("expected {EXPERIMENT:VARIANT:COLUMN}; a plain brace is written twice")
    if name not in results:
        known = ", ".join(results) or "no experiment"
        raise ValueError(f"no records of the experiment {name!r}; there are those of {known}")
    experiment, records = results[name]
    slugs = {it.slug: it.name for it in experiment.variants if it.name in by_variant(experiment, records)}
    if variant not in slugs:
        raise ValueError(f"no records of the variant {variant!r}; there are those of {', '.join(slugs)}")
    if key == "size_correlation" and not part:
        correlation = size_correlation(experiment, records, slugs[variant]).correlation
        if correlation is not None:
            return f"{correlation:+.2f}"
        raise ValueError("the correlation is not defined")
    found, column = summaries(experiment, records, key)[slugs[variant]], column_of(key)
    if part == "seeds":
        return str(len(found.seeds))
    if part not in ("", "spread"):
        raise ValueError(f"{part!r} is not spread or seeds")
    value = found.spread if part else found.mean
    if value is None:
        raise ValueError("the records hold no such number, or of too few seeds")
    return f"{value:{'+' if column.sign and not part else ''}.{column.digits}f}"
