"""Tells whether the kernels can run here. Triton is not imported before `missing` is called."""

import os
from functools import cache

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@cache
def missing() -> str | None:
    """Why the kernels cannot run here, or None if they can. A small kernel is compiled once to find out."""
    if not INTERPRETED and not torch.cuda.is_available():
        return (
            "torch.cuda.is_available() is False: no GPU, no driver, or a build of torch without CUDA or ROCm"
        )
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken installation can raise anything
        return f"Triton cannot be imported: {_summary(error)}; pip install triton"
    if INTERPRETED:
        return None
    if not torch.version.hip and torch.cuda.get_device_capability() < (8, 0):
        name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        return f"{name} has compute capability {major}.{minor}, the kernels need 8.0"
    try:
        from difnet_kernels.triton import probe

        probe.compile_something()
    except Exception as error:
        return (
            f"Triton cannot compile: {_summary(error)}; it needs a C compiler (set CC) and Python's headers"
        )
    return None


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
