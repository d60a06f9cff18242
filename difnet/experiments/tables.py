"""The table of an experiment as Markdown and JSON, made from its records alone."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from difnet.experiments.plan import Experiment
from difnet.experiments.records import Record
from difnet.utils.files import write_atomically

ABSENT = "-"


class Column(NamedTuple):
    """One number of each record.

    Attributes:
        heading: as the table shows it.
        value: takes it from a record; None where there is none.
        digits: decimal places.
        spread: whether the table shows the spread over seeds.
        sign: whether the table shows a plus sign.
    """

    heading: str
    value: Callable[[Record], float | None]
    digits: int = 2
    spread: bool = True
    sign: bool = False


class Summary(NamedTuple):
    """One number over the seeds of a variant.

    Attributes:
        mean: None without any value.
        spread: sample standard deviation; None with fewer than two values.
        seeds: the value of each seed.
    """

    mean: float | None
    spread: float | None
    seeds: dict[int, float]


def at(path: str, factor: float = 1.0) -> Callable[[Record], float | None]:
    """Make a function that takes a number from a record by the keys and indices of `path`."""

    def value(record: Record) -> float | None:
        found: Any = record
        for key in path.split("."):
            try:
                found = found[int(key) if isinstance(found, list) else key]
            except (KeyError, IndexError):
                return None
            if found is None:
                return None
        return factor * float(found)

    return value


def _if_walks(value: Callable[[Record], float | None]) -> Callable[[Record], float | None]:
    return lambda record: value(record) if record["evaluation"].get("walk_mean_iou") else None


def _gain(record: Record) -> float | None:
    final, seed = (at(f"evaluation.{name}", 100.0)(record) for name in ("mean_iou", "seed_mean_iou"))
    return None if final is None or seed is None else final - seed


_MEAN_IOU = at("evaluation.mean_iou", 100.0)
_FINAL = "evaluation.measures.final"

COLUMNS: dict[str, Column] = {
    "mean_iou": Column("mean IoU, %", _MEAN_IOU),
    "difference": Column("difference", _MEAN_IOU, sign=True),
    "label_walk": Column("ideal walk, %", at("evaluation.measures.label_walk_mean_iou", 100.0)),
    "accuracy": Column("pixel accuracy, %", at("evaluation.accuracy", 100.0)),
    "seed_mean_iou": Column("of the seed, %", _if_walks(at("evaluation.seed_mean_iou", 100.0))),
    "gain": Column("gain of the walks", _if_walks(_gain), sign=True),
    "boundary_f": Column("boundary F, %", at(f"{_FINAL}.boundary_f", 100.0)),
    "trimap": Column("trimap 2 px, %", at(f"{_FINAL}.trimap.2", 100.0)),
    "fragments": Column("fragments", at(f"{_FINAL}.fragments.ratio")),
    "parameters": Column("parameters, M", at("parameters", 1e-6), spread=False),
    "gflops": Column("GFLOPs", at("flops.image", 1e-9), digits=1, spread=False),
    "minutes": Column("minutes", at("seconds", 1 / 60), digits=1, spread=False),
    **{f"mu_{t}": Column(f"mu {t}", at(f"evaluation.mu.{t - 1}"), digits=3) for t in range(1, 6)},
    **{f"beta_{t}": Column(f"beta {t}", at(f"evaluation.beta.{t - 1}"), digits=3) for t in range(1, 6)},
}
"""All columns by key. Values of "difference" are those of mean IoU minus those of the baseline."""

NOTES = {
    "difference": "Differences are from {baseline}, in points, of equal seeds.",
    "seed_mean_iou": "The seed is the score map before the walks.",
    "label_walk": "The ideal walk is mean IoU of the seed after one walk of 16 pixels whose P knows the "
    "labels; it is a comparison, not a limit.",
    "boundary_f": "Boundary F, trimap and fragments are those of difnet.evaluate --measures.",
    "fragments": "Fragments are connected components, predicted ones for each labelled one.",
    "gflops": "GFLOPs are those of one validation image, two operations a multiply-add; walks count as "
    "in the form that stores P.",
    "minutes": "Minutes are wall-clock time with evaluations; other runs on the same machine lengthen it.",
}


def make_table(
    experiment: Experiment, records: Sequence[Record], seeds: int, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Summarize records over the seeds.

    Args:
        experiment: which variants and columns the table has.
        records: of its runs, as `read_records` returns them.
        seeds: the number of seeds that were asked for.
        only: names of the variants that were asked for; all if empty. Others have a line only with a record.

    Returns:
        The table as values of JSON, with numbers as they are shown: in percent, millions, minutes.
    """
    of_variant = {
        variant.name: {it["seed"]: it for it in records if it["variant"] == variant.name}
        for variant in experiment.variants
    }
    base = of_variant[experiment.baseline] if experiment.baseline is not None else {}
    asked = [variant.name for variant in experiment.chosen(only)]
    rows = []
    for name, by_seed in of_variant.items():
        if name not in asked and not by_seed:
            continue
        values = {}
        for key in experiment.columns:
            if key == "difference":
                pairs = {} if name == experiment.baseline else {s: base[s] for s in by_seed if s in base}
                values[key] = summarize({s: _difference(by_seed[s], other) for s, other in pairs.items()})
            else:
                values[key] = summarize({s: COLUMNS[key].value(it) for s, it in by_seed.items()})
        rows.append(
            {
                "variant": name,
                "seeds": sorted(by_seed),
                "missing": [seed for seed in range(seeds) if seed not in by_seed],
                "values": {key: value._asdict() for key, value in values.items()},
                "runs": [by_seed[seed]["run"] for seed in sorted(by_seed)],
            }
        )
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "question": experiment.question,
        "data": _data(records),
        "baseline": experiment.baseline,
        "columns": [{"key": key, "heading": COLUMNS[key].heading} for key in experiment.columns],
        "rows": rows,
    }


