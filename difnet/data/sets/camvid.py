"""CamVid in the 11-class, 480x360 form published with SegNet (Badrinarayanan et al., PAMI 2017).

The frames are Brostow et al.'s (Pattern Recognition Letters 2009). The data set is not part of this package.
"""

import numpy as np

from difnet.data.errors import DataError
from difnet.data.folder import Folder


class Camvid(Folder):
    """CamVid in the layout of `Folder`, with its own class names and colours.

    Raises:
        DataError: as in `Folder`, or classes.txt does not list the eleven classes in SegNet's order.
    """

    name = "camvid"
    options = ("snap_colours", "subset")
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
        super()._open()
        if tuple(self.classes) != self.CLASSES:
            raise DataError(
                f"{self.root / 'classes.txt'} lists {', '.join(self.classes)}; camvid has "
                f"{', '.join(self.CLASSES)} in this order. Use --dataset folder for other classes"
            )
        self.palette = np.array(self.COLOURS, np.uint8)
