"""Memory: what one call needs above its inputs, and a limit that makes a CPU refuse what it has not got.

On a GPU the allocator's peak counts; on a CPU the resident size of a process made for that one call. Such
processes are forked from one that has imported torch and computed nothing, so that each costs milliseconds.
"""

import contextlib
import ctypes
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "providers", "truth"])


def peak_mebibytes(
    prepare: Callable[..., tuple[Callable[[], object], Callable[[], object]]],
    *arguments: Any,
    device: str,
    seconds: float = 60.0,
) -> float | None:
    """MiB that the second of the two calls that `prepare(*arguments)` returns needs; None if it fails.

    The first call allocates what is the libraries' own and not the call's.
    """
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(
        target=_measure,
        args=(
            sender,
            prepare,
            arguments,
            device,
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
        ),
    )
    process.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(seconds) else None
    except EOFError:  # it did not survive
        found = None
    process.join(0.1)
    process.kill()
    process.join()
    return found


def _measure(
    sender: Any,
    prepare: Callable[..., Any],
    arguments: tuple[Any, ...],
    device: str,
    threads: int,
    precision: str,
) -> None:
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch._inductor.config.compile_threads = 1
    limit_to_available()
    first, call = prepare(*arguments)
    first()
    sender.send(peak_here(call, device))


def peak_here(call: Callable[[], object], device: str) -> float:
    """MiB that a call in this process needs above what is there before it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with contextlib.suppress(AttributeError, OSError):  # other C libraries than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark anew
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 2**10


def available_mebibytes() -> float:
    """What the machine has free, infinite where that is not known."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) / 2**10
    except OSError:
        pass
    return float("inf")


def limit_to_available() -> None:
    """From here on an allocation beyond nine tenths of the free memory fails, and is reported as such."""
    free = available_mebibytes()
    if free == float("inf"):
        return
    limit = _status("VmData") * 2**10 + int(0.9 * free * 2**20)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _status(field: str) -> int:
    """KiB from /proc/self/status: VmRSS is resident now, VmHWM at most since the mark was set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")
