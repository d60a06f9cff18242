"""Peak memory of one call above its inputs, and a limit that makes allocations fail before the machine swaps.

On a GPU the peak is that of PyTorch's allocator. On a CPU it is that of the process's resident size.
`peak_in_new_process` measures it in a process that makes only a warm-up and this call. Such processes are
forked from a server process, which has imported the modules that take seconds to import and has computed
nothing.

Linux can reset the high-water mark of the resident size just before the call. Without /proc (macOS) the mark
dates from the start of the process and may come from an earlier moment, such as the warm-up. So the result is
a lower bound.
"""

import contextlib
import ctypes
import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

PROC = Path("/proc/self")
ALLOCATOR, RESIDENT, LOWER_BOUND = "allocator", "/proc VmHWM", "getrusage ru_maxrss, at least"
"""How a peak was measured: the values of `memory_by` in the rows."""


class Peak(NamedTuple):
    """Peak memory of a call in MiB, and how it was measured; None where it is unknown."""

    memory: float | None = None
    memory_by: str | None = None


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch._inductor", "torch.nn.attention.flex_attention"])


def peak_in_new_process(
    prepare: Callable[..., tuple[Callable[[], object], Callable[[], object]]],
    *arguments: Any,
    device: str,
    seconds: float = 60.0,
) -> Peak:
    """Peak memory of a call in a process of its own; unknown if it fails or takes more than `seconds`.

    `prepare(*arguments)` runs in the new process and returns a warm-up and the call to be measured. Memory
    that the warm-up allocates and libraries keep is not counted.
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
        peak = receiver.recv() if receiver.poll(seconds) else Peak()
    except EOFError:  # the process was killed
        peak = Peak()
    process.join(0.1)
    process.kill()
    process.join()
    return peak


def _measure(
    sender: Connection,
    prepare: Callable[..., tuple[Callable[[], object], Callable[[], object]]],
    arguments: tuple[Any, ...],
    device: str,
    threads: int,
    precision: str,
) -> None:
    from torch._inductor import config

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    config.compile_threads = 1
    limit_to_available_memory()
    warm_up, call = prepare(*arguments)
    warm_up()
    before = _largest_mebibytes()
    peak = peak_in_this_process(call, device)
    sender.send(Peak(_largest_mebibytes() - before, LOWER_BOUND) if peak.memory is None else peak)


def peak_in_this_process(call: Callable[[], object], device: str) -> Peak:
    """Make the call and return its peak memory above what was allocated before.

    On a CPU it is unknown without /proc.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return Peak((torch.cuda.max_memory_allocated(device) - before) / 2**20, ALLOCATOR)
    with contextlib.suppress(AttributeError, OSError):  # only GNU's C library has it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROC / "clear_refs").write_text("5")  # resets the high-water mark
    except OSError:
        call()
        return Peak()
    before = _status_kibibytes("VmRSS")
    call()
    return Peak((_status_kibibytes("VmHWM") - before) / 2**10, RESIDENT)


def _largest_mebibytes() -> float:
    """The largest resident size of this process so far. macOS counts bytes, other systems KiB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def available_mebibytes() -> float:
    """The machine's available memory, infinite where it is unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) / 2**10
    except OSError:
        pass
    return float("inf")


def limit_to_available_memory() -> None:
    """Let this process allocate at most nine tenths of the available memory. More raises an exception."""
    available = available_mebibytes()
    if available == float("inf"):
        return
    limit = _status_kibibytes("VmData") * 2**10 + int(0.9 * available * 2**20)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _status_kibibytes(field: str) -> int:
    """A size in /proc/self/status.

    VmRSS is the current resident size, VmHWM its high-water mark, and VmData the size of the private memory
    that RLIMIT_DATA limits.
    """
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"{PROC}/status has no {field}")
