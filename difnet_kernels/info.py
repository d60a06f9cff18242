"""`python -m difnet_kernels.info`: which backends can run here and why the others cannot, with versions."""

import os
import platform
import shutil
import subprocess
from importlib import metadata, util
from pathlib import Path

import torch

from difnet_kernels import backends
from difnet_kernels.backends import ENVIRONMENT_VARIABLE, instruction_sets


def report() -> str:
    """What a bug report needs: versions, compiler, devices, CPU features, backends."""
    rows = [
        ("difnet-kernels", f"{_version('difnet-kernels')} in {Path(__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", torch.__version__),
        ("numpy", _version("numpy")),
        ("triton", _version("triton")),
        ("compiler", _compiler()),
        ("CUDA of torch", str(torch.version.cuda or torch.version.hip or "none")),
        ("GPU", _gpu()),
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


def cpu_description() -> str:
    """The CPU's name and the instruction sets that matter here."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return " ".join([f"{name},", torch.backends.cpu.get_cpu_capability(), *_matrix_extensions()])


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return (
            "importable, version unknown"
            if util.find_spec(distribution.replace("-", "_"))
            else "not installed"
        )


def _compiler() -> str:
    name = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if name is None:
        return "none found (set CXX)"
    try:
        output = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name} does not run: {error}"
    return output.splitlines()[0] if output else name


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _cpuinfo(*keys: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.split(":")[0].strip() in keys:
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def _matrix_extensions() -> list[str]:
    flags = _cpuinfo("flags", "Features").split()
    return [flag for flag in ("avx512_bf16", "amx_bf16", "amx_tile", "sve", "bf16") if flag in flags]


if __name__ == "__main__":
    print(report())
