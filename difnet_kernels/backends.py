"""Which backends there are, which of them can run here, and which one a call gets.

To add a backend: an entry in `_BACKENDS`, and its overload in `difnet_kernels.ops`.
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
    """One way to compute the walk. `missing` says why it cannot run, or nothing if it can."""

    description: str
    devices: tuple[str, ...] | None  # device types, None for all
    missing: Callable[[], str | None]


class Status(NamedTuple):
    """What `backends()` reports of one backend."""

    name: str
    available: bool
    reason: str


def _native_missing() -> str | None:
    if ops.native_error is None:
        return None
    if isinstance(ops.native_error, ModuleNotFoundError):
        return (
            "the compiled library was not built; with torch and a C++ compiler at hand, reinstall from "
            "a clone: DIFNET_BUILD=1 pip install --no-build-isolation ."
        )
    return f"the compiled library does not load ({ops.native_error}); reinstall against this torch"


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets for which `native` has kernels that can run here, the best first; none without it."""
    if ops.native_error is not None:
        return ()
    from difnet_kernels import _native

    return _native.instruction_sets()


def instruction_set() -> str:
    """The instruction set that `native` uses: the best one, or the one that DIFNET_CPU_ISA names.

    Raises `BackendError` when that one cannot run here.
    """
    from difnet_kernels import _native

    try:
        return _native.instruction_set()
    except ValueError as error:
        raise BackendError(str(error)) from error


def _triton_missing() -> str | None:
    from difnet_kernels.triton.availability import missing

    return missing()


# In order of preference: the first that is available and takes the device is chosen.
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
    """Every backend with whether it can run here, and why (not), in order of preference."""
    rows = []
    for name, backend in _BACKENDS.items():
        reason = backend.missing()
        rows.append(Status(name, reason is None, reason or backend.description))
    return tuple(rows)


def choose(name: str | None, device: torch.device) -> str:
    """The name of the backend to use for tensors on `device`; None leaves the choice to us.

    Raises `BackendError` when the backend asked for, by `name` or by DIFNET_BACKEND, cannot run: a
    backend asked for by name is never replaced by another.
    """
    asked_by = "backend"
    if name is None:
        name, asked_by = os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE
    if name is None:
        return _preferred(device.type)
    if not isinstance(name, str) or name not in _BACKENDS:
        raise BackendError(f"{asked_by}={name!r} is unknown; expected one of {', '.join(_BACKENDS)}")
    backend = _BACKENDS[name]
    reason = backend.missing()
    if reason is None and backend.devices is not None and device.type not in backend.devices:
        reason = (
            f"it takes tensors on {' or '.join(backend.devices)}, these are on {device}; "
            'move them or use backend="blockwise"'
        )
    if reason is not None:
        raise BackendError(f"{asked_by}={name!r} cannot run here: {reason}")
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


# What torch.compiler.assume_constant_result does, without the second that importing Dynamo takes: which
# backends there are does not change while a program runs, so a compiled graph need not guard it.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]
