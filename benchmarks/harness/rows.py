"""Result rows: one JSON object a line, with the hardware, versions and commit that it was measured on."""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from difnet_kernels.backends import instruction_sets
from difnet_kernels.info import CHANGED, cpu_description, cpu_name, package_version, source_commit

Row = dict[str, Any]

PACKAGES = ("numpy", "triton", "timm", "pykeops", "flash-attn-4")
ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
"""Committed rows, one folder for each machine. The tables are made from them."""
RUNS = RESULTS / "runs"
"""Default output of local runs (ignored by git)."""
LIMITS = ("DIFNET_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables that keep our kernels, PyTorch and its MKL from using all instructions of the CPU."""
MEASURED_PATHS = (".", ":!benchmarks/results", ":!docs", ":!*.md")
"""Paths that must be committed and unchanged for rows to count as measured on a commit."""


def run_environment(device: torch.device) -> Row:
    """Hardware, threads, versions, commit and date, which all rows of a run share."""
    on_gpu = device.type == "cuda"
    commit = source_commit(ROOT, paths=MEASURED_PATHS, untracked=True)
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if on_gpu else cpu_description() + limits(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := package_version(name))},
        "driver": gpu_driver() if on_gpu else None,
        "commit": "unknown" if commit is None else shortened(commit),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def limits() -> str:
    """The `LIMITS` that are set, as the end of a description of the CPU."""
    found = [f"{name}={value}" for name in LIMITS if (value := os.environ.get(name))]
    return f", limited by {' '.join(found)}" if found else ""


def shortened(commit: str) -> str:
    """The first seven digits of a commit, with the mark of a changed tree."""
    return commit[:7] + (CHANGED if commit.endswith(CHANGED) else "")


def gpu_driver() -> str | None:
    """The version of NVIDIA's driver, None if nvidia-smi does not print it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return printed.strip().partition("\n")[0] or None


def machine_name(gpu: str | None = None) -> str:
    """The folder of a machine's rows in `RESULTS`: the GPU's name, or the CPU's with its instruction set.

    The instruction set is the best one for which `native` has kernels, such as "avx2" in "amd-epyc-avx2".
    """
    if gpu is None:
        capability = (*instruction_sets(), torch.backends.cpu.get_cpu_capability())[0]
        return f"{_slug(cpu_name())}-{capability.lower()}"
    return _slug(gpu)


def _slug(name: str) -> str:
    """A name for a folder: "Intel(R) Xeon(R) Processor @ 2.60GHz" becomes "intel-xeon"."""
    words = re.sub(r"\((r|tm)\)|\bprocessor\b|\bcpu\b|@.*", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


class Rows:
    """The rows of a run. Each is written at once, so that a killed run keeps what it has measured.

    Args:
        path: the file. What it held before is replaced when the first row is added.
        shared: the fields that all rows share.
    """

    def __init__(self, path: Path, shared: Row):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.shared, self.rows = path, shared, list[Row]()
        self.start = time.monotonic()

    def add(self, **values: Any) -> None:
        """Append one row, with the seconds since the start of the run."""
        row = {**self.shared, **values, "elapsed": round(time.monotonic() - self.start, 1)}
        with self.path.open("a" if self.rows else "w", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)


def load(paths: Iterable[Path]) -> list[Row]:
    """The rows of some files. A last line that is incomplete, because the run was killed, is skipped.

    Raises:
        ValueError: any other line is not valid JSON.
    """
    rows = []
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise ValueError(f"{path}, line {number}: not a row: {line[:40]!r}") from error
    return rows
