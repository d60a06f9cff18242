"""Two computations that do not need each other, at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

A = TypeVar("A")
B = TypeVar("B")


def one_by_one(first: Callable[[Tensor], A], second: Callable[[Tensor], B], x: Tensor) -> tuple[A, B]:
    """`(first(x), second(x))`."""
    return first(x), second(x)


def both(first: Callable[[Tensor], A], second: Callable[[Tensor], B], x: Tensor) -> tuple[A, B]:
    """`(first(x), second(x))`, computed at the same time.

    On a GPU `second` runs on a stream of its own, and autograd runs its backward there too. On a CPU each
    runs in a thread with half of torch's threads, in the caller's gradient mode and autocast; the backward is
    one after the other. Elsewhere, where torch compiles, and on a CPU among several processes or under a mode
    that other threads do not see, one follows the other."""
    if x.device.type == "cuda" and not torch.compiler.is_compiling():
        return _on_streams(first, second, x)
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not _under_a_mode(x):
        return _in_threads(first, second, x)
    return one_by_one(first, second, x)


def _under_a_mode(x: Tensor) -> bool:
    """Whether a mode of this thread changes or records what is computed here.

    In other threads gradients would be wrong under torch.func's transforms, and hooks on saved tensors,
    counters and tracers would miss what runs there. Sharded layers gather their weights from all processes,
    which must ask for them in one order.
    """
    return (
        type(x) is not Tensor
        or torch.jit.is_tracing()
        or (torch.distributed.is_available() and torch.distributed.is_initialized())
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack() > 0
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


def _on_streams(first: Callable[[Tensor], A], second: Callable[[Tensor], B], x: Tensor) -> tuple[A, B]:
    current = torch.cuda.current_stream(x.device)
    side = _side_stream(x.device)
    side.wait_stream(current)
    x.record_stream(side)
    with torch.cuda.stream(side):
        other = second(x)
    one = first(x)
    current.wait_stream(side)
    for tensor in torch.utils._pytree.tree_leaves(other):
        if isinstance(tensor, Tensor):
            tensor.record_stream(current)
    return one, other


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


def _in_threads(first: Callable[[Tensor], A], second: Callable[[Tensor], B], x: Tensor) -> tuple[A, B]:
    threads = torch.get_num_threads()
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def as_the_caller(function: Callable[[Tensor], A | B]) -> A | B:
        torch.set_num_threads(max(1, threads // 2))
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradients),
            torch.autocast("cpu", enabled=autocast, dtype=dtype),
        ):
            return function(x)

    try:
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.submit(as_the_caller, first), pool.submit(as_the_caller, second)
            return one.result(), other.result()  # type: ignore[return-value]
    finally:
        torch.set_num_threads(threads)  # threads made from now on start with what was set last
