"""Writes files atomically: to a temporary file beside the target, which is then renamed to the target.

Also reads text in the encodings that editors save.
"""

import codecs
import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


class WriteError(OSError):
    """A file cannot be written; the message names the user's path, the reason and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "make its folder writable, or choose another",
    errno.EPERM: "make its folder writable, or choose another",
    errno.EROFS: "make its folder writable, or choose another",
    errno.ENOENT: "create its folder first, or choose another",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "a part of its path is not a folder; choose another path",
    errno.ENOTDIR: "a part of its path is not a folder; choose another path",
    errno.ELOOP: "links on its path lead in a circle; choose another path",
}


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into an error that names `path` and a remedy.

    Raises:
        WriteError: in place of any other OSError, with the same number.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "choose another place")
        raise WriteError(error.errno, f"{path} cannot be written ({reason}); {remedy}") from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace the file `path` by `content`; a crash at any moment leaves the old file or the new one.

    If `path` is a link, the file that it leads to is replaced.

    Raises:
        WriteError: `path` is a folder, a device or a pipe, or the file system refuses (no space, no
            permission). What was there before is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    target = file_to_write(path)
    with writing(path):
        handle, temporary = tempfile.mkstemp(prefix=".difnet-", suffix=".tmp", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~umask())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    sync_folder(target.parent)


def file_to_write(path: Path) -> Path:
    """Return the file that writing to `path` creates or replaces: `path`, or the target of its links.

    Raises:
        WriteError: `path` exists and is not a file, or the system refuses access.
    """
    with writing(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe, which a file would replace"
        raise WriteError(errno.EEXIST, f"{path} is {what}; name a file")
    link = os.path.abspath(path)
    while os.path.islink(link):  # /dev/stdout, for example, leads through /proc to the file of its output
        link = os.path.join(os.path.realpath(os.path.dirname(link)), os.readlink(link))
        if link.startswith("/proc/"):
            raise WriteError(errno.EEXIST, f"{path} is already open for writing in a process; name a file")
    return Path(os.path.realpath(path))


def prepare_file(path: Path) -> None:
    """Make the folder of a file that will be written after the work, and check that it can be written.

    Raises:
        WriteError: it cannot.
    """
    target = file_to_write(path)
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass


def prepare_folder(path: Path) -> None:
    """Make a folder for results, and check that files can be written there.

    Raises:
        WriteError: they cannot.
    """
    with writing(path):
        if path.exists() and not path.is_dir():
            raise WriteError(errno.ENOTDIR, f"{path} is a file; name a folder")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def is_within(path: Path, root: Path) -> bool:
    """Whether `path` is `root` or lies below it, by their names or after following links."""
    return any(Path(real(path)).is_relative_to(real(root)) for real in (os.path.abspath, os.path.realpath))


def refuse_inside(out: Path, data: Path | None) -> None:
    """Refuse to write among the data, where a picture would replace or become data.

    Raises:
        ValueError: `out` is `data` or lies below it.
    """
    if data is not None and is_within(out, data):
        raise ValueError(f"--out {out} lies in the data {data}; name a file outside of it")


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make distinct file names of at most 200 bytes: most file systems allow 255, which leaves an ending.

    "/" becomes "_", a longer name keeps its end, and a name that is taken gets "-2", "-3", ... appended.
    """
    taken: set[str] = set()
    distinct: list[str] = []
    for name in names:
        stem = name.replace("/", "_")
        while len(os.fsencode(stem)) > 200:
            stem = stem[1:]
        unique, count = stem, 1
        while unique.casefold() in taken:  # some file systems ignore case
            count += 1
            unique = f"{stem}-{count}"
        taken.add(unique.casefold())
        distinct.append(unique)
    return distinct


def read_text(path: Path) -> str:
    """Read text in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: the file is in another encoding, or is not text.
    """
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8-sig")
    if "\0" in text:
        raise UnicodeError("it holds zero bytes, like UTF-16 text without a byte order mark")
    return text


def sync_folder(folder: Path) -> None:
    """Flush a rename in `folder` to disk, if the platform can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def umask() -> int:
    """Return the permissions that new files and folders of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
