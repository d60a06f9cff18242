"""Finds and reads pictures and labels on disk, and refuses those that cannot be read reliably."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors

from difnet.data.errors import DataError
from difnet.data.files.layouts import raw_layout, refuse_cut_jpeg, refuse_frames, refuse_layout, to_rgb
from difnet.data.files.walk import walk

Image.init()
FORMATS = tuple(
    name
    for name in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
    if name in Image.OPEN  # builds of Pillow differ
)
"""Pillow's names of the formats that are read."""

IMAGE_SUFFIXES = tuple(
    sorted(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in FORMATS and suffix != ".pfm"  # floating-point numbers, which are always refused
    )
)
"""Endings of the names of image files, in lower case."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn that shows the stored pixels upright, by the value of the EXIF tag Orientation."""

QUARTER_TURNS = (5, 6, 7, 8)
"""The values of the tag that exchange height and width."""

_STRETCHED = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey of few bits by, by its name of the layout."""

_ORIENTATION = 274  # the number of the EXIF tag


def find_files(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Find the files that `list_files` finds, as sorted paths.

    Raises:
        DataError: as `list_files`.
    """
    found, others = list_files(folder, suffixes)
    return sorted(map(Path, found)), sorted(map(Path, others))


def list_files(folder: Path, suffixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Find the files below `folder` whose names end in one of `suffixes`, and everything else there.

    Links to folders are followed, but a link to a folder above itself is returned among the rest. Names that
    begin with a dot are ignored, because they belong to tools.

    Returns:
        The files and the rest, in no order. Of a hundred thousand files, objects of pathlib and their order
        would take seconds.

    Raises:
        DataError: a folder cannot be listed, or an entry is neither a file nor a folder.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be listed ({error.strerror}); make it readable or remove it"
        )

    found: list[str] = []
    others: list[str] = []
    endings = tuple(suffixes)
    for parent, names, circles in walk(folder, refuse):
        others += circles
        regular = {entry.name for entry in os.scandir(parent) if entry.is_file()}
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(parent, name)
            if name not in regular:
                kind = "a broken link" if os.path.islink(path) else "neither a file nor a folder"
                raise DataError(f"{path} is {kind}; restore it or remove it")
            (found if name.lower().endswith(endings) else others).append(path)
    return found, others


def read_image(path: str | Path) -> tv_tensors.Image:
    """Read an image as (3, H, W) uint8 RGB, turned upright by its EXIF tag; see `read_pixels`."""
    pixels, _ = read_pixels(path)
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def read_pixels(path: str | Path) -> tuple[np.ndarray, int]:
    """Read an image as (H, W, 3) uint8 RGB, upright, and the value of its EXIF tag Orientation.

    Integers of 12 and 16 bits are scaled so that the largest value of the type is white, as PNG and TIFF
    define it. Transparent pixels show white. Colour profiles are not applied.

    Raises:
        DataError: the file is missing, damaged, of another format, or of a layout that has no certain
            meaning in 8 bits; the message says how to save it.
    """
    with _opened(path) as file:
        layout = raw_layout(file)
        refuse_layout(path, file, layout)
        orientation = _orientation(file)
        file.load()
        refuse_cut_jpeg(path, file)
        pixels = np.array(_upright(to_rgb(path, file, layout), file, orientation))
    return pixels, orientation


def read_numbers(path: str | Path) -> tuple[np.ndarray, int]:
    """Read the numbers that a grey or palette PNG stores, upright, and its EXIF tag Orientation.

    Returns:
        (H, W) uint8, or int32 for a PNG of 16 bits; the numbers are the stored ones at every bit depth.

    Raises:
        DataError: the file cannot be read, or is not a grey or palette PNG.
    """
    with _opened(path) as file:
        if file.format != "PNG":
            raise DataError(
                f"{path} holds {file.format} data; save the label again from its source as PNG, which keeps "
                "every number (JPEG has already changed them)"
            )
        if file.mode not in ("1", "L", "P", "I;16"):
            raise DataError(
                f"{path} has mode {file.mode}; a label is a palette or grey PNG whose pixel value is the "
                "class index: save one channel if all are equal, or put a colour table beside the labels "
                "(--colours) if each colour means a class"
            )
        refuse_frames(path, file)
        layout, orientation = raw_layout(file), _orientation(file)
        file.load()
        stored = np.array(_upright(file, file, orientation))
    if layout in _STRETCHED:  # Pillow stretches 2-bit and 4-bit grey to 0 .. 255
        stored = stored // np.uint8(_STRETCHED[layout])
    return stored.astype(np.int32 if stored.dtype.itemsize > 1 else np.uint8), orientation


def read_colours(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a colour-coded mask as (H, W, 3) uint8 RGB, upright, and its EXIF tag Orientation.

    Raises:
        DataError: the file cannot be read, is partly transparent, or has more than 8 bits a sample.
    """
    with _opened(path) as file:
        layout, orientation = raw_layout(file), _orientation(file)
        refuse_layout(path, file, layout)
        if file.mode.startswith("I") or ";16" in layout:
            raise DataError(
                f"{path} has more than 8 bits a sample; the colours of a mask have 8, so save it as 8-bit RGB"
            )
        file.load()
        if file.has_transparency_data:
            seen = file.convert("RGBA")
            if np.array(seen.getchannel("A")).min() < 255:
                raise DataError(
                    f"{path} is transparent in places, where it has no colour; save it without its alpha "
                    "channel, with a colour of the table everywhere"
                )
        pixels = np.array(_upright(file.convert("RGB"), file, orientation))
    return pixels, orientation


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture for the block; every error that Pillow raises there becomes a `DataError`."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name an image file in it")
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise DataError(f"{path} is neither a file nor a folder; save the picture in a file")
    try:
        # Opened as a stream: given a name, Pillow 13 maps the file into memory, and then exchanges height and
        # width of a TIFF whose Orientation is a quarter turn.
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
        if error.errno is None:  # raised by Pillow because of the content of the file
            raise DataError(f"{path} cannot be read ({error}); replace the file") from error
        remedies = {errno.ENOENT: "name a file that exists", errno.EACCES: "make it readable"}
        remedy = remedies.get(error.errno, "correct that and try again")
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except Exception as error:  # for damaged files, Pillow's readers raise errors of nearly every type
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}); replace the file") from error


def _orientation(file: Image.Image) -> int:
    """Read the EXIF tag Orientation; 1 if there is none, or if it cannot be read."""
    if file.format == "PNG":
        file.load()  # the EXIF block may follow the pixels; damaged pixels raise an error here
    try:
        value = file.getexif().get(_ORIENTATION, 1)
    except Exception:  # the EXIF block is damaged, but the picture may be whole
        return 1
    return value if value in _TURNS else 1


def _upright(picture: Image.Image, file: Image.Image, orientation: int) -> Image.Image:
    if file.format == "TIFF" or orientation == 1:  # Pillow turns a TIFF as it loads it
        return picture
    # ImageOps.exif_transpose would also rewrite the EXIF block, which fails for damaged tags.
    return picture.transpose(_TURNS[orientation])
