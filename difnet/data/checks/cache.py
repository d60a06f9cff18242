"""Keeps what a check found of each item, so that unchanged files are not read again."""

import contextlib
import functools
import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL

from difnet.data.checks.finding import Finding

_SOURCES = Path(__file__).parents[1]


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/difnet or ~/.cache/difnet, whose files may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "difnet"


@functools.cache
def code_digest() -> bytes:
    """A digest of all code that reads and counts labels: another version may find something else."""
    digest = hashlib.blake2b(PIL.__version__.encode(), digest_size=16)
    for path in sorted(_SOURCES.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


class FindingsCache:
    """A file of findings, by the name of the item.

    Every row holds the stamp of the item's files, so a changed file is read again. A cache that cannot be
    read counts as empty and is deleted, and one that cannot be written is not written: both cost time only.

    Args:
        key: what decides how the items are read, such as the root and the numbering of the labels.
    """

    def __init__(self, key: str):
        digest = hashlib.blake2b(code_digest() + key.encode("utf-8", "surrogateescape"), digest_size=16)
        self.path = cache_folder() / "checks" / f"{digest.hexdigest()}.sqlite"

    def load(self, stamps: Mapping[str, bytes]) -> dict[str, Finding]:
        """Return the findings of the items whose stamp, by name, is the one that was kept."""
        found: dict[str, Finding] = {}
        try:
            if self.path.is_file():
                with contextlib.closing(sqlite3.connect(self.path)) as connection:
                    for encoded, stamp, data in connection.execute("SELECT name, stamp, data FROM findings"):
                        name = os.fsdecode(encoded)
                        if stamps.get(name) == stamp:
                            found[name] = Finding.from_bytes(data)
        except sqlite3.OperationalError:  # such as a file that another process has locked
            pass
        except (sqlite3.DatabaseError, ValueError, TypeError):
            with contextlib.suppress(OSError):
                self.path.unlink()
        except OSError:
            pass
        return found

    def store(self, findings: Sequence[tuple[str, bytes, Finding]]) -> None:
        """Keep (name, stamp, finding) of each item, in place of what was known of these names."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS findings (name BLOB PRIMARY KEY, stamp BLOB, data BLOB)"
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO findings VALUES (?, ?, ?)",
                    ((os.fsencode(name), stamp, finding.to_bytes()) for name, stamp, finding in findings),
                )
