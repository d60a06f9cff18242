"""The command line: options, printed lines, progress bars, signals, and errors in one line."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from difnet.data.errors import DataError
from difnet.utils.files import writing
from difnet.utils.options import shown_default
from difnet_kernels.support.errors import BackendError


class Reporter:
    """Prints lines and shows progress; silent if `enabled` is false."""

    def __init__(self, enabled: bool = True):
        self.console = Console(quiet=not enabled, highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print `text`, above a running bar.

        Raises:
            WriteError: it cannot be printed, for example because the output is a file on a full disk.
        """
        code = self.console.encoding  # file names may hold characters that the terminal cannot show
        with writing("standard output"):
            self.console.print(text.encode(code, "backslashreplace").decode(code))
            self.console.file.flush()

    @contextlib.contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar on a terminal only; yield a function to call with the number done."""
        if not self.console.is_terminal or self.console.quiet:
            yield lambda done: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)


class Interrupted(Exception):
    """A signal stopped the run; the message says which checkpoint there is."""


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a flag, so that no step is cut in half.

    The second one raises KeyboardInterrupt.
    """

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
            "\nstopping after this step, with a checkpoint; a second signal stops at once",
            file=sys.stderr,
            flush=True,
        )


DEVICE_DEFAULT = shown_default("the best one present")
"""Annotates the option --device of evaluate, predict and explain."""


def parse(
    target: Callable[..., Any],
    arguments: Sequence[str] | None,
    module: str,
    description: str | None,
    default: Any = None,
) -> Any:
    """Parse the command line of ``python -m difnet.MODULE`` with tyro, and call `target` with the result.

    Options that are not given have the values of `default`, an instance of `target`, if there is one.

    A path may begin with "~": a shell expands it in ``--out ~/x`` but not in ``--out=~/x``. An option that is
    on, off or left to a recipe, of type ``bool | None``, is on if no word follows it.
    """
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def path(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: _path(words[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def switch(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[bool | None] | None:
        if info.type != bool | None:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="[True|False]",
            instance_from_str=_switch,
            is_instance=lambda value: value is None or isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    with registry:
        return tyro.cli(
            target,
            args=arguments,
            prog=f"python -m difnet.{module}",
            description=description,
            config=(tyro.conf.OmitArgPrefixes,),
            **({} if default is None else {"default": default}),
        )


def _switch(words: list[str]) -> bool:
    found = {"": True, "true": True, "false": False}.get(" ".join(words).lower())
    if found is None:
        raise ValueError(f"expected True, False or nothing, got {' '.join(words)}")
    return found


def _path(word: str) -> Path:
    if not word:  # for pathlib, an empty path is the current folder
        raise ValueError("expected a path, got nothing; write . for the current folder")
    return Path(os.path.expanduser(word))


def run_command(command: Callable[[], object], name: str) -> int:
    """Call `command`; print one line to stderr for a problem that the user can solve.

    These are errors of the system, backends that cannot run, data that cannot be used, ValueErrors that this
    package raises, and lack of memory. All other exceptions propagate.

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
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        print(f"{name}: error: memory ran out ({_first_line(error)}); use smaller pictures", file=sys.stderr)
        return 1
    return 0


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out; PyTorch has no error type for that on the CPU."""
    words = ("out of memory", "can't allocate memory", "Unable to allocate")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised `error`; an error of a library is a bug and keeps its traceback."""
    if isinstance(error, DataError):  # PyTorch raises errors of data-loading workers a second time
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    # A module that `python -m` runs is called __main__; its __spec__ keeps the real name.
    module = trace.tb_frame.f_globals.get("__spec__") if trace else None
    return module is not None and module.name.partition(".")[0] == "difnet"
