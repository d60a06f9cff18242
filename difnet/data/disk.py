"""Pictures and labels on disk: found, read as they were meant, or refused with the remedy.

Pillow opens more layouts than it reads right, and converts some of them without a word (grey of 16 bits is
cut at 255, grey labels of 2 bits are stretched to 0, 85, 170, 255). So each layout is decided on here.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torchvision import tv_tensors

from difnet.data.base import VOID, DataError, listed

Image.init()
FORMATS = tuple(
    name
    for name in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
    if name in Image.OPEN  # builds of Pillow differ
)
"""The formats that are read, by Pillow's names."""

IMAGE_SUFFIXES = tuple(
    sorted(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in FORMATS and suffix != ".pfm"  # real numbers, which are never read
    )
)
"""How the names of image files end, in lower case."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What shows the stored pixels upright, by the value of the EXIF tag Orientation."""

QUARTER_TURNS = (5, 6, 7, 8)
"""The values of the tag that exchange height and width."""

_ORIENTATION, _SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 274, 254, 258, 259, 262, 266
_SAMPLES, _PLANES, _COLOURS, _EXTRA, _FORMAT, _SUBSAMPLING = 277, 284, 320, 338, 339, 530


def find_files(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Files below `folder` whose names end in one of `suffixes`, and whatever else is there.

    Links to folders are followed; one that leads back to a folder above it counts among the others. Names
    that begin with a dot are passed over: they belong to tools.

    Returns:
        Both sorted.

    Raises:
        DataError: a folder cannot be listed, or an entry is neither a file nor a folder.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be listed ({error.strerror}); make it readable or remove it"
        )

    found: list[Path] = []
    others: list[Path] = []
    above = {str(folder): {os.path.realpath(folder)}}  # of each folder: what it and those above really are
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        for name in [name for name in folders if not name.startswith(".")]:
            below = os.path.join(parent, name)
            real = os.path.realpath(below)
            if real in above[parent]:
                others.append(Path(below))
            else:
                above[below] = above[parent] | {real}
        folders[:] = [name for name in folders if os.path.join(parent, name) in above]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            if not path.is_file():
                kind = "a link to what does not exist" if path.is_symlink() else "neither a file nor a folder"
                raise DataError(f"{path} is {kind}; restore it or remove it")
            (found if path.suffix.lower() in suffixes else others).append(path)
    return sorted(found), sorted(others)


def read_image(path: Path) -> tv_tensors.Image:
    """Image file as (3, H, W) uint8 RGB, turned as its EXIF tag says; see `read_turned_image`."""
    return read_turned_image(path)[0]


def read_turned_image(path: Path) -> tuple[tv_tensors.Image, int]:
    """Image file as (3, H, W) uint8 RGB and the value of its EXIF tag Orientation, by which it was turned.

    Integers of 12 and 16 bits are scaled such that the largest one of the type is white, as PNG and TIFF
    define it. Transparent pixels show white. Colour profiles are not applied.

    Raises:
        DataError: the file is missing, damaged, of another format, or of a layout that has no certain
            meaning in 8 bits; the message says how to save it.
    """
    with _opened(path) as file:
        layout = _raw_layout(file)
        _refuse_layout(path, file, layout)
        orientation = _orientation(file)
        file.load()
        _refuse_cut_jpeg(path, file)
        pixels = np.array(_upright(_to_rgb(path, file, layout), file, orientation))
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous()), orientation


