"""Train a network:

    python -m difnet.train                                        a small DifNet on drawn scenes, in minutes
    python -m difnet.train --dataset camvid --data-root DIR       photographs, recipe of the paper's text
    python -m difnet.train ... --recipe release|tuned             of the authors' code; with better walks
    python -m difnet.train --resume RUN                           continue an interrupted run, bitwise
    python -m difnet.train --init-from RUN --dataset ...          from the weights of a run on other classes
    torchrun --nproc-per-node 4 -m difnet.train --dataset ...     on several devices

Write ``python -m difnet.train --help`` for all options.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from difnet.utils.extras import train_extra

with train_extra():
    from difnet.training.config import TrainConfig
    from difnet.training.data_check import check_data
    from difnet.training.run import Run, explained_errors, open_run
    from difnet.training.run_folder import RunFolder
    from difnet.training.setup import (
        Data,
        build_network,
        make_accelerator,
        open_data,
        open_logs,
        walk_backend_of,
    )
    from difnet.training.state import read_state
    from difnet.training.trainer import Trainer
    from difnet.utils.console import Reporter, parse, run_command


def train(config: TrainConfig) -> dict[str, Any]:
    """Run a training to its end, or continue one if ``config.resume`` is set.

    Returns:
        The record of the last evaluation: mean_iou, accuracy, iou per class, mu, beta, seed_mean_iou,
        walk_mean_iou.

    Raises:
        DataError, RunError, ValueError: the user must correct something; the message says what.
        Interrupted: SIGINT or SIGTERM ended the run; the message says which checkpoint there is.
    """
    config = settings_of_run(config)
    accelerator = make_accelerator(config)
    report = Reporter(accelerator.is_main_process)
    data = open_data(config, accelerator)
    steps = config.max_steps or config.settings().epochs * data.sampler.steps_per_epoch

    with open_run(config, accelerator, report, steps) as run:
        with run.folder.removed_on_error():
            trainer = prepare(run, data)
        with explained_errors(run):
            trainer.train()
            trainer.finish()
    return run.record


def prepare(run: Run, data: Data) -> Trainer:
    """Build the network, check the data, and restore the checkpoint of a run to resume.

    Raises:
        DataError, RunError, ValueError: the run cannot begin; the message says what to correct.
    """
    config, report = run.config, run.report
    report.line(f"run folder {run.folder.path}")
    state = read_state(run.folder.state_file) if config.resume is not None else None
    network = build_network(run, data, new=state is None)
    class_weights = check_data(run, data, network)
    walk_backend = walk_backend_of(run, network)
    trainer = Trainer(run, data, network, class_weights)
    if state is not None:
        trainer.restore(state)
    elif config.resume is not None:
        report.line("no checkpoint was written yet: starting from the first step")
    open_logs(run, data, walk_backend)
    if config.init_from is not None and state is None:
        trainer.save()  # so that the run can be resumed without the file of --init-from
    return trainer


def settings_of_run(request: TrainConfig) -> TrainConfig:
    """Fill in the settings that the command line leaves open: those of the run to resume, or defaults.

    Raises:
        RunError: there is no run in the folder of --resume.
        ValueError: a value is out of its range, or cannot change in a continued run.
    """
    if request.resume is not None:
        return _resumed(request).resolved()
    if request.out is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        model = request.resolved().settings().model
        request = replace(request, out=Path("runs") / f"{request.dataset}-{model}-{stamp}")
    return request.resolved()


def _resumed(request: TrainConfig) -> TrainConfig:
    assert request.resume is not None
    free = {name: getattr(request, name) for name in ("resume", "data_root", "workers", "eval_batch_size")}
    if request != replace(TrainConfig(), **free):
        raise ValueError(
            f"--resume continues {request.resume} with its own settings; "
            "leave out every other option except --data-root, --workers and --eval-batch-size"
        )
    folder = RunFolder(request.resume)
    folder.check()
    saved = TrainConfig.from_json(folder.config_file)
    return replace(
        saved,
        out=request.resume,
        resume=request.resume,
        data_root=request.data_root or saved.data_root,
        workers=request.workers,
        eval_batch_size=request.eval_batch_size or saved.eval_batch_size,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(TrainConfig, arguments, "train", __doc__)
    return run_command(lambda: train(config), "difnet.train")


if __name__ == "__main__":
    sys.exit(main())
