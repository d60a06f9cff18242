"""Draws items with their labels: one picture of an item, and a sheet of thumbnails of many."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from difnet.data.base import SegmentationDataset
from difnet.data.errors import DataError
from difnet.utils.pictures import overlay, side_by_side, to_array

_WIDTH = 320
"""Width of a thumbnail in pixels: image and label side by side."""


def thumbnail(dataset: SegmentationDataset, index: int) -> Image.Image:
    """Draw an item small: its image, and beside it the label over the image."""
    try:
        image, label = dataset.read(index)
    except DataError:
        return Image.new("RGB", (_WIDTH, _WIDTH // 3), "darkred")
    plain = Image.fromarray(to_array(image))
    labelled = overlay(image, label, dataset.palette, opacity=0.6)
    size = (_WIDTH // 2 - 2, max(1, round((_WIDTH // 2 - 2) * plain.height / plain.width)))
    return side_by_side(*(picture.resize(size, Image.Resampling.BILINEAR) for picture in (plain, labelled)))


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = 4) -> Image.Image:
    """Draw pictures with a caption below each on one sheet."""
    font = ImageFont.load_default(11)
    texts = ["\n".join(_wrapped(caption, font, _WIDTH)) for caption in captions]
    cells = []
    for picture, text in zip(pictures, texts, strict=True):
        cell = Image.new("RGB", (_WIDTH, picture.height + 14 * (text.count("\n") + 1) + 8), "white")
        cell.paste(picture.convert("RGB"), (0, 0))
        ImageDraw.Draw(cell).multiline_text((0, picture.height + 2), text, "black", font, spacing=2)
        cells.append(cell)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    page = Image.new("RGB", (min(len(cells), columns) * (_WIDTH + 8), sum(heights) + 8 * len(rows)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for place, cell in enumerate(row):
            page.paste(cell, (place * (_WIDTH + 8), top))
        top += height + 8
    return page


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += [word[start : start + 40] for start in range(0, len(word), 40)]
    return [line for line in lines if line]


def as_html(title: str, text: str, pictures: Sequence[Image.Image], captions: Sequence[str]) -> str:
    """Return a page of HTML, without other files: the text, then the pictures with their captions."""
    figures = []
    for picture, caption in zip(pictures, captions, strict=True):
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        figures.append(
            f'<figure style="display:inline-block;margin:4px;width:{picture.width}px;vertical-align:top">'
            f'<img src="data:image/png;base64,{data}" alt=""><figcaption>{html.escape(caption)}</figcaption>'
            "</figure>"
        )
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<body style="font-family:sans-serif"><h1>{html.escape(title)}</h1>\n'
        f"<pre>{html.escape(text)}</pre>\n{''.join(figures)}\n</body></html>\n"
    )
    return page.encode("utf-8", "backslashreplace").decode()  # names of files may be no text


def legend(dataset: SegmentationDataset, present: np.ndarray) -> Image.Image:
    """Draw the colours and names of the classes `present`, and their share of the pixels.

    Args:
        dataset: the classes and their palette.
        present: (256,) number of pixels of each class, and at 255 of void.
    """
    font = ImageFont.load_default(12)
    order = [int(index) for index in np.argsort(-present, kind="stable") if present[index]]
    names = {index: dataset.classes[index] if index < len(dataset.classes) else "void" for index in order}
    total = present.sum()
    lines = [(index, f"{names[index]}  {100 * present[index] / total:.1f} %") for index in order]
    width = int(max((font.getlength(text) for _, text in lines), default=0)) + 32
    picture = Image.new("RGB", (width, 18 * len(lines) + 4), "white")
    pen = ImageDraw.Draw(picture)
    for row, (index, text) in enumerate(lines):
        colour = tuple(map(int, dataset.palette[index])) if index < len(dataset.classes) else (0, 0, 0)
        pen.rectangle((2, 18 * row + 3, 16, 18 * row + 16), colour, "black")
        pen.text((24, 18 * row + 2), text, "black", font)
    return picture
