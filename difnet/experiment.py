"""Run a named set of trainings, and make its table:

    python -m difnet.experiment scenes-ablation                       on drawn scenes, no download
    python -m difnet.experiment table1 --data-root DIR --dry-run      list the runs, and how long they take
    python -m difnet.experiment table1 --data-root DIR                begin, or go on where it stopped
    python -m difnet.experiment table1 --data-root DIR --seeds 1 -- --recipe release --precision bf16
    python -m difnet.experiment table1 --report                       make the table of what has ended

Options after -- are those of difnet.train, for all runs. Write ``python -m difnet.experiment --help`` for all
options.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from difnet.utils.extras import train_extra

with train_extra():
    from difnet.data.registry import DatasetName
    from difnet.experiments import timing
    from difnet.experiments.costs import data_size
    from difnet.experiments.estimate import describe
    from difnet.experiments.plan import Experiment, make_runs
    from difnet.experiments.records import check_folder, read_records
    from difnet.experiments.runner import run_all
    from difnet.experiments.sets import EXPERIMENTS
    from difnet.experiments.tables import make_table, write_table
    from difnet.training.run_folder import RunError
    from difnet.utils.console import Reporter, parse, run_command
    from difnet.utils.options import shown_default


@dataclass(frozen=True)
class ExperimentConfig:
    """Run the trainings of an experiment, and make its table."""

    name: tyro.conf.Positional[str] = ""
    """Name of the experiment."""
    dataset: Annotated[DatasetName | None, shown_default("that of the experiment")] = None
    """Data set, as in training."""
    data_root: Annotated[Path | None, shown_default("none")] = None
    """Folder of the data, for camvid and folder."""
    seeds: int = 3
    """Number of runs of each variant, with the random seeds 0, 1, ..."""
    only: Annotated[tuple[str, ...], shown_default("all")] = ()
    """Variants to run, by the names of their folders."""
    out: Annotated[Path | None, shown_default("runs/experiments/NAME")] = None
    """Folder of the experiment: its table, and a run folder for each variant and seed."""
    dry_run: bool = False
    """List all runs with their commands and an estimate of their time, and stop."""
    report: bool = False
    """Make the table of the runs that have ended, and stop."""
    launcher: Annotated[str, shown_default("none")] = ""
    """Command to put before "-m difnet.train", such as "torchrun --nproc-per-node 4"."""
    workers: Annotated[int | None, shown_default("that of the experiment")] = None
    """Data-loading processes of each run. It changes only speed."""


def run_experiment(
    experiment: Experiment, config: ExperimentConfig, more: Sequence[str] = (), report: Reporter | None = None
) -> str:
    """Do what the options say; return what is to be printed: the table, or the list of a dry run.

    Args:
        experiment: one of `EXPERIMENTS`, or any other.
        config: the options.
        more: arguments of ``difnet.train`` for all runs.
        report: prints for the user; silent by default.

    Raises:
        RunError: a folder cannot be used, or runs failed.
        DataError, ValueError: the data or an option cannot be used.
        Interrupted: a signal ended the experiment.
    """
    out = config.out or Path("runs") / "experiments" / experiment.name
    launcher = shlex.split(config.launcher)
    runs = make_runs(
        experiment,
        dataset=config.dataset,
        data_root=config.data_root,
        seeds=config.seeds,
        only=config.only,
        workers=config.workers,
        more=more,
    )
    if config.report:
        if not (records := read_records(experiment, out)):
            raise RunError(f"no run of {experiment.name} has ended in {out}; run it without --report first")
        return write_table(make_table(experiment, records, config.seeds, config.only), out)
    data = data_size(runs[0].base, experiment, estimate=config.dry_run)
    if config.dry_run:
        for run in runs:
            check_folder(run, out)
        return describe(runs, out, data, launcher)
    return run_all(runs, out, data, launcher, report or Reporter(enabled=False))


def listed_experiments() -> str:
    """Return one line for each experiment: its name, and what it asks."""
    questions = {it.name: it.question for it in EXPERIMENTS.values()} | {timing.NAME: timing.QUESTION}
    width = max(map(len, questions))
    return "\n".join(f"    {name:<{width}}  {questions[name]}" for name in sorted(questions))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    config = parse(
        ExperimentConfig, words[:at], "experiment", f"{__doc__}\nExperiments:\n\n{listed_experiments()}"
    )

    def command() -> None:
        report = Reporter()
        if config.name == timing.NAME:
            _run_timing(config, words[at + 1 :], report)
        elif config.name in EXPERIMENTS:
            report.line(run_experiment(EXPERIMENTS[config.name], config, words[at + 1 :], report))
        else:
            wrong = f"there is no experiment {config.name!r}" if config.name else "name an experiment"
            raise ValueError(f"{wrong}; choose one of\n{listed_experiments()}")

    return run_command(command, "difnet.experiment")


def _run_timing(config: ExperimentConfig, more: Sequence[str], report: Reporter) -> None:
    others = ("dataset", "data_root", "seeds", "only", "launcher", "workers")
    given = [name for name in others if getattr(config, name) != getattr(ExperimentConfig, name)]
    if given or more:
        option = f"--{given[0].replace('_', '-')}" if given else "--"
        raise ValueError(f"{option} is not for {timing.NAME}, which trains nothing; leave it out")
    out = config.out or Path("runs") / "experiments" / timing.NAME
    if config.dry_run:
        report.line(timing.describe(out))
    else:
        report.line(timing.report_rows(out) if config.report else timing.run(out, report))


if __name__ == "__main__":
    sys.exit(main())
