"""Cityscapes (Cordts et al., CVPR 2016): 19 classes of streets, 2,975 and 500 finely labelled images.

Names, numbers and colours: mcordts/cityscapesScripts (cityscapesscripts/helpers/labels.py). Numbers of
images: its README. The data set is not part of this package.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np

from difnet.data.errors import VOID, DataError, listed
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.dataset import FileDataset
from difnet.data.items.index import Numbering
from difnet.data.items.item import Item
from difnet.data.sets.published import MaskLabel, check_count, first_folder, required_folder
from difnet.data.sets.voc import found_files

COUNTS = {"train": 2975, "val": 500}
CLASSES: dict[str, tuple[int, tuple[int, int, int]]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
"""The number in labelIds and the colour of each class, in the order of trainIds."""

_REMEDY = "take the file from the published archive again, or use --dataset folder for other classes"
IDS = Numbering(
    dict.fromkeys(range(34), VOID) | {number: index for index, (number, _) in enumerate(CLASSES.values())},
    "which labelIds of Cityscapes do not have (0 to 33)",
    _REMEDY,
)
TRAIN_IDS = Numbering(
    {index: index for index in range(len(CLASSES))} | {VOID: VOID},
    "which labelTrainIds of Cityscapes do not have (0 to 18 are the classes, 255 is void)",
    _REMEDY,
)
_IMAGE, _IDS, _TRAIN_IDS, _COLOUR = (
    "_leftImg8bit",
    "_gtFine_labelIds",
    "_gtFine_labelTrainIds",
    "_gtFine_color",
)


class Cityscapes(FileDataset):
    """The finely labelled part of Cityscapes.

    Labels are ``_gtFine_labelIds.png``, as in the download, or where these are missing,
    ``_gtFine_labelTrainIds.png``, which a script of the publisher makes from them.

    Args:
        root: the folder with ``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` and
            ``gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png``, or the one that holds it as "cityscapes".
        split, transform, reading: see `FileDataset`.

    Raises:
        DataError: a folder or label is missing, the files are an annotation tool's export, or the number of
            images is not the published one and --subset is not given.
    """

    name = "cityscapes"
    options: ClassVar[tuple[str, ...]] = ("subset",)
    layout = "a folder with leftImg8bit/train, leftImg8bit/val, gtFine/train and gtFine/val"
    void_text = "255"

    def _open(self) -> None:
        base = first_folder(self.root, ("", "cityscapes", "Cityscapes"), "gtFine") or self.root
        _refuse_export(base)
        self.classes = list(CLASSES)
        self.palette = np.array([colour for _, colour in CLASSES.values()], np.uint8)
        folders = [base / kind / self.split for kind in ("leftImg8bit", "gtFine")]
        for folder in folders:
            required_folder(folder, self.layout)
        pictures = found_files(folders[0], IMAGE_SUFFIXES, self.layout)
        images = {name: path for name, path in pictures.items() if name.endswith(_IMAGE)}
        if not images:
            raise DataError(
                f"{folders[0]} holds no CITY/NAME{_IMAGE}.png; the data are read from {self.layout}"
            )
        labels = found_files(folders[1], (".png",), self.layout)
        self.items, missing = [], []
        for name, image in sorted(images.items()):
            frame = name.removesuffix(_IMAGE)
            for ending, numbering in ((_IDS, IDS), (_TRAIN_IDS, TRAIN_IDS)):
                if (path := labels.get(frame + ending)) is not None:
                    self.items.append(Item(name, image, MaskLabel(path, numbering)))
                    break
            else:
                missing.append(frame)
        self._check_files(folders, {name.removesuffix(_IMAGE) for name in images}, missing, labels)
        check_count(len(images), COUNTS[self.split], self.split, str(folders[0]), self.reading.subset)
        trained = sum(Path(item.label.files[0]).stem.endswith(_TRAIN_IDS) for item in self.items)
        if trained:
            self.notes.append(f"{trained} labels are labelTrainIds, because their labelIds are missing")
        self.void_text = "255" if trained == len(self.items) else "a number that is not evaluated"

    def _check_files(
        self, folders: list[Path], frames: set[str], missing: list[str], labels: dict[str, str]
    ) -> None:
        """Refuse images without a label, and labels without an image."""
        coloured = [frame for frame in missing if frame + _COLOUR in labels]
        if coloured:
            raise DataError(
                f"{folders[1]} has only {_COLOUR}.png for {len(coloured)} of {len(frames)} images "
                f"({listed(coloured)}), and its colours do not tell the classes apart (pole and polegroup "
                f"share one, and so do car and license plate); add {_IDS}.png from the archive "
                "gtFine_trainvaltest"
            )
        if missing:
            raise DataError(
                f"{folders[1]} has neither NAME{_IDS}.png nor NAME{_TRAIN_IDS}.png for {len(missing)} of "
                f"{len(frames)} images ({listed(missing)}); add the labels, or remove the images and give "
                "--subset"
            )
        marked = {name.removesuffix(_IDS) for name in labels if name.endswith(_IDS)}
        if alone := sorted(marked - frames):
            raise DataError(
                f"{folders[0]} lacks the images of {len(alone)} labels in {folders[1]} ({listed(alone)}); "
                "add them, or remove the labels and give --subset"
            )


_SIGNS = ("label_colors.txt", "dataset_meta.json", "imgsFine")
"""What the download does not have."""


def _refuse_export(base: Path) -> None:
    """Refuse what CVAT and Datumaro export as Cityscapes: their numbers are positions in their own list."""
    signs = [folder / name for folder in (base, base / "gtFine") for name in _SIGNS]
    if sign := next((path for path in signs if path.exists()), None):
        raise DataError(
            f"{sign} shows that this is an annotation tool's export in the format Cityscapes, whose labelIds "
            "are positions in the tool's own list and not Cityscapes' numbers; export it as 'Segmentation "
            "mask 1.1' and use --dataset folder"
        )
