"""Keeps what a check found of each item, so that unchanged files are not read again."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import difnet
from difnet.data.checks.finding import Finding

_FORMAT = 1
"""To be raised when labels are read or counted in another way than before."""


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/difnet or ~/.cache/difnet, whose files may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "difnet"


class FindingsCache:
    """A file of findings, by the name of the item.

    Every row holds the stamp of the item's files, so a changed file is read again. A cache that cannot be
    read counts as empty, and one that cannot be written is not written: both cost time only.

    Args:
        key: what decides how the items are read, such as the root and the numbering of the labels.
    """

    def __init__(self, key: str):
        name = hashlib.blake2b(f"{_FORMAT} {difnet.__version__} {key}".encode(), digest_size=16).hexdigest()
        self.path = cache_folder() / "checks" / f"{name}.sqlite"

    def load(self, stamps: Mapping[str, bytes]) -> dict[str, Finding]:
        """Return the findings of the items whose stamp, by name, is the one that was kept."""
        found: dict[str, Finding] = {}
        with contextlib.suppress(OSError, sqlite3.Error, ValueError, TypeError):
            if self.path.is_file():
                with contextlib.closing(sqlite3.connect(self.path)) as connection:
                    for name, stamp, data in connection.execute("SELECT name, stamp, data FROM findings"):
                        if stamps.get(name) == stamp:
                            found[name] = Finding.from_bytes(data)
        return found

    def store(self, findings: Sequence[tuple[str, bytes, Finding]]) -> None:
        """Keep (name, stamp, finding) of each item, in place of what was known of these names."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS findings (name TEXT PRIMARY KEY, stamp BLOB, data BLOB)"
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO findings VALUES (?, ?, ?)",
                    ((name, stamp, finding.to_bytes()) for name, stamp, finding in findings),
                )
