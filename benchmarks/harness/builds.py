"""The operator of an earlier commit, beside that of the working tree in one process.

The package is taken from git, its name and the namespace of its operators get an ending, and its compiled
kernels are built under build/, once for each commit.
"""

import importlib
import os
import subprocess
import sys
import tarfile
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType

from harness.rows import ROOT

BASELINE = "cf3d7ee"
"""The commit before the kernels were rewritten for speed: its kernels are measured beside today's."""
PACKAGE, ENDING = "difnet_kernels", "_before"
PATHS = (PACKAGE, "csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE")


class BuildError(Exception):
    """The operator of a commit cannot be built here; the message says why."""


@cache
def build(commit: str) -> Path:
    """Build the operator of a commit if it was not built yet. Returns the folder that holds its package.

    Raises:
        BuildError: git does not know the commit, or its kernels do not compile.
    """
    folder = ROOT / "build" / f"operator-{commit}"
    if list(folder.glob(f"{PACKAGE}{ENDING}/_native*.so")):
        return folder
    archive = _run(["git", "-C", str(ROOT), "archive", commit, *PATHS], f"no commit {commit} here")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    for path in [*folder.glob(f"{PACKAGE}/**/*.py"), *folder.glob("csrc/*.cpp"), folder / "setup.py"]:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(PACKAGE, PACKAGE + ENDING), encoding="utf-8")
    (folder / PACKAGE).rename(folder / (PACKAGE + ENDING))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    _run(
        command, f"the kernels of {commit} do not compile", cwd=folder, env=os.environ | {"DIFNET_BUILD": "1"}
    )
    return folder


def load(commit: str) -> ModuleType:
    """The package of a commit. One process can load only one.

    Raises:
        BuildError: as for `build`.
    """
    folder = str(build(commit))
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(PACKAGE + ENDING)


def reason_missing(commit: str) -> str | None:
    """Why the operator of a commit cannot be measured here, or None."""
    try:
        build(commit)
    except BuildError as error:
        return str(error)
    return None


def _run(command: list[str], failure: str, **options: object) -> bytes:
    try:
        return subprocess.run(command, capture_output=True, check=True, **options).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace")
        raise BuildError(f"{failure}: {reason.strip().splitlines()[-1]}") from error
