"""The backends: their names, whether they can run here, and the choice of one for a call.

A new backend needs an entry in `_BACKENDS` and an overload in `difnet_kernels.ops`.
"""

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from difnet_kernels import ops
from difnet_kernels.support.errors import BackendError

ENVIRONMENT_VARIABLE = "DIFNET_BACKEND"
_log = logging.getLogger("difnet_kernels")


class Backend(NamedTuple):
    """One implementation of the walk. `missing` returns why it cannot run here, or None if it can."""

    description: str
    devices: tuple[str, ...] | None  # device types, None for all
    missing: Callable[[], str | None]


class Status(NamedTuple):
    """What `backends()` reports about one backend."""

    name: str
    available: bool
    reason: str


def _native_missing() -> str | None:
    if ops.native_error is None:
        return None
    if isinstance(ops.native_error, ModuleNotFoundError):
        return (
            "the compiled library was not built; with torch and a C++ compiler installed, reinstall from "
            "a clone: DIFNET_BUILD=1 pip install --no-build-isolation ."
        )
    return f"the compiled library does not load ({ops.native_error}); reinstall against this torch"


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets of `native` that can run here, the best first; empty if `native` cannot."""
    if ops.native_error is not None:
        return ()
    from difnet_kernels import _native

    return _native.instruction_sets()


def instruction_set() -> str:
    """The instruction set that `native` uses: the best one, or the one that DIFNET_CPU_ISA names.

    Raises `BackendError` if the named one cannot run here.
    """
    from difnet_kernels import _native

    try:
        return _native.instruction_set()
    except ValueError as error:
        raise BackendError(str(error)) from error


def _triton_missing() -> str | None:
    from difnet_kernels.triton.availability import missing

    return missing()


# In order of preference: a call gets the first backend that is available and supports the device.
_BACKENDS = {
    "native": Backend("compiled kernels for CPUs", ("cpu",), _native_missing),
    "triton": Backend(
        "fused kernels for GPUs",
        ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",),
        _triton_missing,
    ),
    "blockwise": Backend("PyTorch operations over blocks of P, any device", None, lambda: None),
    "reference": Backend("stores P (N x N): the specification, any order of derivative", None, lambda: None),
}


def backends() -> tuple[Status, ...]:
    """All backends in order of preference: whether each can run here, and what it is or why it cannot."""
    rows = []
    for name, backend in _BACKENDS.items():
        reason = backend.missing()
        rows.append(Status(name, reason is None, reason or backend.description))
    return tuple(rows)


def choose(name: str | None, device: torch.device) -> str:
    """The name of the backend to use for tensors on `device`.

    `name`, or else DIFNET_BACKEND, requests a backend. A requested backend is never replaced by another:
    `BackendError` is raised if it is unknown or cannot run. Without a request, the first that can run is
    taken.
    """
    argument = "backend"
    if name is None:
        name, argument = os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE
    if name is None:
        return _preferred(device.type)
    if not isinstance(name, str) or name not in _BACKENDS:
        raise BackendError(f"{argument}={name!r} is unknown; expected one of {', '.join(_BACKENDS)}")
    backend = _BACKENDS[name]
    reason = backend.missing()
    if reason is None and backend.devices is not None and device.type not in backend.devices:
        reason = (
            f"it takes tensors on {' or '.join(backend.devices)}, these are on {device}; "
            'move them or use backend="blockwise"'
        )
    if reason is not None:
        raise BackendError(f"{argument}={name!r} cannot run here: {reason}")
    return name


@cache
def _preferred(device_type: str) -> str:
    name = next(
        name
        for name, backend in _BACKENDS.items()
        if (backend.devices is None or device_type in backend.devices) and backend.missing() is None
    )
    _log.debug("random walks on %s use backend %r", device_type, name)
    return name


# Compiled graphs take the choice as a constant: which backends can run does not change while a program runs.
# torch.compiler.assume_constant_result sets the same attribute, but imports Dynamo, which takes a second.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]
