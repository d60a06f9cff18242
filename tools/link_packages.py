"""Link packages of this environment, with all their requirements, into another environment: for `make bare`.

    python tools/link_packages.py .venv-bare torch numpy setuptools

The other environment must have the same version of Python. No other package of this one is visible there.
"""

import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


def with_requirements(names: list[str]) -> set[str]:
    """The names, and those of all distributions that they require here."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found.add(canonicalize_name(wanted.name))
        for requirement in map(Requirement, distribution(wanted.name).requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(requirement)
    return found


def main(environment: str, *names: str) -> None:
    """Link every file and folder that the distributions have at the top of site-packages."""
    ask = [str(Path(environment) / "bin/python"), "-c", SITE_PACKAGES]
    target = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    linked = with_requirements(list(names))
    owners = packages_distributions()
    for name in sorted(linked):
        files = distribution(name).files or ()
        for top in sorted({file.parts[0] for file in files} - {"..", "__pycache__"}):
            strangers = {canonicalize_name(owner) for owner in owners.get(top, ())} - linked
            if strangers:
                sys.exit(f"{top} is also a folder of {', '.join(sorted(strangers))}: it cannot be linked")
            link = target / top
            if not link.exists():
                link.symlink_to(str(distribution(name).locate_file(top)))
    print(f"{len(linked)} packages linked into {target}: {', '.join(sorted(linked))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
