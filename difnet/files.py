"""Files that are whole or absent: written beside the target, flushed to disk, then renamed over it.

And text as people's editors save it."""

import codecs
import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` such that a crash at any moment leaves the old file or the new one.

    Raises:
        OSError: as the file system says (no space, no permission); `path` is then untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def prepare_file(path: Path) -> None:
    """Make the folder of a file that is to be written when the work is done, and see that it can be.

    Raises:
        OSError: it cannot; the message says why.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def prepare_folder(path: Path) -> None:
    """The same for a folder of results."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; name a folder")
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names for files, of 200 bytes at most, so that an ending fits into the 255 of most file systems.

    "/" becomes "_", of longer names the end is taken, and where an earlier one has a name already, "-2",
    "-3", ... are added.
    """
    taken: set[str] = set()
    distinct: list[str] = []
    for name in names:
        stem = name.replace("/", "_")
        while len(os.fsencode(stem)) > 200:
            stem = stem[1:]
        unique, count = stem, 1
        while unique.casefold() in taken:  # some file systems do not tell cases apart
            count += 1
            unique = f"{stem}-{count}"
        taken.add(unique.casefold())
        distinct.append(unique)
    return distinct


def read_text(path: Path) -> str:
    """Text in UTF-8, with a byte order mark or without, or in UTF-16 with one.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: it is text in another encoding, or no text.
    """
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8-sig")
    if "\0" in text:
        raise UnicodeError("it holds zero bytes, as text in UTF-16 without a byte order mark does")
    return text


def sync_folder(folder: Path) -> None:
    """Flush a rename in `folder` to disk where the platform can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
