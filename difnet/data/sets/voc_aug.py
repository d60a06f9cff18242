"""Pascal VOC 2012 with the labels of the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011).

The training set has 10,582 images: (VOC train, SBD train and SBD val together) without VOC val. Rule and
number are those of open-mmlab/mmsegmentation (tools/dataset_converters/voc_aug.py) and of the list in
VainF/DeepLabV3Plus-Pytorch (datasets/data/train_aug.txt). The fields of SBD's .mat files are described in its
README and read alike by torchvision (datasets/sbd.py) and the converters.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from difnet.data.errors import DataError, listed
from difnet.data.items.index import Numbering
from difnet.data.items.item import FilePath, Label, LabelMap, Picture
from difnet.data.sets.published import MaskLabel, check_count, listed_files, read_names
from difnet.data.sets.voc import COUNTS, NUMBERING, TABLE, Voc, found_files

TRAIN = 10582
OTHER_TRADITION = 11127
"""Images of lists that leave out only the 736 images of seg11valid."""

_LISTS = tuple(
    f"{folder}{name}"
    for folder in ("ImageSets/Segmentation/", "ImageSets/SegmentationAug/", "SegmentationClassAug/", "")
    for name in ("trainaug.txt", "train_aug.txt")
)
_SBD_FOLDERS = tuple(
    f"{outer}{inner}"
    for outer in ("", "SBD/", "sbd/", "../", "../SBD/", "../sbd/")
    for inner in ("", "benchmark_RELEASE/dataset", "dataset")
)


@dataclass(frozen=True)
class MatLabel(Label):
    """A file cls/NAME.mat of SBD: the struct GTcls, whose field Segmentation holds (H, W) numbers."""

    path: FilePath
    numbering: Numbering

    @property
    def files(self) -> tuple[FilePath, ...]:
        return (self.path,)

    def read(self, picture: Picture) -> LabelMap:
        from scipy.io import loadmat  # here, because its import takes long and few data sets need it

        try:
            content = loadmat(str(self.path), variable_names=["GTcls"], squeeze_me=True)
            stored = np.atleast_2d(np.asarray(content["GTcls"]["Segmentation"].item()))
            numbers = stored.astype(np.int64)
            same = stored.ndim == 2 and np.array_equal(numbers, stored)
        except MemoryError:
            raise
        except Exception as error:  # for damaged files, scipy raises errors of many types
            reason = str(error) or type(error).__name__
            raise DataError(
                f"{self.path} does not hold the struct GTcls with the field Segmentation, as the files in "
                f"SBD's folder cls do ({reason}); take the file from the published archive again"
            ) from error
        if not same or numbers.min(initial=0) < 0:
            raise DataError(
                f"{self.path} holds a Segmentation of shape {stored.shape} and type {stored.dtype}, and SBD "
                "has one whole number from 0 to 20 a pixel; take the file from the published archive again"
            )
        return LabelMap(self.numbering.classes_of(numbers, self.path))


class _Source(NamedTuple):
    """Where the added labels are, and the training images.

    Attributes:
        labels: the added label files by name.
        folder: their folder.
        names: the training images.
        text: what listed them, for messages.
    """

    labels: dict[str, str]
    folder: Path
    names: list[str]
    text: str


class VocAug(Voc):
    """The augmented training set of VOC 2012, with VOC's own validation split.

    The added labels are those of a folder SegmentationClassAug in VOC2012 (with or without 255), else the
    .mat files of SBD's release (in VOC2012, in the data root, in a folder SBD or benchmark_RELEASE there, or
    beside it). An image that VOC labels itself keeps VOC's label, which has a void border.

    Args:
        root: as for `Voc`.
        split, transform, reading: see `FileDataset`.

    Raises:
        DataError: as for `Voc`; or no added labels are found, or the training list holds images of VOC's
            validation split.
    """

    name = "voc-aug"
    layout = (
        "the folder of voc, with SegmentationClassAug beside SegmentationClass, or SBD's benchmark_RELEASE"
    )

    def _open(self) -> None:
        if self.split == "val":
            super()._open()
            return
        base = self._describe()
        lists = {it: base / "ImageSets" / "Segmentation" / f"{it}.txt" for it in ("train", "val")}
        own, val = (read_names(lists[it], self.layout, self.notes) for it in ("train", "val"))
        check_count(len(val), COUNTS["val"], "val", str(lists["val"]), self.reading.subset)
        source = self._from_folder(base, own, val) or self._from_sbd(base, own, val)
        self._check_names(source, val)
        folder = base / "SegmentationClass"
        published = found_files(folder, (".png",), self.layout)
        added = [name for name in source.names if name not in published]
        listed_files(added, source.labels, source.folder, source.text)
        labels: dict[str, Label] = {}
        for name in source.names:
            if name in published:
                labels[name] = MaskLabel(published[name], NUMBERING, TABLE)
            elif source.labels[name].endswith(".mat"):
                labels[name] = MatLabel(source.labels[name], NUMBERING)
            else:
                labels[name] = MaskLabel(source.labels[name], NUMBERING, TABLE)
        self.items = self._items(base, labels, source.text)
        self.notes.append(
            f"{len(labels) - len(added)} labels are VOC's own ({folder}), {len(added)} are from "
            f"{source.folder}"
        )

    def _from_folder(self, base: Path, own: list[str], val: list[str]) -> _Source | None:
        """Take the labels of SegmentationClassAug, and the list beside it or the files themselves."""
        folder = base / "SegmentationClassAug"
        if not folder.is_dir():
            return None
        if (sbd := _sbd_folder(self.root, base)) is not None:
            self.notes.append(f"{folder} and {sbd} are both there; the added labels are from the first")
        labels = found_files(folder, (".png",), self.layout)
        places = [root / name for root in dict.fromkeys((base, self.root)) for name in _LISTS]
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            return _Source(labels, folder, read_names(path, self.layout, self.notes), str(path))
        names = sorted({*own, *labels} - {*val})
        return _Source(labels, folder, names, f"{folder} with VOC's train.txt and without its val.txt")

    def _from_sbd(self, base: Path, own: list[str], val: list[str]) -> _Source:
        """Take the .mat files of SBD, and the union of its lists with VOC's."""
        folder = _sbd_folder(self.root, base)
        if folder is None:
            raise DataError(
                f"{base} has no folder SegmentationClassAug, and no SBD release (benchmark_RELEASE/dataset "
                f"with cls) is in {self.root} or beside it; put one of them there, or use --dataset voc"
            )
        lists = [folder / name for name in ("train.txt", "val.txt")]
        names = {*own}.union(*(read_names(path, "SBD's lists beside cls", self.notes) for path in lists))
        text = f"VOC's train.txt with {lists[0]} and {lists[1]}, without VOC's val.txt,"
        return _Source(
            found_files(folder / "cls", (".mat",), self.layout), folder, sorted(names - {*val}), text
        )

    def _check_names(self, source: _Source, val: list[str]) -> None:
        """Refuse another number of images, and images of the validation split."""
        hint = (
            f"two lists are in use: {TRAIN} images, which is VOC train and SBD without VOC 2012's val, and "
            f"{OTHER_TRADITION}, which leaves out only seg11valid and so trains on images of VOC 2012's val; "
            f"this package takes the list of {TRAIN}"
        )
        count = len(source.names)
        check_count(count, TRAIN, "train", source.text, self.reading.subset, hint)
        if shared := sorted({*source.names} & {*val}):
            raise DataError(
                f"{source.text} names {len(shared)} image(s) of VOC's validation split ({listed(shared)}), "
                "on which the network would be both trained and evaluated; remove them from the list"
            )


def _sbd_folder(root: Path, base: Path) -> Path | None:
    """Find the folder of SBD that holds cls; `base` is the folder VOC2012."""
    for start in dict.fromkeys((base, root)):
        for name in _SBD_FOLDERS:
            parts = Path(name).parts
            folder = start.absolute().parent if parts[:1] == ("..",) else start
            folder = folder.joinpath(*(part for part in parts if part != ".."))
            if (folder / "cls").is_dir():
                return folder
    return None
