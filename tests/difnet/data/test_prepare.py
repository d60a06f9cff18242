"""The command prepare: downloads that go on, checksums, and archives that would write elsewhere."""

import dataclasses
import hashlib
import io
import re
import socket
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from small_runs import train_and_evaluate

from difnet.data import DataError
from difnet.data.commands.download import difference, download, unpack
from difnet.data.commands.prepare import SETS, Archive, PublishedName, PublishedSet, main
from difnet.data.registry import DATASETS
from difnet.data.sets import voc
from difnet.utils.console import Reporter

QUIET = Reporter(enabled=False)


class Server:
    """Serves files from memory; `mode` says in which way it is a poor server."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.mode, self.etag = "", '"one"'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words) -> None:
                pass

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.requests.append((self.path, asked))
                outer.answer(self, outer.files.get(self.path), asked)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler, data: bytes | None, asked: str | None) -> None:
        if data is None:
            handler.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.mode != "no ranges" else 0
        if handler.headers.get("If-Range", self.etag) != self.etag:
            start = 0
        if start >= len(data) and start:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(data)}")
            handler.end_headers()
            return
        if start:
            handler.send_response(206)
            first = start + 1 if self.mode == "wrong range" else start
            handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", self.etag)
        if self.mode != "no length":
            handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        body = data[start:]
        handler.wfile.write(body[: len(body) // 2] if self.mode == "breaks off" else body)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


DATA = np.random.default_rng(0).integers(0, 256, 3 << 20, np.uint8).tobytes()
MD5 = "md5:" + hashlib.md5(DATA).hexdigest()


def get(server: Server, target: Path, **expected) -> None:
    server.files.setdefault("/a.bin", DATA)
    download(f"{server.url}/a.bin", target, QUIET, **expected)


def problem(server: Server, target: Path, **expected) -> str:
    with pytest.raises(DataError) as caught:
        get(server, target, **expected)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["", "no length", "no ranges"])
def test_download(server, tmp_path, mode):
    server.mode = mode
    target = tmp_path / "new/a.bin"
    get(server, target, checksum=MD5, size=len(DATA))
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    assert server.requests == [("/a.bin", None)]


def test_a_download_that_broke_off_goes_on(server, tmp_path):
    target, part = tmp_path / "a.bin", tmp_path / "a.bin.part"
    server.mode = "breaks off"
    message = problem(server, target, checksum=MD5)
    assert f"broke off after {len(DATA) // 2} of {len(DATA)} bytes" in message
    assert not target.exists()
    assert part.read_bytes() == DATA[: len(DATA) // 2]
    server.mode = ""
    get(server, target, checksum=MD5)
    assert server.requests[-1] == ("/a.bin", f"bytes={len(DATA) // 2}-")
    assert target.read_bytes() == DATA
    assert not part.exists()


def test_a_part_of_another_version_is_begun_anew(server, tmp_path):
    """No checksum would tell that the publisher has replaced the file."""
    target, part = tmp_path / "a.bin", tmp_path / "a.bin.part"
    server.mode = "breaks off"
    problem(server, target)
    assert part.is_file()
    server.mode, server.etag, server.files["/a.bin"] = "", '"two"', DATA[::-1]
    get(server, target)
    assert target.read_bytes() == DATA[::-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]


def test_a_part_of_the_same_version_goes_on(server, tmp_path):
    target = tmp_path / "a.bin"
    server.mode = "breaks off"
    problem(server, target)
    server.mode = ""
    get(server, target)
    assert server.requests[-1] == ("/a.bin", f"bytes={len(DATA) // 2}-")
    assert target.read_bytes() == DATA


def test_a_part_of_unknown_version_needs_a_checksum(server, tmp_path):
    target = tmp_path / "a.bin"
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    get(server, target)
    assert server.requests == [("/a.bin", None)]
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("mode", ["no ranges", "wrong range"])
def test_servers_that_cannot_go_on_start_again(server, tmp_path, mode):
    target, part = tmp_path / "a.bin", tmp_path / "a.bin.part"
    part.write_bytes(b"x" * 1000)
    server.mode = mode
    get(server, target, checksum=MD5)
    assert target.read_bytes() == DATA
    assert server.requests[0] == ("/a.bin", "bytes=1000-")


@pytest.mark.parametrize("extra", [0, 10])
def test_a_part_that_is_whole_or_too_long(server, tmp_path, extra):
    target, part = tmp_path / "a.bin", tmp_path / "a.bin.part"
    part.write_bytes(DATA + bytes(extra))
    get(server, target, checksum=MD5)
    assert target.read_bytes() == DATA
    assert len(server.requests) == (2 if extra else 1)


def test_wrong_checksum(server, tmp_path):
    wrong = "md5:" + "0" * 32
    message = problem(server, tmp_path / "a.bin", checksum=wrong)
    assert f"has the {MD5.replace(':', ' ')}, expected {'0' * 32}" in message
    assert "It was deleted" in message
    assert list(tmp_path.iterdir()) == []


def test_wrong_size(server, tmp_path):
    assert f"has {len(DATA)} bytes, expected 5" in problem(server, tmp_path / "a.bin", size=5)
    server.mode = "no length"
    assert f"has {len(DATA)} bytes, expected 5. It was deleted" in problem(server, tmp_path / "a.bin", size=5)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_and_no_network(server, tmp_path):
    target = tmp_path / "b.bin"
    with pytest.raises(DataError) as caught:
        download(f"{server.url}/b.bin", target, QUIET)
    url = f"{server.url}/b.bin"
    assert str(caught.value) == (
        f"{url} cannot be downloaded (HTTP 404 Not Found); download it by hand from {url} to {target}, and "
        "run the command again"
    )
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/b.bin"
        with pytest.raises(DataError, match=r"cannot be reached \(.*refused.*\); download it by hand from"):
            download(url, target, QUIET)
    with pytest.raises(DataError, match="cannot be reached"):
        download("http://nowhere.invalid/a", target, QUIET)


def test_checksums_of_other_algorithms(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert difference(path, "sha1:a9993e364706816aba3e25717850c26c9cd0d89d", 3) == ""
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert difference(path, f"sha256:{sha256}", None) == ""
    assert (
        difference(path, f"sha256:{sha256[::-1]}", None)
        == f"has the sha256 {sha256}, expected {sha256[::-1]}"
    )


def make_tar(path: Path, files: dict[str, bytes], edit=None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as file:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
        if edit is not None:
            entry = tarfile.TarInfo("evil")
            edit(entry)
            file.addfile(entry)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


FILES = {"a/b/one.txt": b"1", "a/two.txt": b"2", "three.txt": b"3"}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_unpack(tmp_path, name):
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, FILES)
    root = tmp_path / "data"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/old.txt").write_bytes(b"0")
    (root / "three.txt").write_bytes(b"old")
    unpack(archive, root)
    assert tree(root) == FILES | {"a/b/old.txt": b"0"}


def test_unpack_a_part_into_a_folder(tmp_path):
    archive = make_zip(tmp_path / "x.zip", FILES)
    for part, folder, expected in (
        ("a", "", {"b/one.txt": b"1", "two.txt": b"2"}),
        ("a", "b", {"b/one.txt": b"1", "two.txt": b"2"}),
        ("a", "A", {"A/b/one.txt": b"1", "A/two.txt": b"2"}),
    ):
        root = tmp_path / f"{part}{folder}_"
        root.mkdir()
        unpack(archive, root, part=part, folder=folder)
        assert tree(root) == expected
    with pytest.raises(DataError, match="holds no folder c; it is another file"):
        unpack(archive, tmp_path, part="c")


def link_to_parent(entry: tarfile.TarInfo) -> None:
    entry.type, entry.linkname = tarfile.SYMTYPE, "../.."


def hard_link_outside(entry: tarfile.TarInfo) -> None:
    entry.type, entry.linkname = tarfile.LNKTYPE, "../outside"


def device(entry: tarfile.TarInfo) -> None:
    entry.type = tarfile.CHRTYPE


@pytest.mark.parametrize("edit", [link_to_parent, hard_link_outside, device])
def test_tar_files_that_lead_elsewhere(tmp_path, edit):
    archive = make_tar(tmp_path / "x.tar", FILES, edit)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"x\.tar cannot be unpacked"):
        unpack(archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


UP, BEYOND = "../up.txt", ("a/../../up.txt", "/tmp/up.txt", "C:/up.txt", "..\\up.txt")


@pytest.mark.parametrize("archive", [("tar", UP), ("tar", BEYOND[0]), *(("zip", it) for it in (UP, *BEYOND))])
def test_paths_that_lead_elsewhere(tmp_path, archive):
    kind, name = archive
    path = (make_zip if kind == "zip" else make_tar)(tmp_path / f"x.{kind}", FILES | {name: b"!"})
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(path, root)
    assert tree(tmp_path).keys() == {f"x.{kind}"}


def test_absolute_paths_in_tar_files_stay_inside(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    unpack(make_tar(tmp_path / "x.tar", {"/up/one.txt": b"1"}), root)
    assert tree(root) == {"up/one.txt": b"1"}


def test_zip_links(tmp_path):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(entry, "../..")
    with pytest.raises(DataError, match="it holds the link 'link'"):
        unpack(archive, tmp_path)


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_damaged_archives(tmp_path, name):
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, {"a": DATA})
    data = bytearray(archive.read_bytes())
    root = tmp_path / "data"
    root.mkdir()
    for damaged in (bytes(data[: len(data) // 2]), b"<html>sorry</html>", b""):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name} cannot be unpacked .* delete it"):
            unpack(archive, root)
    if name != "x.tar":  # a plain tar file has no checksum of its content
        data[len(data) // 2] ^= 255
        archive.write_bytes(bytes(data))
        with pytest.raises(DataError, match="cannot be unpacked"):
            unpack(archive, root)
    assert list(root.iterdir()) == []


def small_voc() -> dict[str, bytes]:
    """VOC's archive with three training images and two of validation."""
    files = {}
    for split, names in (("train", ("2007_1", "2007_2", "2007_3")), ("val", ("2007_4", "2007_5"))):
        files[f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt"] = "\n".join([*names, ""]).encode()
        for number, name in enumerate(names):
            label = np.zeros((40, 48), np.uint8)
            label[8:20, 6 + number : 30] = 15
            picture = Image.fromarray(label, "P")
            picture.putpalette([channel for colour in voc.voc_colours() for channel in colour])
            stream = io.BytesIO()
            picture.save(stream, "PNG")
            files[f"VOCdevkit/VOC2012/SegmentationClass/{name}.png"] = stream.getvalue()
            stream = io.BytesIO()
            Image.fromarray(np.stack([label * 9] * 3, -1)).save(stream, "JPEG")
            files[f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg"] = stream.getvalue()
    return files


@pytest.fixture
def small_table(server, tmp_path, monkeypatch):
    """VOC as a small set on the local server; returns its archive."""
    data = make_tar(tmp_path / "source.tar", small_voc()).read_bytes()
    server.files["/voc.tar"] = data
    archive = Archive(
        f"{server.url}/voc.tar",
        "VOCdevkit/VOC2012/SegmentationClass",
        "md5:" + hashlib.md5(data).hexdigest(),
        "this test",
        len(data),
    )
    monkeypatch.setitem(SETS, "voc", PublishedSet("http://terms.example/", (archive,)))
    monkeypatch.setitem(voc.COUNTS, "train", 3)
    monkeypatch.setitem(voc.COUNTS, "val", 2)
    return archive


def test_prepare(server, small_table, tmp_path, capsys):
    root = tmp_path / "new" / "data"
    assert main(["voc", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "http://terms.example/" in out
    assert "voc.tar has the md5 of this test" in out
    assert f"voc: 3 train, 2 val images of 21 classes; use --dataset voc --data-root {root}" in out
    assert (root / "voc.tar").is_file()
    assert main(["voc", "--root", str(root)]) == 0
    assert f"voc is in {root} already" in capsys.readouterr().out
    assert len(server.requests) == 1
    train_and_evaluate("voc", root, tmp_path / "run")


def test_prepare_uses_an_archive_that_is_there(server, small_table, tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    (root / "voc.tar").write_bytes(b"another file")
    assert main(["voc", "--root", str(root)]) == 1
    error = capsys.readouterr().err
    assert f"{root / 'voc.tar'} has 12 bytes, expected {small_table.size} (this test)" in error
    assert "delete it and run the command again" in error
    (root / "voc.tar").write_bytes(server.files["/voc.tar"])
    assert main(["voc", "--root", str(root)]) == 0
    assert "voc.tar is there already" in capsys.readouterr().out
    assert server.requests == []


def test_prepare_without_a_published_checksum(small_table, tmp_path, capsys, monkeypatch):
    archive = dataclasses.replace(small_table, checksum=None, size=None)
    monkeypatch.setitem(SETS, "voc", PublishedSet("http://terms.example/", (archive,)))
    assert main(["voc", "--root", str(tmp_path / "data")]) == 0
    assert "no checksum of voc.tar is published" in capsys.readouterr().out


def test_prepare_without_a_network(server, small_table, tmp_path, capsys):
    server.files.clear()
    assert main(["voc", "--root", str(tmp_path / "data")]) == 1
    target = tmp_path / "data/voc.tar"
    assert f"download it by hand from {server.url}/voc.tar to {target}" in capsys.readouterr().err


def test_prepare_finds_incomplete_data(server, small_table, tmp_path, capsys):
    root = tmp_path / "data"
    assert main(["voc", "--root", str(root)]) == 0
    (root / "VOCdevkit/VOC2012/JPEGImages/2007_2.jpg").unlink()
    assert main(["voc", "--root", str(root)]) == 1
    assert "2007_2" in capsys.readouterr().err
    assert len(server.requests) == 1


def test_sets_whose_terms_must_be_accepted(tmp_path, capsys):
    root = tmp_path / "data"
    assert main(["cityscapes", "--root", str(root)]) == 1
    error = capsys.readouterr().err
    for word in (
        "gtFine_trainvaltest.zip",
        "leftImg8bit_trainvaltest.zip",
        "downloads/",
        "license/",
        str(root),
    ):
        assert word in error
    make_zip(root / "gtFine_trainvaltest.zip", {"gtFine/train/x/x_gtFine_labelIds.png": b""})
    assert main(["cityscapes", "--root", str(root)]) == 1
    error = capsys.readouterr().err
    assert "gtFine_trainvaltest.zip" not in error
    assert "leftImg8bit_trainvaltest.zip" in error
    make_zip(root / "leftImg8bit_trainvaltest.zip", {"leftImg8bit/train/x/x_leftImg8bit.png": b""})
    assert main(["cityscapes", "--root", str(root)]) == 1
    assert (root / "gtFine/train/x").is_dir()
    assert (root / "leftImg8bit/train/x").is_dir()


def test_the_table():
    assert set(SETS) == set(get_args(PublishedName)) <= set(DATASETS)
    for published in SETS.values():
        assert published.terms.startswith("http")
        for archive in published.archives:
            assert re.fullmatch(r"(md5:[0-9a-f]{32}|sha1:[0-9a-f]{40})", archive.checksum or MD5)
            assert bool(archive.checksum) == bool(archive.checked_by)
            assert archive.name
