"""The environment of a start of a run, which may change the arithmetic although the settings are the same."""

import sys
from datetime import datetime, timezone
from typing import Any

from difnet_kernels.info import environment

_PACKAGES = (
    "difnet-kernels",
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "torchmetrics",
    "numpy",
    "pillow",
)
_RELEVANT = ("packages", "commit", "cpu", "cpu_capability", "threads", "gpus", "processes", "walks", "images")


def describe_start(walk_backend: str, processes: int = 1) -> dict[str, Any]:
    """Time, command, versions, commit, CPU, GPUs, processes and the backend of the walks, as plain values."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        **environment(_PACKAGES),
        "processes": processes,
        "walks": walk_backend,
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What may change the arithmetic between two starts of a run, as "name: old -> new"."""
    return [
        f"{name}: {old[name]} -> {new[name]}" for name in _RELEVANT if name in old and old[name] != new[name]
    ]
