"""Write docs/experiments.md and its figures from the records of experiments.

    make experiments-page                                  # or, with PYTHONPATH=benchmarks:
    python tools/experiments_page.py
    python tools/experiments_page.py --check               # status 1 if the page differs from the records
    python tools/experiments_page.py --copy RUNS           # first copy the records of an experiment into docs

`python -m difnet.experiment NAME --out RUNS` leaves a record of each run. Below docs/experiments lie

    records/NAME/VARIANT/seed-N/record.json    copies of these records
    text/intro.md, recipes.md, NAME.md         written by hand: the beginning, the recipes, an experiment
    pictures/NAME/                             what tools/diffusion_pictures.py wrote, if it was run
    figures/                                   drawn by this script

Figures in the text are placeholders, such as {NAME:VARIANT:mean_iou}; see
benchmarks/reporting/experiment_text.py.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from reporting.experiment_plots import draw_plots, plots_of
from reporting.experiment_tables import by_variant, class_table, nodes_of, recipe_table, walk_table
from reporting.experiment_text import PageError, Results, fill
from reporting.report import markdown_table

from difnet.experiments.plan import Experiment
from difnet.experiments.records import NAME as RECORD
from difnet.experiments.records import Record, read_record, read_records
from difnet.experiments.sets import EXPERIMENTS
from difnet.experiments.tables import make_table, to_markdown
from difnet.training.recipes import RECIPES
from difnet.training.run_folder import RunError
from difnet.utils.files import write_atomically
from difnet_kernels.info import CHANGED

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = "experiments.md"
ROOM = "experiments"


def read(docs: Path) -> dict[str, Results]:
    """Read the records of every experiment that has any, in the order in which experiments are defined.

    Raises:
        PageError: a folder of records is of no experiment, or of no variant.
        RunError: a record is damaged, or does not belong where it lies.
    """
    folder = docs / ROOM / "records"
    for path in sorted(folder.glob("*")):
        if path.name not in EXPERIMENTS:
            raise PageError(
                f"{path}: there is no experiment {path.name}; rename it to one of {', '.join(EXPERIMENTS)}"
            )
    found = {name: Results(it, read_records(it, folder / name)) for name, it in EXPERIMENTS.items()}
    known = {folder / name / record["run"] / RECORD for name, it in found.items() for record in it.records}
    for file in sorted(set(folder.rglob("*.json")) - known):
        raise PageError(f"{file}: no run of this experiment has its record there; remove it")
    return {name: results for name, results in found.items() if results.records}


def copy(runs: Path, docs: Path) -> list[Path]:
    """Copy the records of an experiment's folder into `docs`; return the copies.

    Raises:
        PageError: there are no records.
        RunError: a record is damaged.
    """
    files = sorted(runs.glob(f"*/seed-*/{RECORD}"))
    if not files:
        raise PageError(
            f"--copy {runs}: no VARIANT/seed-N/{RECORD} in it; name the --out of difnet.experiment"
        )
    copies = []
    for file in files:
        record = read_record(file)
        copies.append(docs / ROOM / "records" / record["experiment"] / record["run"] / RECORD)
        copies[-1].parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copies[-1], file.read_bytes())
    return copies


def make_page(docs: Path, results: dict[str, Results]) -> str:
    """Return the text of the page.

    Raises:
        PageError: a text has a placeholder without a figure, or belongs to no experiment.
    """
    texts = {path.stem: path for path in sorted((docs / ROOM / "text").glob("*.md"))}
    for name, path in texts.items():
        if name not in ("intro", "recipes", *EXPERIMENTS):
            raise PageError(f"{path}: there is no experiment {name}; rename the file, or remove it")

    def text(name: str) -> list[str]:
        if name not in texts:
            return []
        return [fill(texts[name].read_text(encoding="utf-8"), results, str(texts[name])).strip()]

    parts = ["# Experiments", *text("intro")]
    for name, (experiment, records) in results.items():
        parts += [*main_section(experiment, records), *text(name)]
        parts += figure_section(experiment, records)
        parts += table_sections(experiment, records)
        parts += picture_section(experiment, docs)
    if not results:
        parts.append("There are no records yet.")
    parts += ["## Recipes", RECIPES_NOTE.format(first=next(iter(RECIPES))), recipe_table(), *text("recipes")]
    return "\n\n".join(parts) + "\n"


def main_section(experiment: Experiment, records: list[Record]) -> list[str]:
    """The table of `difnet.experiments.tables`, and how the runs were made."""
    seeds = 1 + max(record["seed"] for record in records)
    present = by_variant(experiment, records)
    missing = [it.name for it in experiment.variants if it.name not in present]
    commands = [f"# {name}\n{shlex.join(found[0]['command'])}" for name, found in present.items()]
    machines = dict.fromkeys(describe_machine(record["environment"][-1]) for record in records)
    return [
        # Its heading is that of a page; here it is that of a section.
        "#" + to_markdown(make_table(experiment, records, seeds, list(present))).strip(),
        *([f"Not run: {'; '.join(missing)}."] if missing else []),
        f"The runs are those of `python -m difnet.experiment {experiment.name}`, on {'; '.join(machines)}.",
        "<details><summary>Command of the first run of each variant</summary>",
        "```sh\n" + "\n".join(commands) + "\n```",
        "</details>",
    ]


def describe_machine(environment: Record) -> str:
    """Hardware, versions and commit of a run."""
    hardware = ", ".join(environment["gpus"]) or f"{environment['cpu']}, {environment['threads']} threads"
    commit = environment["commit"] or "unknown"
    shown = commit[:7] + (CHANGED if commit.endswith(CHANGED) else "")
    return f"{hardware}, torch {environment['packages']['torch']}, commit {shown}"


def figure_section(experiment: Experiment, records: list[Record]) -> list[str]:
    """Links to the figures."""
    plots = plots_of(experiment, records)
    links = [f"![{plot.name}]({ROOM}/figures/{plot.file(experiment)})\n\n{plot.caption}" for plot in plots]
    return ["### Figures", *links] if links else []


def table_sections(experiment: Experiment, records: list[Record]) -> list[str]:
    """The tables of classes and walks."""
    parts = ["### IoU of each class, %", class_table(experiment, records)]
    if walks := walk_table(experiment, records):
        nodes = nodes_of(records)
        of_all = f" of {nodes}" if nodes is not None else ""
        parts += ["### Walks", walks, WALKS_NOTE.format(of_all=of_all)]
    return parts


def picture_section(experiment: Experiment, docs: Path) -> list[str]:
    """The pictures of tools/diffusion_pictures.py with their figures."""
    folder = docs / ROOM / "pictures" / experiment.name
    if not (folder / "pictures.json").is_file():
        return []
    content = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
    rows, panels = content["pictures"], CHANGES_ALONE if content["dataset"] == "camvid" else ALL_PANELS
    note = PICTURES_NOTE.format(weights=content["weights"], panels=panels)
    keys = ("before", "after", "corrected", "spoiled")
    lines = [[it["image"], *(f"{100.0 * it[key]:.2f}" for key in keys)] for it in rows]
    links = [f"![{it['image']}]({ROOM}/pictures/{experiment.name}/{it['file']})" for it in rows]
    table = markdown_table(["pixels of an image, %", "right before", "right after", *keys[2:]], lines)
    return ["### Where diffusion helps the most and the least", note, table, *links]


RECIPES_NOTE = """`--recipe NAME` sets these options, unless they are given. An empty cell stands for
the setting of `{first}`."""

WALKS_NOTE = """Nodes seen is the number of nodes{of_all} that a row of P looks at, exp of its entropy. Reach
is the mean distance to these nodes. The weight on itself is P_ii. "On its class" is the share of the weight
that lies on the row's own class, by the labels; a short reach and small nodes raise it. These four are means
over the rows. Hubs is the number of nodes that all rows together look at: it is small if all look at the same
few."""

PICTURES_NOTE = """In these images the walks gain the most pixel accuracy, or the least; the table says
whether the least is a loss. The weights are those of `{weights}`. {panels} Pixels that the walks corrected
are green, those that they spoiled are red, and all others are grey."""

ALL_PANELS = """From left to right: the image, the truth, the labels of the seed, those after the walks, and
the changes."""

CHANGES_ALONE = "Of CamVid, whose terms forbid commercial use, only the changes are shown."


def draw(docs: Path, results: dict[str, Results]) -> list[Path]:
    """Draw the figures of all experiments, and delete those that are no longer drawn."""
    folder = docs / ROOM / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [file for found in results.values() for file in draw_plots(*found, folder)]
    for old in set(folder.glob("*.png")) - set(drawn):
        old.unlink()
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--copy", type=Path, metavar="RUNS", help="folder of an experiment, its --out")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page (default: docs)")
    options = parser.parse_args(arguments)
    page = options.docs / PAGE
    try:
        if options.copy is not None and not options.check:
            print(f"{len(copy(options.copy, options.docs))} records copied from {options.copy}")
        results = read(options.docs)
        text = make_page(options.docs, results)
        if options.check:
            differs = not page.is_file() or page.read_text(encoding="utf-8") != text
            print(f"{page} {'differs from' if differs else 'agrees with'} the records")
            return int(differs)
        drawn = draw(options.docs, results)
        write_atomically(page, text)
    except ModuleNotFoundError as error:
        print(f"experiments_page: error: {error}; install the extra bench", file=sys.stderr)
        return 1
    except (PageError, RunError, OSError) as error:
        print(f"experiments_page: error: {error}", file=sys.stderr)
        return 1
    print(
        f"{page} and {len(drawn)} figures written from "
        f"{sum(len(it.records) for it in results.values())} records"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
