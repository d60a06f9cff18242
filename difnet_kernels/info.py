"""Describes the environment. `python -m difnet_kernels.info` prints what a bug report needs.

Training and the benchmarks record the same facts through the functions of this file.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch

from difnet_kernels import backends
from difnet_kernels.backends import ENVIRONMENT_VARIABLE, choose, instruction_set, instruction_sets

SOURCE_ROOT = Path(__file__).resolve().parents[1]
"""The clone, if this package is imported from one."""
CHANGED = "+changes"
"""Appended to the commit if the files differ from it."""


def report() -> str:
    """Versions, compiler, devices, CPU features, and backends with the reason for each that cannot run."""
    rows = [
        ("difnet-kernels", f"{_version_text('difnet-kernels')} in {Path(__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", torch.__version__),
        ("numpy", _version_text("numpy")),
        ("triton", _version_text("triton")),
        ("compiler", _compiler()),
        ("CUDA of torch", str(torch.version.cuda or torch.version.hip or "none")),
        ("GPU", ", ".join(gpu_names()) or "none"),
        ("CPU", f"{cpu_description()}, {torch.get_num_threads()} threads"),
        ("float32 matmul", torch.get_float32_matmul_precision()),
        ("native kernels", ", ".join(instruction_sets()) or "none"),
        ("DIFNET_CPU_ISA", os.environ.get("DIFNET_CPU_ISA") or "not set"),
        (ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE) or "not set"),
    ]
    lines = [f"{name + ':':18}{value}" for name, value in rows]
    lines.append("backends, in order of preference:")
    lines += [f"  {s.name:12}{'yes' if s.available else 'no ':5}{s.reason}" for s in backends()]
    return "\n".join(lines)


def environment(packages: Sequence[str] = ("difnet-kernels", "torch", "numpy", "triton")) -> dict[str, Any]:
    """What a result may depend on besides the settings, as plain values.

    Args:
        packages: distributions whose versions are wanted; the version of a missing one is None.
    """
    return {
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in packages},
        "commit": source_commit(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpu_names(),
    }


def package_version(distribution: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def source_commit(
    root: Path = SOURCE_ROOT, paths: Sequence[str] = (".",), untracked: bool = False
) -> str | None:
    """The commit of a clone, followed by `CHANGED` if the files differ from it.

    Args:
        root: the clone.
        paths: git pathspecs of the files that are compared.
        untracked: whether new files count as a difference.

    Returns:
        None if `root` is not a clone or git cannot read it.
    """
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        new_files = f"--untracked-files={'all' if untracked else 'no'}"
        return commit + (CHANGED if git("status", "--porcelain", new_files, "--", *paths) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The name of the CPU's model, or of its architecture if the system does not report the model."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_description() -> str:
    """The name of the CPU and its instruction sets that matter for the kernels."""
    flags = _cpuinfo("flags", "Features").split()
    extensions = [f for f in ("avx512_bf16", "amx_bf16", "amx_tile", "sve", "bf16") if f in flags]
    return " ".join([f"{cpu_name()},", torch.backends.cpu.get_cpu_capability(), *extensions])


def gpu_names() -> list[str]:
    """The names of all visible GPUs."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def describe_backend(device: torch.device) -> str:
    """The backend for tensors on `device`; `native` with its instruction set, such as "native (avx2)".

    Raises:
        BackendError: an environment variable names a backend or instruction set that cannot run here.
    """
    backend = choose(None, device)
    return f"{backend} ({instruction_set()})" if backend == "native" else backend


def _version_text(distribution: str) -> str:
    if version := package_version(distribution):
        return version
    importable = util.find_spec(distribution.replace("-", "_")) is not None
    return "importable, version unknown" if importable else "not installed"


def _compiler() -> str:
    name = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if name is None:
        return "none found (set CXX)"
    try:
        output = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name} does not run: {error}"
    return output.splitlines()[0] if output else name


def _cpuinfo(*keys: str) -> str:
    """The value of the first line of /proc/cpuinfo with one of the keys; empty if there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.split(":")[0].strip() in keys:
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


if __name__ == "__main__":
    print(report())
