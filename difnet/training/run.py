"""A training run: its settings, devices, folder and progress."""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from difnet.data import DataError
from difnet.training.config import TrainConfig
from difnet.training.recipes import Recipe
from difnet.training.run_folder import RunError, RunFolder
from difnet.utils.console import Interrupted, Reporter, is_memory_error
from difnet.utils.files import WriteError


@dataclass
class Run:
    """What all parts of a training run share.

    Attributes:
        config: the resolved settings.
        accelerator: devices and processes.
        report: prints for the user, on the main process.
        folder: the run folder, locked by the main process.
        steps: number of optimizer steps of the whole run.
        step: number of optimizer steps done.
        record: the record of the last evaluation; empty if it must be repeated or there was none.
        best: the record, or the weights' metadata, of the best evaluation so far.
    """

    config: TrainConfig
    accelerator: Accelerator
    report: Reporter
    folder: RunFolder
    steps: int
    step: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The settings that a recipe decides."""
        return self.config.settings()

    def diverged(self, what: str) -> RunError:
        """Make the error of a run whose loss or weights are NaN or infinite."""
        untouched = f"The last checkpoint in {self.folder.path} is untouched"
        kept = untouched if self.folder.state_file.is_file() else "No checkpoint was written yet"
        return RunError(f"{what}; start again with a lower --lr (it was {self.recipe.lr}). {kept}")


@contextlib.contextmanager
def open_run(config: TrainConfig, accelerator: Accelerator, report: Reporter, steps: int) -> Iterator[Run]:
    """Create the run folder, or open it to continue, and lock it for the block.

    Raises:
        RunError: the folder cannot be used.
        Interrupted: in place of KeyboardInterrupt; the message says what is on disk.
    """
    assert config.out is not None
    run = Run(config, accelerator, report, RunFolder(config.out), steps)
    try:
        if accelerator.is_main_process:
            run.folder = RunFolder.open(config.out) if config.resume else RunFolder.create(config.out, config)
        yield run
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped at once, {run.step} of {run.steps} steps done; {run.folder.kept()}"
        ) from None
    finally:
        run.folder.close()


@contextlib.contextmanager
def explained_errors(run: Run) -> Iterator[None]:
    """Turn errors that end the training loop into one line: the step, the reason, and what is on disk.

    Raises:
        RunError: in place of errors that the user can solve.
    """
    try:
        yield
    except OSError as error:
        raise _storage_error(run, error) from error
    except DataError as error:
        raise RunError(f"step {run.step}: {error}; {run.folder.kept()}") from error
    except (Interrupted, RunError):
        raise
    except Exception as error:
        if is_memory_error(error):
            raise RunError(
                f"memory ran out at step {run.step}; lower --eval-batch-size, or in a new run "
                f"--batch-size or --crop; {run.folder.kept()}"
            ) from error
        with contextlib.suppress(OSError):  # the user must see the error itself
            run.report.line(f"an error ended the run at step {run.step}; {run.folder.kept()}")
        raise


def _storage_error(run: Run, error: OSError) -> RunError:
    kept = run.folder.kept()
    if isinstance(error, WriteError):
        return RunError(f"step {run.step}: {error}; {kept}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        remedy = "free some space"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "make the folder writable again"
    else:
        return RunError(f"the system refused at step {run.step}: {error}; {kept}")
    return RunError(f"{run.folder.path} could not be written at step {run.step}: {error}; {remedy}: {kept}")