def _difference(record: Record, other: Record) -> float | None:
    one, two = _MEAN_IOU(record), _MEAN_IOU(other)
    return None if one is None or two is None else one - two


def summarize(values: dict[int, float | None]) -> Summary:
    """Summarize the value of each seed, leaving out those that are None."""
    known = {seed: value for seed, value in sorted(values.items()) if value is not None}
    numbers = list(known.values())
    return Summary(
        statistics.fmean(numbers) if numbers else None,
        statistics.stdev(numbers) if len(numbers) > 1 else None,
        known,
    )


def _data(records: Sequence[Record]) -> str | None:
    """The data set with its folder and scale, and the number of images."""
    if not records:
        return None
    config = records[0]["config"]
    name = config["dataset"] + (f" {config['data_root']}" if config["dataset"] == "folder" else "")
    scale = f" at {config['image_scale']:.3g} of the size" if config["image_scale"] != 1.0 else ""
    return f"{name}{scale}, {records[0]['environment'][-1]['images']} images"


def to_markdown(table: dict[str, Any]) -> str:
    """Format a table as Markdown, with notes and the folders of the runs below it."""
    keys = [column["key"] for column in table["columns"]]
    headings = ["", "runs", *(column["heading"] for column in table["columns"])]
    lines = [
        f"# {table['title']}",
        "",
        table["question"],
        "",
        f"Data: {table['data'] or 'no run has ended'}.",
    ]
    lines += ["", _row(headings), _row(["---", *["---:"] * (len(headings) - 1)])]
    for row in table["rows"]:
        done, planned = len(row["seeds"]), len(row["seeds"]) + len(row["missing"])
        count = str(done) if done == planned else f"{done} of {planned}"
        lines.append(_row([row["variant"], count, *(_cell(key, row["values"][key]) for key in keys)]))
    notes = [NOTES[key].format(baseline=table["baseline"]) for key in keys if key in NOTES]
    lines += [
        "",
        "Numbers are means over the seeds, ± the sample standard deviation over them, of the weights after "
        "the last step on the validation images. " + " ".join(notes),
        "",
        "Runs:",
        "",
    ]
    for row in table["rows"]:
        missing = f"; missing: seed {', '.join(map(str, row['missing']))}" if row["missing"] else ""
        lines.append(f"- {row['variant']}: {', '.join(row['runs']) or 'none'}{missing}")
    return "\n".join(lines) + "\n"


def write_table(table: dict[str, Any], out: Path) -> str:
    """Write table.md and table.json to the folder `out`; return the Markdown.

    Raises:
        WriteError: they cannot be written.
    """
    text = to_markdown(table)
    write_atomically(out / "table.json", json.dumps(table, indent=1, allow_nan=False) + "\n")
    write_atomically(out / "table.md", text)
    return text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(key: str, summary: dict[str, Any]) -> str:
    return format_summary(COLUMNS[key], Summary(**summary))


def format_summary(column: Column, summary: Summary) -> str:
    """Format a mean over seeds, with the spread if the column shows it and there is one."""
    if summary.mean is None:
        return ABSENT
    shown = f"{summary.mean:{'+' if column.sign else ''}.{column.digits}f}"
    if not column.spread or summary.spread is None:
        return shown
    return f"{shown} ± {summary.spread:.{column.digits}f}"
