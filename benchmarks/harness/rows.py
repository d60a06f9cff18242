"""Result rows: one JSON object a line, with where and on what it was measured."""

import json
import platform
import subprocess
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from difnet_kernels.info import cpu_description

PACKAGES = ("numpy", "triton", "timm", "pykeops", "flash-attn-4")
ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
"""Rows that the documents show."""
DIRTY = "+changes"
MEASURING = (".", ":!benchmarks/results", ":!docs", ":!*.md")
"""What a commit must hold as it was measured, new files too: not the rows and what is written from them."""
RUNS = RESULTS / "runs"
"""Rows of runs at home; git ignores them."""


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, threads, versions, commit, date: what all rows of a run share. A driver not known is None."""
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_description(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "driver": _driver() if device.type == "cuda" else None,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    return (
        _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
        or None
    )


def _commit() -> str:
    """The commit measured, marked when the tree differs from it in more than results."""
    git = ("git", "-C", str(ROOT))
    commit = _output(*git, "describe", "--always", "--exclude=*") or "unknown"
    changed = _output(*git, "status", "--porcelain", "--untracked-files=all", "--", *MEASURING)
    return commit + DIRTY if changed else commit


def _output(*command: str) -> str:
    """What a command prints; nothing where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class Rows:
    """Rows of a run, each on disk as soon as it is known, so that a killed run keeps what it measured."""

    def __init__(self, path: Path, shared: dict[str, Any]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.shared, self.rows = path, shared, list[dict[str, Any]]()
        self.start = time.monotonic()

    def add(self, **values: Any) -> None:
        """Append one row, with the seconds since the start."""
        row = {**self.shared, **values, "elapsed": round(time.monotonic() - self.start, 1)}
        # What a file held goes when there is something in its stead.
        with self.path.open("a" if self.rows else "w", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)


def load(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of some files; a last line cut short by a kill is left out."""
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
