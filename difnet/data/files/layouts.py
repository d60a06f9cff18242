"""Stored layouts of pictures: which are converted to 8-bit RGB, and which are refused.

Pillow opens more layouts than it reads correctly, and converts some silently: it clips 16-bit grey at 255,
and stretches 2-bit grey labels to 0, 85, 170, 255. So this module decides about each layout.
"""

import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from difnet.data.errors import DataError

# Numbers of TIFF tags.
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES = 254, 258, 259, 262, 266, 277
_PLANES, _COLOURS, _EXTRA, _FORMAT, _SUBSAMPLING = 284, 320, 338, 339, 530


def raw_layout(file: Image.Image) -> str:
    """Return Pillow's name for the stored samples, such as "RGB;16B"; the mode does not show their depth."""
    arguments = file.tile[0].args if file.tile else None  # type: ignore[attr-defined]
    if file.format == "PPM" and isinstance(arguments, tuple) and arguments[-1] > 255:  # the maximum value
        return f"{file.mode};16"
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return layout if isinstance(layout, str) else file.mode


def _bits(layout: str) -> int:
    """Bits per sample: 12, 16, or else 8. "BGR;16" is a BMP with 16 bits for all three samples."""
    if ";12" in layout:
        return 12
    return 16 if ";16" in layout and not layout.startswith("BGR") else 8


def refuse_frames(path: str | Path, file: Image.Image) -> None:
    """Refuse a file of several pictures."""
    # In an MPO, the pictures after the first are the camera's previews.
    count = getattr(file, "n_frames", 1)
    if count > 1 and file.format != "MPO":
        raise DataError(f"{path} holds {count} pictures; save the one to be read as a separate file")


def refuse_layout(path: str | Path, file: Image.Image, layout: str) -> None:
    """Refuse layouts without a certain meaning in 8 bits, and layouts that Pillow reads incorrectly."""
    refuse_frames(path, file)
    kind = None
    if file.mode == "F":
        kind = "floating-point numbers, whose scale to 8 bits is not known"
    elif file.mode == "I" and file.format != "PPM":
        kind = "integers of more than 16 bits or with a sign, whose scale to 8 bits is not known"
    elif file.mode == "LAB":
        kind = "colours in CIELAB instead of RGB"
    elif "transparency" in file.info and (layout in ("L;2", "L;4") or _bits(layout) > 8):
        # Pillow 13 compares the stored transparent value with the stretched or truncated pixel.
        kind = "a transparent colour among samples of 2, 4 or 16 bits"
    elif isinstance(file, TiffImagePlugin.TiffImageFile):
        kind = _strange_tiff(file)
    if kind is not None:
        raise DataError(f"{path} holds {kind}; convert it to a PNG or JPEG of 8 bits")


def _strange_tiff(file: TiffImagePlugin.TiffImageFile) -> str | None:
    """Say what makes a TIFF one that Pillow 13 opens but reads incorrectly; None if nothing does."""
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
        return f"{samples} samples per pixel without saying what those after the third are"
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


def refuse_cut_jpeg(path: str | Path, file: Image.Image) -> None:
    """Refuse a JPEG that ends in zeros before its end marker, as an interrupted copy leaves it.

    libjpeg decodes the zeros with a warning, which Pillow does not pass on.
    """
    if file.format not in ("JPEG", "MPO"):
        return
    with open(path, "rb") as raw:
        raw.seek(-min(16, os.path.getsize(path)), os.SEEK_END)
        if raw.read() != bytes(16):
            return
    data = Path(path).read_bytes()
    end = 2
    # Find each marker, and skip the segment after it by its length. The coded pixels after a segment contain
    # only markers that the pattern excludes.
    while (marker := re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]").search(data, end)) is not None:
        if marker[0] == b"\xff\xd9":
            return
        end = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise DataError(f"{path} cannot be read (zeros stand where its end should be); replace the file")


def _refuse_dark(path: str | Path, numbers: np.ndarray, white: int, bits: int) -> None:
    """Refuse pixels (..., channels) of more than 8 bits that would have too few levels in 8 bits.

    Hot pixels of a sensor do not make a picture bright, so one in 100,000 is ignored, and in small pictures a
    single one. The stars of a night sky are more than that.
    """
    bright = (numbers > white * (16.5 / 255.0)).any(axis=-1)
    hot = max(bright.size // 100_000, 1) if bright.size >= 1000 else 0
    if np.count_nonzero(bright) <= hot:
        but = " but for a few pixels" if bright.any() else ""
        raise DataError(
            f"{path} holds {bits}-bit values that become at most 16 of 255{but}: too few of the 256 levels "
            "of 8 bits would remain. Multiply them so that they fill the range (by 16 for a 12-bit camera in "
            "16 bits), or save them scaled to 8 bits (a black picture too)"
        )


def to_rgb(path: str | Path, file: Image.Image, layout: str) -> Image.Image:
    """Convert a loaded picture to 8-bit RGB on white; refuse one that is too dark or fully transparent."""
    bits = _bits(layout)
    if file.mode.startswith("I"):  # `refuse_layout` has refused those with a transparent value
        stored, white = np.array(file), 4095 if bits == 12 else 65535
        if bits > 8 and stored.any():  # a black picture stays black in 8 bits
            _refuse_dark(path, stored[..., None], white, bits)
        return Image.fromarray(np.round(stored * (255.0 / white)).astype(np.uint8)).convert("RGB")
    if isinstance(file, TiffImagePlugin.TiffImageFile) and file.mode in ("P", "PA"):
        colours = np.array(file.tag_v2[_COLOURS])
        if colours.max() <= 255:  # 8-bit colours where TIFF has 16 bits, of which Pillow takes the upper 8
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
