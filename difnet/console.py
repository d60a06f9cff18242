"""Talking to people: progress bars on a terminal, plain lines elsewhere, one-line errors."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from difnet_kernels.errors import BackendError


class Reporter:
    """Prints lines and shows progress; silent where `enabled` is false."""

    def __init__(self, enabled: bool = True):
        self.console = Console(quiet=not enabled, highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print `text`, above a running bar."""
        self.console.print(text)
        self.console.file.flush()

    @contextlib.contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar on a terminal, nothing elsewhere; yields a function to call with the number done."""
        if not self.console.is_terminal or self.console.quiet:
            yield lambda done: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)


class Interrupted(Exception):
    """The run was asked to stop; the message says which checkpoint there is."""


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a flag, so that no step is cut in half; a second one kills."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "StopSignal":
        self._previous = {
            number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        print(
            "\nstopping with a checkpoint after this step; once more to stop at once",
            file=sys.stderr,
            flush=True,
        )


def run_command(command: Callable[[], None], name: str) -> int:
    """Call `command`; a problem that the user can solve becomes one message on stderr.

    Such are errors of the system, a backend that cannot run, and every ValueError that this package raises;
    others pass.

    Returns:
        Exit status: 0, 1 after an error, 130 after an interruption.
    """
    try:
        command()
    except Interrupted as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, BackendError) as error:
        if isinstance(error, ValueError) and not _is_ours(error):
            raise
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    return 0


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised `error` itself; one from deeper down is a bug and keeps its traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    # The module that `python -m` runs is called __main__; its specification keeps the real name.
    module = trace.tb_frame.f_globals.get("__spec__") if trace else None
    return module is not None and module.name.partition(".")[0] == "difnet"