def read_turned_label(
    path: Path, num_classes: int, *, void_value: Sequence[int] = (VOID,), label_offset: int = 0
) -> tuple[tv_tensors.Mask, int]:
    """PNG as (H, W) uint8 class indices, 255 = void, and the value of the EXIF tag by which it was turned.

    The numbers count as the file stores them, at every depth of a grey or palette PNG.

    Args:
        path: the file.
        num_classes: k.
        void_value: the stored numbers that mean void.
        label_offset: the stored number of class 0; class c is stored as label_offset + c.

    Raises:
        DataError: unreadable, no PNG, in colours, or a number that is neither of a class nor void.
    """
    with _opened(path) as file:
        if file.format != "PNG":
            raise DataError(
                f"{path} holds {file.format} data; save the label as PNG, which keeps every number, from its "
                "source (JPEG has changed the numbers already)"
            )
        if file.mode not in ("1", "L", "P", "I;16"):
            raise DataError(
                f"{path} has mode {file.mode}; a label is a palette or grey PNG whose pixel value is the "
                "class index: save one channel where all are equal, or write in place of each colour the "
                "line of its class in classes.txt, counted from 0"
            )
        _refuse_frames(path, file)
        layout, orientation = _raw_layout(file), _orientation(file)
        file.load()
        stored = np.array(_upright(file, file, orientation)).astype(np.int64)
    # Pillow stretches grey of 2 and 4 bits to 0 .. 255: by exactly 85 and 17.
    stored //= {"L;2": 85, "L;4": 17}.get(layout, 1)
    void = np.isin(stored, void_value)
    index = np.where(void, VOID, stored - label_offset)
    strange = np.unique(stored[~void & ((index < 0) | (index >= num_classes))])
    if strange.size:
        shown, void_text = listed(list(map(str, strange))), ", ".join(map(str, void_value)) or "no number"
        raise DataError(
            f"{path} holds label value(s) {shown} outside the {num_classes} classes "
            f"({label_offset} to {label_offset + num_classes - 1}, {void_text} = void); correct the label, "
            "add the class to classes.txt, or give --label-offset and --void-value as labels are numbered"
        )
    return tv_tensors.Mask(torch.from_numpy(index.astype(np.uint8))), orientation


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file, for as long as Pillow needs it; whatever Pillow raises becomes a `DataError`."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; name an image file in it")
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise DataError(f"{path} is neither a file nor a folder; save the picture in a file")
    try:
        # Not by its name: Pillow 13 would map the file into memory, with height and width exchanged where a
        # TIFF has a quarter turn in its Orientation.
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as file:
            yield file
    except DataError:
        raise
    except UnidentifiedImageError as error:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DataError(
            f"{path} is not an image that Pillow can read as {kinds}"
            + (
                " (it is empty); replace the file"
                if path.stat().st_size == 0
                else "; save it as PNG or replace it"
            )
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large ({error}); cut it into smaller pictures") from error
    except MemoryError:
        raise
    except OSError as error:
        if error.errno is None:  # Pillow's own, of what the file holds
            raise DataError(f"{path} cannot be read ({error}); replace the file") from error
        remedies = {errno.ENOENT: "name a file that exists", errno.EACCES: "make it readable"}
        remedy = remedies.get(error.errno, "see to that and try again")
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except Exception as error:  # on damaged files Pillow's readers raise errors of nearly every type
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}); replace the file") from error


def _raw_layout(file: Image.Image) -> str:
    """Pillow's name for the stored samples, such as "RGB;16B"; the mode hides their depth."""
    arguments = file.tile[0].args if file.tile else None  # type: ignore[attr-defined]
    if file.format == "PPM" and isinstance(arguments, tuple) and arguments[-1] > 255:  # the largest number
        return f"{file.mode};16"
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return layout if isinstance(layout, str) else file.mode


def _bits(layout: str) -> int:
    """12 or 16 where a sample has that many bits, else 8; "BGR;16" is a BMP with 16 bits for all three."""
    if ";12" in layout:
        return 12
    return 16 if ";16" in layout and not layout.startswith("BGR") else 8


def _orientation(file: Image.Image) -> int:
    """EXIF tag Orientation; 1 where there is none, or none that can be read."""
    if file.format == "PNG":
        file.load()  # the EXIF block may follow the pixels; damaged pixels are an error of their own
    try:
        value = file.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block: the picture itself may be whole
        return 1
    return value if value in _TURNS else 1


def _upright(picture: Image.Image, file: Image.Image, orientation: int) -> Image.Image:
    if file.format == "TIFF" or orientation == 1:  # Pillow turns a TIFF as it loads it
        return picture
    # Not ImageOps.exif_transpose: it writes the EXIF block anew, which fails on damaged tags.
    return picture.transpose(_TURNS[orientation])


def _refuse_frames(path: Path, file: Image.Image) -> None:
    # The pictures after the first of an MPO are the camera's previews.
    count = getattr(file, "n_frames", 1)
    if count > 1 and file.format != "MPO":
        raise DataError(f"{path} holds {count} pictures; save the one to be read as a file of its own")


def _refuse_layout(path: Path, file: Image.Image, layout: str) -> None:
    """Refuse what has no certain meaning in 8 bits, and what Pillow is known to read wrong."""
    _refuse_frames(path, file)
    kind = None
    if file.mode == "F":
        kind = "real numbers, for which no scale to 8 bits is certain"
    elif file.mode == "I" and file.format != "PPM":
        kind = "integers of more than 16 bits or with a sign, for which no scale to 8 bits is certain"
    elif file.mode == "LAB":
        kind = "colours in CIELAB, which are no RGB"
    elif "transparency" in file.info and (layout in ("L;2", "L;4") or _bits(layout) > 8):
        # Pillow 13 compares the stored transparent value with the stretched or cut pixel.
        kind = "a transparent colour among samples of 2, 4 or 16 bits"
    elif isinstance(file, TiffImagePlugin.TiffImageFile):
        kind = _strange_tiff(file)
    if kind is not None:
        raise DataError(f"{path} holds {kind}; convert it to a PNG or JPEG of 8 bits")


