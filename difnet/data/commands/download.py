"""Downloads archives, goes on with a download that broke off, and unpacks what is safe to unpack."""

import hashlib
import http.client
import os
import re
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from difnet.data.errors import DataError
from difnet.utils.console import Reporter
from difnet.utils.files import sync_folder, writing

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without any data


def download(
    url: str, target: Path, report: Reporter, *, checksum: str | None = None, size: int | None = None
) -> None:
    """Download a file; it gets its name when it is complete and has the right checksum.

    Until then it is called NAME.part. A part that is there already is continued, if the server can do that.

    Args:
        url: where the file is.
        target: the file to write; its folder is made.
        report: shows the progress.
        checksum: the algorithm and what it gives, such as "md5:6cd6...", if the publisher or a loader of the
            data names it.
        size: bytes, if known.

    Raises:
        DataError: the server cannot be reached, the connection broke off, or the file is another one than
            expected; the message says what to do.
        WriteError: the file cannot be written.
    """
    part = target.with_name(target.name + ".part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    checked = checksum is not None
    if not _transfer(url, part, target, report, size, checked):
        with writing(part):
            part.unlink(missing_ok=True)
        if not _transfer(url, part, target, report, size, checked):
            raise DataError(f"{url} sends parts that were not asked for; {_by_hand(url, target)}")
    problem = difference(part, checksum, size)
    if problem:
        with writing(part):
            part.unlink()
            _version_file(part).unlink(missing_ok=True)
        raise DataError(
            f"{url} gave a file that {problem}. It was deleted. Run the command again; if that repeats, the "
            "publisher has replaced the file"
        )
    with writing(target):
        os.replace(part, target)
        _version_file(part).unlink(missing_ok=True)
    sync_folder(target.parent)


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def difference(path: Path, checksum: str | None, size: int | None) -> str:
    """Say how a file differs from what is expected, as the end of a sentence; "" if it does not."""
    found_size = path.stat().st_size
    if size is not None and found_size != size:
        return f"has {found_size} bytes, expected {size}"
    if checksum is None:
        return ""
    algorithm, _, expected = checksum.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    return "" if found == expected else f"has the {algorithm} {found}, expected {expected}"


def _transfer(url: str, part: Path, target: Path, report: Reporter, size: int | None, checked: bool) -> bool:
    """Download what is missing at the end of `part`; false if it must be begun anew.

    Beside `part` lies the version that the server gave the file when the download began. Without a checksum,
    only a download of the same version goes on.
    """
    version = _version_file(part)
    start = part.stat().st_size if part.is_file() else 0
    known = version.read_text() if version.is_file() else ""
    if not (known or checked):  # nothing would show that the publisher has replaced the file
        start = 0
    headers = {"User-Agent": "difnet"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": known} if known else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:  # nothing is missing, or the part is longer than the file
                return error.headers.get("Content-Range", "").rpartition("/")[2] == str(start)
            reason = f"HTTP {error.code} {error.reason}"
        raise DataError(f"{url} cannot be downloaded ({reason}); {_by_hand(url, target)}") from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise DataError(f"{url} cannot be reached ({why}); {_by_hand(url, target)}") from error
    with response:
        if start and response.status == 206:
            found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                return False
        else:
            start = 0  # the server sends the whole file
            tag = response.headers.get("ETag", "")
            name = "" if tag.startswith("W/") else tag  # a weak tag allows other bytes
            with writing(version):
                version.write_text(name or response.headers.get("Last-Modified", ""))
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        if None not in (total, size) and total != size:
            raise DataError(
                f"{url} has {total} bytes, expected {size}; the publisher has replaced the file: look for "
                f"the original elsewhere, and put it to {target}"
            )
        _receive(response, part, start, total, target, report)
    return True


def _receive(
    response: Any, part: Path, start: int, total: int | None, target: Path, report: Reporter
) -> None:
    """Write the body of a response to the end of `part`, from byte `start` on."""
    done = start
    with writing(part):
        file = part.open("r+b" if start else "wb")
    with file, report.bar(f"{target.name}, MB", (total or 0) // _CHUNK) as progress:
        file.seek(start)
        while True:
            reason = ""
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                chunk, reason = b"", str(error) or type(error).__name__
            with writing(part):
                file.write(chunk)
            done += len(chunk)
            progress(done // _CHUNK)
            if not chunk:
                break
    if reason or (total is not None and done < total):
        whole = f" of {total}" if total is not None else ""
        raise DataError(
            f"{response.url} broke off after {done}{whole} bytes ({reason or 'the server closed it'}); run "
            f"the command again, which goes on from there, or {_by_hand(response.url, target)}"
        )


def _by_hand(url: str, target: Path) -> str:
    return f"download it by hand from {url} to {target}, and run the command again"


def unpack(archive: Path, root: Path, *, part: str = "", folder: str = "") -> None:
    """Unpack a tar or zip file below `root`; files that are there already are replaced.

    The files appear when all are unpacked, so that a folder is there with all of its files or not at all.

    Args:
        archive: the file.
        root: the folder to unpack in.
        part: the folder in the archive that is taken; all of it if it is "".
        folder: the folder below `root` that shall hold the files, if the archive may lack it.

    Raises:
        DataError: the archive is damaged, or holds a path that leads out of `root`.
        WriteError: a file cannot be written.
    """
    with writing(root):
        staging = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=root))
        try:
            try:
                (_unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar)(archive, staging)
            except (
                *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError),
                RuntimeError,  # zip files with a password or a rare compression
            ) as error:
                raise _broken(archive, error) from error
            except OSError as error:
                if error.errno is None:  # gzip's, because of the content of the file
                    raise _broken(archive, error) from error
                raise
            source = staging / part
            if not source.is_dir():
                raise DataError(
                    f"{archive} holds no folder {part}; it is another file than expected: delete it"
                )
            inner = folder if folder and not (source / folder).is_dir() else ""
            (root / inner).mkdir(parents=True, exist_ok=True)
            _move(source, root / inner)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _broken(archive: Path, error: Exception) -> DataError:
    reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
    return DataError(
        f"{archive} cannot be unpacked ({reason}); delete it and run the command again, or unpack it by hand"
    )


def _unpack_tar(archive: Path, target: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise tarfile.TarError("this Python cannot refuse unsafe paths, which Python 3.10.12 and 3.11.4 can")
    with tarfile.open(archive) as file:
        file.extractall(target, filter="data")
        while file.fileobj is not None and file.fileobj.read(_CHUNK):
            pass  # the checksum of a gzip file stands at its end, after the last file in it


def _unpack_zip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            name = entry.filename.replace("\\", "/")
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
                raise zipfile.BadZipFile(f"it holds the path {name!r}, which leads out of its folder")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise zipfile.BadZipFile(f"it holds the link {name!r}")
        file.extractall(target)


def _move(source: Path, target: Path) -> None:
    """Move what is in a folder into another one, folder by folder only where both have a folder."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _move(entry, place)
        else:
            os.replace(entry, place)
