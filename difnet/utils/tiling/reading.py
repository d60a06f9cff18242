"""Reads images of more pixels than Pillow's limit."""

import warnings
from pathlib import Path

from PIL import Image
from torch import Tensor

from difnet.data.errors import DataError
from difnet.data.files.disk import read_image


def read_large_image(path: Path, max_pixels: int | None, *, expected: bool) -> Tensor:
    """Read an image of up to `max_pixels`, (3, H, W) uint8; None stands for Pillow's limit.

    `expected` says that a large image is no surprise, so that Pillow need not warn of it. Nor need it if the
    limit is given.

    Raises:
        DataError: the image is larger, or cannot be read.
    """
    limit = Image.MAX_IMAGE_PIXELS
    remedy = "or raise --max-pixels if you trust the file"
    with warnings.catch_warnings():
        if expected or max_pixels is not None:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            if max_pixels is not None:
                Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # Pillow refuses more than twice as many
            image = read_image(path)
        except DataError as error:
            if not isinstance(error.__cause__, Image.DecompressionBombError):
                raise
            raise DataError(f"{error}, {remedy}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    pixels = image.shape[1] * image.shape[2]
    if max_pixels is not None and pixels > max_pixels:  # by one, if the limit is odd
        raise DataError(f"{path} is too large ({pixels} pixels); cut it into smaller pictures, {remedy}")
    return image