def _strange_tiff(file: TiffImagePlugin.TiffImageFile) -> str | None:
    """What makes a TIFF one that Pillow 13 opens but reads wrong, None where nothing does."""
    tags = file.tag_v2
    bits, photometric = set(tags.get(_BITS, (1,))), tags.get(_PHOTOMETRIC, 0)
    samples, extra = tags.get(_SAMPLES, 1), tuple(tags.get(_EXTRA, ()))
    if tags.get(_SUBFILE, 0) & 1:
        return "the small preview of another picture, as raw photographs do"
    if set(tags.get(_FORMAT, (1,))) != {1}:
        return "samples that are not unsigned integers"
    if photometric == 0 and max(bits) > 8:
        return "inverted grey of more than 8 bits"
    if photometric == 2 and samples > 3 and not extra:
        return f"{samples} samples a pixel without a word on what those after the third are"
    if (
        photometric == 6
        and tags.get(_COMPRESSION, 1) == 1
        and tuple(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1)
    ):
        return "uncompressed YCbCr with fewer samples of colour than of brightness"
    plain = (photometric, samples, extra) in ((1, 1, ()), (2, 3, ()), (2, 4, (2,)), (5, 4, ()))
    if tags.get(_PLANES, 1) == 2 and not (plain and bits == {8} and tags.get(_FILL_ORDER, 1) == 1):
        return "its samples plane after plane in a layout other than 8-bit grey, RGB, RGBA or CMYK"
    return None


def _refuse_cut_jpeg(path: Path, file: Image.Image) -> None:
    """Refuse a JPEG that ends in zeros before its end marker, as an interrupted copy leaves it.

    libjpeg decodes the zeros and only warns, which Pillow does not pass on.
    """
    if file.format not in ("JPEG", "MPO"):
        return
    with path.open("rb") as raw:
        raw.seek(-min(16, path.stat().st_size), os.SEEK_END)
        if raw.read() != bytes(16):
            return
    data = path.read_bytes()
    end = 2
    # Each marker, and past it the segment whose length follows; the coded pixels after a segment hold only
    # markers that are left out here.
    while (marker := re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]").search(data, end)) is not None:
        if marker[0] == b"\xff\xd9":
            return
        end = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise DataError(f"{path} cannot be read (zeros stand where its end should be); replace the file")


def _refuse_dark(path: Path, numbers: np.ndarray, white: int, bits: int) -> None:
    """Refuse pixels (..., channels) of more than 8 bits of which 8 bits would leave too few levels.

    Single hot pixels of a sensor make no picture bright: one in 100,000 does not count, nor one alone. The
    stars of a night sky are more than that.
    """
    bright = (numbers > white * (16.5 / 255.0)).any(axis=-1)
    hot = max(bright.size // 100_000, 1) if bright.size >= 1000 else 0
    if np.count_nonzero(bright) <= hot:
        but = " but for a few pixels" if bright.any() else ""
        raise DataError(
            f"{path} holds numbers of {bits} bits that become at most 16 of 255{but}: too few of the 256 "
            "levels of 8 bits would be left. Multiply them by what fills the range (by 16 for a camera of 12 "
            "bits in 16), or save them scaled to 8 bits (a black picture too)"
        )


def _to_rgb(path: Path, file: Image.Image, layout: str) -> Image.Image:
    """The picture on white, `file` being loaded; refused where it is dark or nothing is to be seen."""
    bits = _bits(layout)
    if file.mode.startswith("I"):  # a transparent value was refused before
        stored, white = np.array(file), 4095 if bits == 12 else 65535
        if bits > 8 and stored.any():  # a black frame is black in 8 bits too
            _refuse_dark(path, stored[..., None], white, bits)
        return Image.fromarray(np.round(stored * (255.0 / white)).astype(np.uint8)).convert("RGB")
    if isinstance(file, TiffImagePlugin.TiffImageFile) and file.mode in ("P", "PA"):
        colours = np.array(file.tag_v2[_COLOURS])
        if colours.max() <= 255:  # written in 8 bits where TIFF has 16, of which Pillow takes the upper 8
            file.putpalette(colours.astype(np.uint8).reshape(3, -1).T.tobytes())
    if not file.has_transparency_data:
        rgb = file.convert("RGB")
        if bits > 8:
            _refuse_dark(path, np.array(rgb), 255, bits)
        return rgb
    seen = (file.convert("LA") if file.mode == "La" else file).convert("RGBA")
    if seen.getchannel("A").getextrema()[1] == 0:
        raise DataError(f"{path} is transparent everywhere; save it without its alpha channel")
    if bits > 8:
        pixels = np.array(seen)
        _refuse_dark(path, pixels[pixels[..., 3] > 0, :3], 255, bits)
    ground = Image.new("RGBA", seen.size, "white")
    ground.alpha_composite(seen)
    return ground.convert("RGB")
