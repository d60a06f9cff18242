"""Carries out the runs of an experiment one after the other, each in a process of its own.

Several processes may carry out one experiment: each takes the runs that no other has taken.

OUT/table.md, table.json               the table, written again after each run
OUT/VARIANT/.seed-N.lock               locked by the process that carries out the run
OUT/VARIANT/seed-N/                    a run folder, see `difnet.training.run_folder`
OUT/VARIANT/seed-N/log.txt             what difnet.train printed, of all starts
OUT/VARIANT/seed-N/starts.json         seconds of each start
OUT/VARIANT/seed-N/record.json         the record; its presence says that the run is finished
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import torch
from filelock import FileLock, Timeout

from difnet.experiments.costs import Cost
from difnet.experiments.estimate import costs_of, duration
from difnet.experiments.plan import DataSize, Run
from difnet.experiments.records import (
    NAME,
    Starts,
    check_folder,
    is_trained,
    make_record,
    read_log,
    read_records,
    write_record,
)
from difnet.experiments.tables import make_table, write_table
from difnet.training.run_folder import RunError, RunFolder
from difnet.utils.console import Interrupted, Reporter, StopSignal
from difnet.utils.files import prepare_folder, writing

_POLL = 0.5
"""Seconds between looks at a training."""
_NOTE = 5.0
"""Seconds between notes of its time and step."""
_PATIENCE = 60.0
"""Seconds that a training has to end after a second signal."""


def run_all(runs: Sequence[Run], out: Path, data: DataSize, launcher: Sequence[str], report: Reporter) -> str:
    """Carry out all runs that are not finished; return the table as Markdown.

    A run that fails is reported, and the others go on.

    Args:
        runs: what to do, of one experiment.
        out: folder of the experiment.
        data: size of the data.
        launcher: words of a command to put before ``-m difnet.train``, such as torchrun; the Python that runs
            this if empty.
        report: prints for the user.

    Raises:
        RunError: a run folder holds another configuration, runs failed, or other processes have not finished
            theirs.
        Interrupted: SIGINT or SIGTERM ended the experiment; the current training has written a checkpoint.
        DataError, ValueError: a network does not take the images or the crops.
    """
    if launcher and shutil.which(launcher[0]) is None:
        raise ValueError(f"--launcher {shlex.join(launcher)}: there is no command {launcher[0]}; install it")
    prepare_folder(out)
    for run in runs:
        check_folder(run, out)
    due = [run for run in runs if not _is_finished(run, out)]
    costs = costs_of(due, data)
    if len(due) < len(runs):
        report.line(f"{len(runs) - len(due)} of {len(runs)} runs are finished already")
    failed: list[Run] = []
    began, done_flops = time.monotonic(), 0.0
    with _hangup_stops(), _explained_stop(runs, out), StopSignal() as stop:
        for number, run in enumerate(due, start=1):
            cost, lock = costs[run.variant.name], run.folder.with_name(f".{run.folder.name}.lock")
            with locked(out / lock) as ours:
                if not ours or _is_finished(run, out):
                    report.line(f"{number} of {len(due)}: {run.name}, left to another process")
                    continue
                report.line(f"{number} of {len(due)}: {run.name}, {cost.steps} steps, in {out / run.folder}")
                problem = _carry_out(run, out, cost, launcher, stop, report)
            if stop.received:
                raise KeyboardInterrupt
            if problem is not None:
                failed.append(run)
                report.line(problem)
            _table(runs, out)
            done_flops += cost.flops()
            others = [it for it in due[number:] if not _is_finished(it, out)]
            if others:
                left = sum(costs[it.variant.name].flops() for it in others)
                seconds = (time.monotonic() - began) * left / done_flops
                report.line(f"{len(others)} to go, about {duration(seconds)}")
    table = _table(runs, out)
    elsewhere = [run for run in runs if run not in failed and not _is_finished(run, out)]
    problems = (
        (failed, "failed; correct what their log.txt says, then the same command tries them again"),
        (elsewhere, "are left to other processes; the same command makes the table when they have ended"),
    )
    if failed or elsewhere:
        report.line(table)
        parts = [
            f"{len(those)} of {len(runs)} runs ({', '.join(run.name for run in those)}) {what}"
            for those, what in problems
            if those
        ]
        raise RunError(f"the table is not complete: {'; '.join(parts)}")
    return table


def _is_finished(run: Run, out: Path) -> bool:
    return (out / run.folder / NAME).is_file()


@contextlib.contextmanager
def locked(file: Path) -> Iterator[bool]:
    """Lock `file` for the block, and make its folder; yield False if another process has locked it.

    Raises:
        WriteError: the folder cannot be written to.
    """
    prepare_folder(file.parent)
    lock = FileLock(file)
    with writing(file.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
    try:
        yield True
    finally:
        lock.release()


def _table(runs: Sequence[Run], out: Path) -> str:
    """Write the table of all records, and return it as Markdown."""
    experiment, only = runs[0].experiment, [run.variant.name for run in runs]
    seeds = max(run.seed for run in runs) + 1
    return write_table(make_table(experiment, read_records(experiment, out), seeds, only), out)


def _carry_out(
    run: Run, out: Path, cost: Cost, launcher: Sequence[str], stop: StopSignal, report: Reporter
) -> str | None:
    """Train, evaluate and record a run; return what went wrong, if anything did."""
    folder = out / run.folder
    log = folder / "log.txt"
    if not is_trained(folder, cost.steps):
        status = _train(run, out, cost.steps, launcher, stop, report)
        if stop.received:
            return None
        if status != 0 or not is_trained(folder, cost.steps):
            return f"{run.name} failed: {_reason(status)}; the end of {log}:\n{_last_lines(log)}"
    try:
        record = make_record(run, out, cost, launcher, Reporter(enabled=False))
        write_record(record, folder)
    except Exception as error:  # the other runs go on, whatever it is
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        return f"{run.name} was trained, but its evaluation failed: {error}; {log} has the details"
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next training is another process
    mean = record["evaluation"]["mean_iou"]
    shown = "undefined" if mean is None else f"{100.0 * mean:.2f} %"
    report.line(f"{run.name}: mean IoU {shown}, trained in {duration(record['seconds'] or 0.0)}")
    return None


def _train(
    run: Run, out: Path, steps: int, launcher: Sequence[str], stop: StopSignal, report: Reporter
) -> int:
    """Start or continue the training of a run, wait for its end, and return its exit status."""
    folder = out / run.folder
    prepare_folder(folder)
    arguments = run.command(out)
    if RunFolder(folder).config_file.is_file():
        arguments = ["--resume", str(folder), "--workers", str(run.base.workers)]
        if run.base.data_root is not None:
            arguments += ["--data-root", str(run.base.data_root)]
    command = [*(launcher or [sys.executable]), "-m", "difnet.train", *arguments]
    starts, began, noted = Starts(folder), time.monotonic(), 0.0
    starts.begin()
    with (folder / "log.txt").open("a", encoding="utf-8") as log, report.bar(run.name, steps) as progress:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        with _in_own_session(command, log.fileno()) as process:
            forwarded = False
            while process.poll() is None:
                if stop.received and not forwarded:
                    forwarded = True
                    _send(process, signal.SIGINT)
                seconds = time.monotonic() - began
                if seconds - noted > _NOTE or noted == 0.0:
                    noted = seconds
                    starts.note(seconds)
                    progress(max((int(it["step"]) for it in read_log(folder)[-1:]), default=0))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
        starts.note(time.monotonic() - began)
    return process.returncode


@contextlib.contextmanager
def _in_own_session(command: Sequence[str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command apart from the terminal, whose Ctrl-C then reaches this process alone.

    So each signal arrives exactly once, also below a launcher: a second one would stop the training without a
    checkpoint. If an error or a second signal ends the block, the command is stopped, and waited for.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    try:
        yield process
    except BaseException:
        _send(process, signal.SIGINT)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            _send(process, signal.SIGKILL)
        raise
    finally:
        process.wait()
        # A launcher may end before the training that it has started.
        deadline = time.monotonic() + _PATIENCE
        while _send(process, 0) and time.monotonic() < deadline:
            time.sleep(_POLL)


def _send(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to all processes of a command; return whether there is any."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS does not permit signals to ended processes
        return False
    return True


@contextlib.contextmanager
def _explained_stop(runs: Sequence[Run], out: Path) -> Iterator[None]:
    """Turn KeyboardInterrupt into `Interrupted`, whose message says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        finished = sum((out / run.folder / NAME).is_file() for run in runs)
        raise Interrupted(
            f"stopped with {finished} of {len(runs)} runs finished; the same command goes on from the last "
            "checkpoint"
        ) from None


@contextlib.contextmanager
def _hangup_stops() -> Iterator[None]:
    """Let a closed terminal stop the experiment as SIGTERM does, unless it is ignored, as under nohup."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.getsignal(signal.SIGHUP)
    if previous is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


def _reason(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"{name} ended it" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"its exit status is {status}"


def _last_lines(file: Path, count: int = 10) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    return "\n".join(f"  {line}" for line in lines)
