"""Memory: what one call needs above its inputs, and a limit that makes a CPU refuse what it has not got.

On a GPU the allocator's peak counts; on a CPU the resident size of a process made for that one call. Such
processes are forked from one that has imported what takes seconds and computed nothing.
Linux starts the mark of the largest resident size anew before the call. Without /proc (macOS) the mark stands
since the process began, at what making the inputs took: what is found is the least that the call needs.
"""

import contextlib
import ctypes
import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

PROC = Path("/proc/self")
ALLOCATOR, RESIDENT, LEAST = "allocator", "/proc VmHWM", "getrusage ru_maxrss, at least"


class Peak(NamedTuple):
    """MiB of a call, and by which of the three; None where it is not known."""

    memory: float | None = None
    memory_by: str | None = None


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["torch._inductor", "torch.nn.attention.flex_attention", "providers", "truth"]
)


def peak_mebibytes(
    prepare: Callable[..., tuple[Callable[[], object], Callable[[], object]]],
    *arguments: Any,
    device: str,
    seconds: float = 60.0,
) -> Peak:
    """What the second of the two calls that `prepare(*arguments)` returns needs; unknown if it fails.

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
        found = receiver.recv() if receiver.poll(seconds) else Peak()
    except EOFError:  # it did not survive
        found = Peak()
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
    before = _largest_mebibytes()
    peak = peak_here(call, device)
    sender.send(Peak(_largest_mebibytes() - before, LEAST) if peak.memory is None else peak)


def peak_here(call: Callable[[], object], device: str) -> Peak:
    """What a call in this process needs above what is there before it; unknown on a CPU without /proc."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return Peak((torch.cuda.max_memory_allocated(device) - before) / 2**20, ALLOCATOR)
    with contextlib.suppress(AttributeError, OSError):  # other C libraries than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROC / "clear_refs").write_text("5")  # start the high-water mark anew
    except OSError:
        call()
        return Peak()
    before = _status("VmRSS")
    call()
    return Peak((_status("VmHWM") - before) / 2**10, RESIDENT)


def _largest_mebibytes() -> float:
    """The largest resident size of this process so far; macOS counts bytes, the others KiB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


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
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"{PROC}/status has no {field}")
