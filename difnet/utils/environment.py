"""What a run depended on besides its settings."""

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from difnet_kernels.backends import choose, instruction_set

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


def describe_environment(walks: str, processes: int = 1) -> dict[str, Any]:
    """Versions, commit, processor, threads, devices and whose kernels the walks are, as plain values."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": processes,
        "walks": walks,
    }


def walk_kernels(device: torch.device) -> str:
    """The operator's backend for tensors on `device`, and the instruction set that a compiled one uses.

    Raises:
        BackendError: an environment variable asks for what cannot run here.
    """
    backend = choose(None, device)
    return f"{backend} ({instruction_set()})" if backend == "native" else backend


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What may change the arithmetic between two starts of a run, as "name: old -> new"."""
    names = ("packages", "commit", "cpu", "cpu_capability", "threads", "gpus", "processes", "walks", "images")
    return [f"{name}: {old[name]} -> {new[name]}" for name in names if name in old and old[name] != new[name]]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree, "+changes" if it differs from it; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
