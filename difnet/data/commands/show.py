"""Draw an image with its label, and the crop that training would see:

    python -m difnet.data show DIR --index 3
    python -m difnet.data show DIR --name rome/0012 --split val --out rome.png

The picture shows the image, its label over it, a crop as augmentation makes it, the crop's label, and a
legend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from PIL import Image

from difnet.data.base import SegmentationDataset
from difnet.data.checks.sheet import legend
from difnet.data.options import Reading, reading_of
from difnet.data.registry import DatasetName, create_dataset
from difnet.data.sampling import Draw, SeededView
from difnet.data.transforms import train_transform
from difnet.utils.console import Reporter, parse, run_command
from difnet.utils.files import prepare_file, refuse_inside
from difnet.utils.options import shown_default
from difnet.utils.pictures import overlay, save_picture, side_by_side, to_array

_HEIGHT = 360
"""Height of the drawn pictures in pixels."""


@dataclass(frozen=True, kw_only=True)
class ShowConfig(Reading):
    """Draw one image of a data set, with its label, legend and a training crop."""

    root: Annotated[Path | None, tyro.conf.Positional, shown_default("none, for scenes")] = None
    """Folder of the data."""
    dataset: DatasetName = "folder"
    """Data set, as in training."""
    split: Literal["train", "val"] = "train"
    """Split of the image."""
    index: int = 0
    """Number of the image in its split, from 0."""
    name: Annotated[str | None, shown_default("by --index")] = None
    """Name of the image, as messages name it: its path without folder of the split and ending."""
    crop: int = 321
    """Side of the training crop, in pixels."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Range of the random scale factor."""
    flip: bool = True
    """Random horizontal flip."""
    epoch: int = 0
    """Epoch whose crop is drawn."""
    seed: int = 0
    """Random seed of the run."""
    out: Path = Path("show.png")
    """File for the picture, a PNG."""


def show(config: ShowConfig, report: Reporter) -> None:
    """Draw the picture that `config` asks for.

    Raises:
        DataError: the data cannot be used.
        ValueError: there is no such image, or an option is out of its range.
        WriteError: --out cannot be written.
    """
    if config.root is None and config.dataset != "scenes":
        raise ValueError(f"--dataset {config.dataset} needs a folder: python -m difnet.data show DIR")
    if config.crop < 1:
        raise ValueError(f"--crop must be positive, got {config.crop}")
    if config.out.suffix.lower() != ".png":
        raise ValueError(f"--out {config.out} must end in .png")
    refuse_inside(config.out, config.root)
    prepare_file(config.out)
    dataset = create_dataset(
        config.dataset,
        config.root,
        config.split,
        transform=train_transform(config.crop, config.scale, config.flip),
        reading=reading_of(config),
    )
    index = _index_of(config, dataset)
    image, label = dataset.read(index)
    crop, crop_label = SeededView(dataset, config.seed)[Draw(config.epoch, index)]
    present = np.bincount(label.numpy().ravel(), minlength=256)
    pictures = [
        Image.fromarray(to_array(image)),
        overlay(image, label, dataset.palette, opacity=0.6),
        Image.fromarray(to_array(crop)),
        overlay(crop, crop_label, dataset.palette, opacity=0.6),
    ]
    sized = [it.resize((max(1, it.width * _HEIGHT // it.height), _HEIGHT)) for it in pictures]
    names = legend(dataset, present)
    height = max(_HEIGHT, names.height)
    save_picture(side_by_side(*(_padded(it, height) for it in [*sized, names])), config.out)
    report.line(
        f"{config.split} {index} ({dataset.item_name(index)}), {label.shape[-1]} x {label.shape[-2]}: image, "
        f"label, crop of epoch {config.epoch} with --seed {config.seed}, its label; drawn in {config.out}"
    )


def _index_of(config: ShowConfig, dataset: SegmentationDataset) -> int:
    if config.name is None:
        if not 0 <= config.index < len(dataset):
            raise ValueError(
                f"--index {config.index}: the {config.split} split has images 0 to {len(dataset) - 1}"
            )
        return config.index
    names = [dataset.item_name(index) for index in range(len(dataset))]
    if config.name not in names:
        raise ValueError(
            f"--name {config.name}: the {config.split} split has no such image; names are like {names[0]}"
        )
    return names.index(config.name)


def _padded(picture: Image.Image, height: int) -> Image.Image:
    padded = Image.new("RGB", (picture.width, height), "white")
    padded.paste(picture.convert("RGB"), (0, 0))
    return padded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(ShowConfig, arguments, "data show", __doc__)
    return run_command(lambda: show(config, Reporter()), "difnet.data show")
