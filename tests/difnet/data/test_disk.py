"""Pictures and labels on disk: every layout is read correctly, or refused with the remedy."""

import errno
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difnet.data import DataError
from difnet.data.files.disk import IMAGE_SUFFIXES, find_files, read_image, read_numbers
from difnet.data.items.index import IndexLabel, Numbering
from difnet.data.items.item import Picture


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(path: Path, values: np.ndarray, depth: int, colour: int = 0, *more: bytes) -> None:
    """Write values (H, W) or (H, W, c) as a PNG of any bit depth; colour type 3 has a palette."""
    rows = values.reshape(values.shape[0], -1)
    bits = ((rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(len(rows), -1).astype(np.uint8)
    packed = np.packbits(bits, axis=1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header)]
    if colour == 3:
        chunks.append(chunk(b"PLTE", bytes(range(3 * min(2**depth, 80)))))
    chunks += [*more, chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b""))


def write_tiff(path: Path, data: bytes, size: tuple[int, int], **tags: tuple[int, ...]) -> None:
    """Write an uncompressed little-endian TIFF; `tags` are named by their numbers, t258 and so on."""
    height, width = size
    plain = {
        256: (width,),
        257: (height,),
        259: (1,),
        262: (1,),
        277: (1,),
        278: (height,),
        279: (len(data),),
    }
    plain |= {int(name[1:]): values for name, values in tags.items()}
    strips = len(plain[279])
    plain[273] = (0,) * strips
    start = 8 + 2 + 12 * len(plain) + 4
    extra = sum(4 * len(values) for values in plain.values() if len(values) > 1)
    offset = start + extra
    plain[273] = tuple(offset + sum(plain[279][:i]) for i in range(strips))
    entries, beyond = b"", b""
    for tag, values in sorted(plain.items()):
        where = struct.pack("<I", values[0])
        if len(values) > 1:
            where = struct.pack("<I", start + len(beyond))
            beyond += struct.pack(f"<{len(values)}I", *values)
        entries += struct.pack("<HHI", tag, 4, len(values)) + where
    path.write_bytes(
        struct.pack("<2sHIH", b"II", 42, 8, len(plain)) + entries + struct.pack("<I", 0) + beyond + data
    )


def damaged_exif(orientation: int) -> bytes:
    """An EXIF block with Orientation, and an XResolution of -1/0 that Pillow reads but cannot write again."""
    tags = struct.pack("<HHIHH", 274, 3, 1, orientation, 0) + struct.pack("<HHII", 282, 10, 1, 38)
    return (
        b"Exif\0\0"
        + struct.pack("<2sHIH", b"II", 42, 8, 2)
        + tags
        + struct.pack("<I", 0)
        + struct.pack("<ii", -1, 0)
    )


def grey(path: Path) -> np.ndarray:
    """Read a picture whose three channels are equal, and return one of them."""
    image = read_image(path).numpy()
    assert (image == image[:1]).all()
    return image[0]


def read_label(path: Path, num_classes: int, **numbering: object) -> torch.Tensor:
    label = IndexLabel(path, Numbering.shifted(num_classes, **numbering))
    return torch.from_numpy(label.read(Picture(path, (0, 0))).classes)


RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize("name", ["wide.png", "wide.tif", "wide.pgm", "big_endian.tif"])
def test_16_bit_grey_is_scaled_by_the_range_of_the_type(tmp_path, name):
    picture = Image.fromarray(RAMP)
    if name == "big_endian.tif":
        picture = Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes())
    picture.save(tmp_path / name)
    assert np.array_equal(grey(tmp_path / name), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("brightest", [255, 4000, 4095])
def test_16_bit_picture_with_a_small_range_is_refused(tmp_path, channels, brightest):
    path = tmp_path / "dark.png"
    values = np.linspace(0, brightest, 64).astype(np.int64).reshape(8, 8, 1).repeat(channels, 2)
    write_png(path, values, 16, 0 if channels == 1 else 2)
    with pytest.raises(DataError, match=r"dark\.png holds 16-bit values that become at most 16 .*by 16 for"):
        read_image(path)
    write_png(path, values * (65535 // brightest), 16, 0 if channels == 1 else 2)
    assert grey(path).max() >= 238


@pytest.mark.parametrize(("name", "colour"), [("x.png", 4), ("x.png", 6), ("x.tif", 6)])
def test_dark_16_bit_picture_with_transparent_pixels_is_refused(tmp_path, name, colour):
    """White behind transparent pixels does not count as brightness of the picture."""
    values = np.random.default_rng(0).integers(0, 4096, (8, 8, 2 if colour == 4 else 4))
    values[..., -1] = 65535
    values[0, :3, -1] = 0
    values[0, :3, :-1] = 65535

    def write() -> None:
        if name == "x.png":
            write_png(tmp_path / name, values, 16, colour)
        else:
            tags = dict(t258=(16,) * 4, t262=(2,), t277=(4,), t338=(2,))
            write_tiff(tmp_path / name, values.astype("<u2").tobytes(), (8, 8), **tags)

    write()
    with pytest.raises(DataError, match="holds 16-bit values that become at most 16 of 255: too few"):
        read_image(tmp_path / name)
    values[..., :-1] *= 16
    write()
    assert read_image(tmp_path / name).min() < 16


@pytest.mark.parametrize("channels", [1, 3])
def test_hot_pixels_do_not_make_a_picture_bright(tmp_path, channels):
    path = tmp_path / "sky.png"
    values = np.random.default_rng(0).integers(0, 4096, (40, 50, channels))
    values[3, 3] = 65535
    write_png(path, values, 16, 0 if channels == 1 else 2)
    with pytest.raises(DataError, match="at most 16 of 255 but for a few pixels"):
        read_image(path)
    values[20:22, 30] = 65535  # a star
    write_png(path, values, 16, 0 if channels == 1 else 2)
    assert read_image(path).max() == 255


def test_black_16_bit_picture(tmp_path):
    write_png(tmp_path / "x.png", np.zeros((4, 4), np.int64), 16)
    assert read_image(tmp_path / "x.png").max() == 0
    write_png(tmp_path / "x.png", np.zeros((4, 4, 3), np.int64), 16, 2)  # Pillow keeps only the upper 8 bits
    with pytest.raises(DataError, match=r"save them scaled to 8 bits \(a black picture too\)"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize(("largest", "refused"), [(65535, True), (4095, False), (255, False)])
def test_dark_16_bit_ppm_is_refused(tmp_path, magic, largest, refused):
    numbers = np.random.default_rng(0).integers(
        0, min(4096, largest + 1), (6, 15 if magic in ("P3", "P6") else 5)
    )
    numbers[0, 0] = min(4095, largest)
    plain = magic in ("P2", "P3")
    data = " ".join(map(str, numbers.ravel())).encode()
    if not plain:
        data = numbers.astype(">u2" if largest > 255 else "u1").tobytes()
    path = tmp_path / "picture.ppm"
    path.write_bytes(f"{magic}\n5 6\n{largest}\n".encode() + data)
    if refused:
        with pytest.raises(DataError, match="holds 16-bit values that become at most 16 of 255"):
            read_image(path)
    else:
        assert read_image(path).max() == 255


def test_16_bit_colour_keeps_the_high_byte(tmp_path):
    values = np.stack([RAMP, RAMP.T, RAMP[::-1]], -1).astype(np.int64)
    write_png(tmp_path / "x.png", values, 16, 2)
    assert np.array_equal(read_image(tmp_path / "x.png").permute(1, 2, 0).numpy(), values // 257)


def test_tiff_of_12_bits_has_4095_as_white(tmp_path):
    pairs = np.array([[0, 4095], [2048, 1024]])
    data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs.tolist())
    write_tiff(tmp_path / "x.tif", data, (2, 2), t258=(12,))
    assert grey(tmp_path / "x.tif").tolist() == [[0, 255], [128, 64]]


PLANES = np.arange(3 * 6 * 4).reshape(3, 6, 4) * 3


@pytest.mark.parametrize(
    ("tags", "dtype", "words"),
    [
        (dict(t262=(2,), t277=(3,), t284=(2,), t258=(16,) * 3, t279=(48,) * 3), "<u2", "plane after plane"),
        (dict(t284=(2,), t258=(16,)), "<u2", "plane after plane"),
        (dict(t258=(16,), t262=(0,)), "<u2", "inverted grey of more than 8 bits"),
        (dict(t258=(16,), t339=(2,)), "<i2", "integers of more than 16 bits or with a sign"),
        (dict(t258=(32,), t339=(2,)), "<i4", "integers of more than 16 bits or with a sign"),
        (dict(t258=(32,)), "<u4", "integers of more than 16 bits or with a sign"),
        (dict(t258=(32,), t339=(3,)), "<f4", "floating-point numbers"),
        (dict(t258=(8,), t339=(2,)), "<i1", "samples that are not unsigned integers"),
        (dict(t258=(8,), t254=(1,)), "<u1", "the small preview of another picture"),
        (dict(t258=(8,) * 4, t262=(2,), t277=(4,)), "<u1", "4 samples per pixel without saying what"),
        (dict(t258=(8,) * 3, t262=(6,), t277=(3,)), "<u1", "YCbCr with fewer samples of colour"),
        (dict(t258=(8,) * 3, t262=(8,), t277=(3,)), "<u1", "colours in CIELAB"),
    ],
)
def test_tiff_layouts_without_a_certain_meaning_are_refused(tmp_path, tags, dtype, words):
    path = tmp_path / "odd.tif"
    samples = tags.get("t277", (1,))[0]
    data = np.resize(PLANES * 50, (samples, 6, 4)).astype(dtype).tobytes()
    write_tiff(path, data, (6, 4), **tags)
    with pytest.raises(DataError, match=f"odd.tif holds .*{words}.*; convert it to a PNG or JPEG of 8 bits"):
        read_image(path)


def test_tiff_of_8_bits_plane_after_plane(tmp_path):
    tags = dict(t262=(2,), t277=(3,), t284=(2,), t258=(8,) * 3, t279=(24,) * 3)
    write_tiff(tmp_path / "x.tif", PLANES.astype(np.uint8).tobytes(), (6, 4), **tags)
    assert np.array_equal(read_image(tmp_path / "x.tif").numpy(), PLANES.astype(np.uint8))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("inverted", [False, True])
def test_tiff_of_few_bits(tmp_path, depth, inverted):
    values = np.arange(64).reshape(4, 16) % 2**depth
    bits = ((values[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(4, -1).astype(np.uint8)
    write_tiff(
        tmp_path / "x.tif",
        np.packbits(bits, axis=1).tobytes(),
        (4, 16),
        t258=(depth,),
        t262=(int(not inverted),),
    )
    expected = values * 255 // (2**depth - 1)
    assert np.array_equal(grey(tmp_path / "x.tif"), 255 - expected if inverted else expected)


@pytest.mark.parametrize("factor", [1, 257])
def test_tiff_palette_of_8_bits(tmp_path, factor):
    """Some old programs store colours 0 to 255, although 65535 is the maximum in TIFF."""
    colours = np.random.default_rng(0).integers(0, 256, (3, 256))
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tags = dict(t258=(8,), t262=(3,), t320=tuple((colours * factor).ravel().tolist()))
    write_tiff(tmp_path / "x.tif", values.tobytes(), (16, 16), **tags)
    assert np.array_equal(read_image(tmp_path / "x.tif").numpy(), colours[:, values])


def test_transparent_pixels_show_white(tmp_path):
    colours = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    seen = read_image(tmp_path / "x.png").permute(1, 2, 0)
    assert seen.tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    write_png(tmp_path / "p.png", np.array([[0, 1]]), 1, 3, chunk(b"tRNS", b"\xff\0"))
    assert read_image(tmp_path / "p.png").permute(1, 2, 0).tolist() == [[[0, 1, 2], [255, 255, 255]]]
    write_png(tmp_path / "g.png", np.array([[7, 8]]), 8, 0, chunk(b"tRNS", struct.pack(">H", 7)))
    assert grey(tmp_path / "g.png").tolist() == [[255, 8]]


def test_unsupported_transparency_is_refused(tmp_path):
    Image.new("RGBA", (3, 2)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png is transparent everywhere; save it without"):
        read_image(tmp_path / "x.png")
    for depth in (2, 4, 16):
        write_png(tmp_path / "g.png", np.array([[0, 1]]), depth, 0, chunk(b"tRNS", struct.pack(">H", 1)))
        with pytest.raises(DataError, match="a transparent colour among samples of 2, 4 or 16 bits"):
            read_image(tmp_path / "g.png")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_8_bits_agree_with_pillow(tmp_path, mode):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    Image.fromarray(colours).convert(mode).save(path)
    with Image.open(path) as file:
        expected = np.array(file.convert("RGB"))
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.tif", "x.webp"])
def test_file_of_several_pictures_is_refused(tmp_path, name):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 100)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"holds 2 pictures; save the one"):
        read_image(tmp_path / name)
    frames[1].save(tmp_path / name)
    assert abs(int(grey(tmp_path / name)[0, 0]) - 100) <= 1


def test_bmp_of_5_bits_per_colour_is_not_taken_for_16_bits(tmp_path):
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    (tmp_path / "x.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + header + bytes(4))
    assert read_image(tmp_path / "x.bmp").tolist() == [[[0, 0]]] * 3


def test_other_formats_and_folders_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.tga")
    (tmp_path / "empty.png").touch()
    for name, words in (
        ("x.tga", "not an image that Pillow can read as .*PNG.*; save it as PNG"),
        ("empty.png", r"\(it is empty\)"),
        (".", "is a folder; name an image file in it"),
        ("none.png", "cannot be read"),
    ):
        with pytest.raises(DataError, match=words):
            read_image(tmp_path / name)


@pytest.mark.parametrize("error", [struct.error("x"), KeyError(3), ZeroDivisionError(), AssertionError()])
def test_every_error_of_pillow_names_the_file(tmp_path, monkeypatch, error):
    Image.new("L", (4, 4)).save(tmp_path / "x.png")

    def fail(*_arguments):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    for read in (read_image, lambda path: read_label(path, 2)):
        with pytest.raises(
            DataError, match=rf"x\.png cannot be read \({re.escape(str(error) or type(error).__name__)}\)"
        ):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("exif", [None, 1, 6])
def test_damaged_pixels_are_refused(tmp_path, exif):
    """The search for an EXIF block after the pixels must not hide that the pixels are damaged."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.png"
    options = {} if exif is None else {"exif": damaged_exif(exif)}
    Image.fromarray(rng.integers(0, 2, (200, 200), np.uint8)).save(path, **options)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1000] = bytes(1000)
    path.write_bytes(data)
    for read in (read_image, lambda path: read_label(path, 2)):
        with pytest.raises(DataError, match=r"x\.png cannot be read .*; replace the file"):
            read(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_jpeg_with_an_interrupted_copy_is_refused(tmp_path, options):
    rng = np.random.default_rng(0)
    path = tmp_path / "x.jpg"
    thumbnail = b"Exif\0\0" + b"\xff\xd8\xff\xd9"  # an end marker before the pixels
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path, exif=thumbnail, **options)
    data = path.read_bytes()
    whole = read_image(path)
    for more in (bytes(5000), b"a camera's own data" + bytes(5000)):
        path.write_bytes(data + more)
        assert (read_image(path) == whole).all()
    for share in (0.3, 0.6, 0.95):
        kept = int(len(data) * share)
        path.write_bytes(data[:kept] + bytes(len(data) - kept))
        with pytest.raises(DataError, match=r"x\.jpg cannot be read \(.*\); replace the file"):
            read_image(path)


def test_errors_of_the_system_do_not_blame_the_file(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    Image.new("L", (4, 4)).save(path)

    def fail(error):
        def load(*_arguments):
            raise error

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)

    fail(MemoryError())
    with pytest.raises(MemoryError):
        read_image(path)
    fail(OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(DataError, match=r"Too many open files\); correct that and try again"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_damaged_exif_block_still_turns_the_picture(tmp_path, orientation):
    pixels = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels[::-1].T,
        7: pixels[::-1, ::-1].T,
        8: pixels.T[::-1],
    }[orientation]
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path, exif=damaged_exif(orientation))
    assert np.array_equal(grey(path), expected)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("x.tif", "x.webp"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif, lossless=True)
        assert np.array_equal(grey(tmp_path / name), expected)
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0II*\0garbage")
    assert np.array_equal(grey(path), pixels)


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_labels_keep_their_numbers_at_every_depth(tmp_path, depth, colour):
    if (depth, colour) == (16, 3):
        pytest.skip("a palette has at most 8 bits")
    classes = min(2**depth, 80)
    values = np.arange(2 * classes).reshape(2, -1) % classes
    path = tmp_path / "label.png"
    write_png(path, values, depth, colour)
    assert np.array_equal(read_label(path, classes).numpy(), values)
    write_png(path, values, depth, colour, chunk(b"tRNS", b"\0\1" if colour == 0 else b"\0"))
    assert np.array_equal(read_label(path, classes).numpy(), values)
    if classes > 2:
        with pytest.raises(DataError, match=rf"holds label value\(s\) {classes - 1} outside"):
            read_label(path, classes - 1)


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        ([0, 1, 2, 255], {"void_value": (0,), "label_offset": 1, "num_classes": 255}, [255, 0, 1, 254]),
        ([0, 1, 2, 255], {"void_value": (0, 255), "label_offset": 1}, [255, 0, 1, 255]),
        ([0, 1, 254, 1], {"void_value": (254,)}, [0, 1, 255, 1]),
        ([0, 1, 1, 0], {"void_value": ()}, [0, 1, 1, 0]),
        ([7, 8, 255, 7], {"label_offset": 7}, [0, 1, 255, 0]),
        ([1000, 65535, 1001, 1000], {"label_offset": 1000, "void_value": (65535,)}, [0, 255, 1, 0]),
    ],
)
def test_void_numbers_and_offset(tmp_path, stored, options, expected):
    write_png(tmp_path / "x.png", np.array([stored]), 16 if max(stored) > 255 else 8)
    options = {"num_classes": 2, **options}
    if options["num_classes"] == 255:
        with pytest.raises(
            DataError, match=r"label value\(s\) 0 outside the 255 classes \(1 to 255, 300 = void\)"
        ):
            read_label(tmp_path / "x.png", 255, void_value=(300,), label_offset=1)
    assert read_label(tmp_path / "x.png", **options).tolist() == [expected]


def test_numbers_outside_name_the_options(tmp_path):
    write_png(tmp_path / "x.png", np.array([[1, 2, 255]]), 8)
    words = r"x\.png holds label value\(s\) 2 outside the 2 classes \(0 to 1, 255 = void\)"
    with pytest.raises(DataError, match=f"{words}.* set --label-offset and --void-value"):
        read_label(tmp_path / "x.png", 2)


def test_large_numbers_are_named_as_stored(tmp_path):
    write_png(tmp_path / "x.png", np.array([[1, 1000, 65535]]), 16)
    with pytest.raises(DataError, match=r"x\.png holds label value\(s\) 1000, 65535 outside the 2 classes"):
        read_label(tmp_path / "x.png", 2)


def test_labels_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "x.png"
    for mode, words in (
        ("RGB", "mode RGB; a label is"),
        ("LA", "mode LA; a label is"),
        ("RGBA", "mode RGBA"),
    ):
        Image.new(mode, (4, 4)).save(path)
        with pytest.raises(DataError, match=f"{words}.*or put a colour table beside the labels"):
            read_label(path, 2)
    for kind in ("JPEG", "BMP", "TIFF"):
        Image.new("L", (4, 4)).save(path, kind)
        with pytest.raises(
            DataError, match=f"x.png holds {kind} data; save the label again from its source as PNG"
        ):
            read_label(path, 2)


def test_label_is_turned_by_its_own_tag(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png", exif=exif)
    label, orientation = read_numbers(tmp_path / "x.png")
    assert np.array_equal(label, values[::-1].T)
    assert orientation == 6


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_links_are_followed_but_not_in_loops(tmp_path):
    top, away = tmp_path / "top", tmp_path / "away"
    touch(top / "a.PNG", away / "b.jpe", away / "deep/c.tiff", top / "notes.txt", top / "d.heic")
    touch(top / ".hidden.png", top / "._a.png", top / ".ipynb_checkpoints/a.png")
    for link, target in (
        (top / "one", away),
        (top / "two", away),
        (top / "e.png", away / "b.jpe"),
        (top / "loop", top),
        (away / "back", away),
        (away / "deep/across", top),
    ):
        link.symlink_to(target)
    found, others = find_files(top, IMAGE_SUFFIXES)
    names = [path.relative_to(top).as_posix() for path in found]
    assert names == ["a.PNG", "e.png", "one/b.jpe", "one/deep/c.tiff", "two/b.jpe", "two/deep/c.tiff"]
    names = [path.relative_to(top).as_posix() for path in others]
    assert names == [
        *("d.heic", "loop", "notes.txt"),
        *(f"{link}/{name}" for link in ("one", "two") for name in ("back", "deep/across")),
    ]


def test_entries_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    (tmp_path / "city").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="city is a broken link; restore it"):
        find_files(tmp_path, (".png",))
    (tmp_path / "city").unlink()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png is neither a file nor a folder"):
        find_files(tmp_path, (".png",))
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "closed").mkdir()
    original = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"closed cannot be listed \(Permission denied\)"):
        find_files(tmp_path, (".png",))
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "closed")
