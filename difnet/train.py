"""Train a network:

    python -m difnet.train                                        a small DifNet on drawn scenes, in minutes
    python -m difnet.train --dataset camvid --data-root DIR       the paper's recipe on photographs
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
    from difnet.training.run_folder import RunFolder
    from difnet.training.trainer import Trainer
    from difnet.utils.console import parse, run_command


def train(config: TrainConfig) -> dict[str, Any]:
    """Run a training to its end, or continue one where ``config.resume`` is set.

    Returns:
        The record of the last evaluation: mean_iou, accuracy, iou per class, mu, beta, seed_mean_iou,
        walk_mean_iou.

    Raises:
        DataError, RunError, ValueError: something must be corrected first; the message says what.
        Interrupted: SIGINT or SIGTERM came; the message says which checkpoint there is.
    """
    if config.resume is not None:
        config = continued(config)
    elif config.out is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        config = replace(config, out=Path("runs") / f"{config.dataset}-{config.model}-{stamp}")
    return Trainer(config.resolved()).run()


def continued(request: TrainConfig) -> TrainConfig:
    """The configuration of the run to resume, with the few options that may change.

    Raises:
        RunError: there is no run in the folder.
        ValueError: `request` sets something that a continued run cannot change.
    """
    assert request.resume is not None
    free = {name: getattr(request, name) for name in ("resume", "data_root", "workers", "eval_batch_size")}
    if request != replace(TrainConfig(), **free):
        raise ValueError(
            f"--resume continues {request.resume} with its own settings; "
            "leave out every other option except --data-root, --workers and --eval-batch-size"
        )
    run = RunFolder(request.resume)
    run.check()
    saved = TrainConfig.from_json(run.config_file)
    return replace(
        saved,
        out=request.resume,
        resume=request.resume,
        data_root=request.data_root or saved.data_root,
        workers=request.workers,
        eval_batch_size=request.eval_batch_size or saved.eval_batch_size,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    config = parse(TrainConfig, arguments, "train", __doc__)
    return run_command(lambda: print_nothing(train(config)), "difnet.train")


def print_nothing(_record: dict[str, Any]) -> None:
    """Drop the result: the trainer has printed it."""


if __name__ == "__main__":
    sys.exit(main())
