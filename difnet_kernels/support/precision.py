"""The precision of float32 matrix products: what the program has set, and products that obey an argument."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_setting = threading.RLock()
# The names of torch.backends.*.matmul.fp32_precision, as torch.set_float32_matmul_precision names them.
_NAMES = {"tf32": "high", "bf16": "medium"}


def float32_precision(device: torch.device) -> str:
    """The current precision of products on the device: "highest", "high" or "medium".

    torch.get_float32_matmul_precision() raises a RuntimeError if the program has set the precision of a
    backend, as torch.backends.cuda.matmul.fp32_precision. Then that of the device counts.
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        backend = torch.backends.mkldnn if device.type == "cpu" else torch.backends.cuda
        return _NAMES.get(backend.matmul.fp32_precision, "highest")


# Compiled graphs take the setting as a constant. torch.compiler.assume_constant_result would set the same
# attribute, but it imports Dynamo. PyTorch compiles a function again if the setting changes between "highest"
# and the other two. It does not distinguish "high" from "medium".
float32_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Run PyTorch's float32 products at a precision. Threads wait for each other: the setting is global.

    A precision that the program has set for a backend stays as it is.
    """
    with _setting:
        try:
            before = torch.get_float32_matmul_precision()
        except RuntimeError:
            before = name
        if before == name:
            yield
            return
        torch.set_float32_matmul_precision(name)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
