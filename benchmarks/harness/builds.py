"""The operator of an earlier commit, beside that of the working tree in one process.

The package is taken from git, its name and the namespace of its operators get an ending, and its compiled
kernels are built under build/, once for each commit.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from types import ModuleType

from harness.rows import ROOT

BASELINE = "cf3d7ee"
"""The commit before the kernels were rewritten for speed: its kernels are measured beside today's."""
PACKAGE, ENDING = "difnet_kernels", "_before"
PATHS = (PACKAGE, "csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE")


class BuildError(Exception):
    """The operator of a commit cannot be built or loaded here; the message says why."""


@cache
def build(commit: str) -> Path:
    """Build the operator of a commit if it was not built yet. Returns the folder that holds its package.

    Raises:
        BuildError: git does not know the commit or its files, or its kernels do not compile.
    """
    found = _run(
        ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{commit}^{{commit}}"], f"no commit {commit}"
    )
    folder = ROOT / "build" / f"operator-{found.decode().strip()}"
    if folder.exists():
        return folder
    print(f"building the kernels of {commit}, once, which takes minutes", file=sys.stderr, flush=True)
    archive = _run(["git", "-C", str(ROOT), "archive", commit, *PATHS], f"commit {commit} has other files")
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        unfinished = Path(name) / "operator"
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(unfinished, filter="data")
        sources = [*unfinished.glob(f"{PACKAGE}/**/*.py"), *unfinished.glob("csrc/*.cpp")]
        for path in [*sources, unfinished / "setup.py"]:
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(PACKAGE, PACKAGE + ENDING), encoding="utf-8")
        (unfinished / PACKAGE).rename(unfinished / (PACKAGE + ENDING))
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        environment = os.environ | {"DIFNET_BUILD": "1"}
        _run(command, f"the kernels of {commit} do not compile", cwd=unfinished, env=environment)
        unfinished.rename(folder)
    return folder


def load(commit: str) -> ModuleType:
    """The package of a commit.

    Raises:
        BuildError: as for `build`, or the process has loaded the package of another commit.
    """
    name = PACKAGE + ENDING
    folder = build(commit) / name
    if name not in sys.modules:
        spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    module = sys.modules[name]
    if Path(str(module.__file__)).parent != folder:
        raise BuildError(f"{commit}: this process has loaded {module.__file__}; start another")
    return module


def reason_missing(commit: str) -> str | None:
    """Why the operator of a commit cannot be measured here, or None."""
    try:
        build(commit)
    except BuildError as error:
        return str(error)
    return None


def _run(command: list[str], failure: str, **options: object) -> bytes:
    """The output of a command. Raises BuildError with `failure` and the last line of the command's errors."""
    try:
        ran = subprocess.run(command, capture_output=True, check=True, **options)  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace")
        raise BuildError(f"{failure}: {reason.strip().splitlines()[-1]}") from error
    return bytes(ran.stdout)
