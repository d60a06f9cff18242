"""Label maps as pictures."""

import numpy as np
import torch
from PIL import Image

from difnet.utils.pictures import colour_labels, overlay, side_by_side

PALETTE = np.array([[200, 0, 0], [0, 100, 0]], np.uint8)
LABEL = torch.tensor([[0, 1, 255]])


def test_palette_picture_survives_the_disk(tmp_path):
    colour_labels(LABEL, PALETTE).save(tmp_path / "label.png")
    picture = Image.open(tmp_path / "label.png")
    assert picture.mode == "P"
    assert np.array(picture).tolist() == [[0, 1, 255]]
    assert np.array(picture.convert("RGB")).tolist() == [[[200, 0, 0], [0, 100, 0], [0, 0, 0]]]


def test_overlay_mixes_labelled_pixels_only():
    grey = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    expected = [[[150, 50, 50], [50, 100, 50], [100, 100, 100]]]
    assert np.array(overlay(grey, LABEL, PALETTE)).tolist() == expected
    assert np.array(overlay(grey.float() / 255, LABEL, PALETTE)).tolist() == expected


def test_side_by_side():
    sheet = side_by_side(Image.new("RGB", (3, 2), "red"), Image.new("L", (2, 2), 7), gap=1)
    assert sheet.size == (6, 2)
    assert sheet.getpixel((2, 0)) == (255, 0, 0)
    assert sheet.getpixel((3, 0)) == (255, 255, 255)
    assert sheet.getpixel((4, 1)) == (7, 7, 7)
