"""Draw where diffusion helped and where it hurt: the images whose pixel accuracy it raises most and least.

    python tools/diffusion_pictures.py --checkpoint RUN/last.safetensors --out FOLDER
    python tools/diffusion_pictures.py --checkpoint RUN/last.safetensors --dataset camvid --data-root DIR \\
        --no-photographs --out FOLDER

The labels of the seed ("before") and of the state after the last walk ("after") are compared with the truth
on every validation image. Half of the pictures show the images that gain the most pixel accuracy, the other
half those that gain the least or lose the most. A picture shows one image, from left to right: the image, the
truth, before, after, and the changes. There, pixels that the walks corrected are green, pixels that they
spoiled are red, and all others are grey. FOLDER/pictures.json names the data set and the
weights, and holds the figures of each picture.

With --no-photographs the image is left out. Of CamVid, whose terms forbid commercial use, this also leaves
out the label maps: only the changes are drawn.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difnet.data import SegmentationDataset, create_dataset, eval_transform
from difnet.data.errors import VOID
from difnet.data.options import saved_reading
from difnet.data.registry import DATASETS
from difnet.modeling.network import DifNet, has_walks
from difnet.modeling.weights import load_for_pictures
from difnet.utils.devices import default_device
from difnet.utils.files import prepare_folder, write_atomically
from difnet.utils.pictures import colour_labels, image_scale_of, overlay, save_picture, side_by_side

CORRECTED, SPOILED, OTHER = (0, 150, 70), (215, 40, 40), (200, 200, 200)
"""Colours of the changes."""
LEAST_HEIGHT = 180
"""Smaller pictures are enlarged by a whole factor, the largest that keeps them below twice this height."""
FIGURES = "pictures.json"


class Changes(NamedTuple):
    """What the walks changed in one image, as shares of its labelled pixels.

    Attributes:
        before, after: pixel accuracy of the seed and of the last state.
        corrected: wrong before, right after.
        spoiled: right before, wrong after.
    """

    before: float
    after: float
    corrected: float
    spoiled: float

    @property
    def gain(self) -> float:
        """Gain of pixel accuracy; negative for a loss."""
        return self.corrected - self.spoiled


def change_masks(before: Tensor, after: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return where label maps (H, W) were corrected and where they were spoiled; void is neither."""
    labelled = truth != VOID
    was_right, is_right = before == truth, after == truth
    return labelled & ~was_right & is_right, labelled & was_right & ~is_right


def measure_changes(before: Tensor, after: Tensor, truth: Tensor) -> Changes | None:
    """Compare label maps (H, W) with the truth; None if every pixel is void."""
    labelled = int((truth != VOID).sum())
    if labelled == 0:
        return None
    masks = (before == truth, after == truth, *change_masks(before, after, truth))
    return Changes(*(int((mask & (truth != VOID)).sum()) / labelled for mask in masks))


def draw_changes(before: Tensor, after: Tensor, truth: Tensor) -> Image.Image:
    """Draw corrected pixels green, spoiled pixels red, and all others, void included, grey."""
    corrected, spoiled = (mask.numpy() for mask in change_masks(before, after, truth))
    picture = np.full((*truth.shape, 3), OTHER, np.uint8)
    picture[corrected], picture[spoiled] = CORRECTED, SPOILED
    return Image.fromarray(picture)


def choose(changes: Sequence[Changes | None], count: int) -> tuple[list[int], list[int]]:
    """Choose `count` images: half that gain the most, and half that gain the least or lose the most.

    Of an odd number, the first half gets one more. Of equal images the first is chosen. If there are fewer
    labelled images than `count`, all of them are chosen.

    Returns:
        The indices of the images that gain the most, the largest gain first, and of the others, the smallest
        gain first.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"--count must be positive, got {count}")
    known = [(found.gain, index) for index, found in enumerate(changes) if found is not None]
    count = min(count, len(known))
    most = [index for _, index in sorted((-gain, index) for gain, index in known)][: (count + 1) // 2]
    least = [index for _, index in sorted(known) if index not in most][: count // 2]
    return most, least


@torch.inference_mode()
def predict(model: DifNet, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label maps (H, W), on the CPU, of the seed and of the last state of an image (3, H, W)."""
    details = model(image[None].to(next(model.parameters()).device), details=True)
    before = model.upsample(details.seed.float(), (image.shape[-2], image.shape[-1]))
    return before.argmax(1)[0].cpu(), details.logits.argmax(1)[0].cpu()


def draw(model: DifNet, dataset: SegmentationDataset, index: int, *, photographs: bool) -> Image.Image:
    """Draw the picture of one image."""
    image, truth = dataset[index]
    before, after = predict(model, image)
    panels = [overlay(image, truth, dataset.palette, opacity=0.0)] if photographs else []
    if photographs or dataset.name != "camvid":
        panels += [colour_labels(label, dataset.palette) for label in (truth, before, after)]
    panels.append(draw_changes(before, after, truth))
    sheet = side_by_side(*panels)
    factor = max(1, (2 * LEAST_HEIGHT - 1) // sheet.height) if sheet.height < LEAST_HEIGHT else 1
    return sheet.resize((factor * sheet.width, factor * sheet.height), Image.Resampling.NEAREST)


def open_run(
    checkpoint: Path, dataset: str, data_root: Path | None, device: str | None
) -> tuple[DifNet, SegmentationDataset]:
    """Load a network with walks, and the validation images that it fits, resized as in its training.

    Raises:
        ValueError: the network has no walks, or its classes are not those of the data.
        DataError: the data cannot be used.
    """
    model, metadata = load_for_pictures(checkpoint, default_device(device))
    if not isinstance(model, DifNet) or not has_walks(model):
        raise ValueError(
            f"--checkpoint {checkpoint}: {model.config['name']!r} has no walks; choose a difnet with walks"
        )
    data = create_dataset(
        dataset,
        data_root,
        "val",
        transform=eval_transform(image_scale_of(metadata, None, checkpoint)),
        reading=saved_reading(metadata, dataset, checkpoint),
    )
    known = metadata.get("classes", [])
    if len(data.classes) != model.num_classes or known not in ([], data.classes):
        names = f" ({', '.join(map(str, known))})" if known else ""
        raise ValueError(
            f"--dataset {dataset} has {len(data.classes)} classes ({', '.join(data.classes)}); {checkpoint} "
            f"was trained on {model.num_classes} classes{names}; choose the data it was trained on"
        )
    return model, data


def write_pictures(
    model: DifNet, dataset: SegmentationDataset, out: Path, count: int, *, weights: str, photographs: bool
) -> list[dict[str, Any]]:
    """Write the pictures and their figures to `out`, with `weights`, the name of the weights.

    Returns:
        The figures.

    Raises:
        ValueError: `count` is below 1.
        WriteError: a file cannot be written.
    """
    changes = []
    for index in range(len(dataset)):
        image, truth = dataset[index]
        changes.append(measure_changes(*predict(model, image), truth))
    figures = []
    for kind, indices in zip(("most", "least"), choose(changes, count), strict=True):
        for number, index in enumerate(indices, 1):
            found = changes[index]
            assert found is not None
            file = f"{kind}-{number}.png"
            save_picture(draw(model, dataset, index, photographs=photographs), out / file)
            figures.append({"file": file, "image": dataset.item_name(index), **found._asdict()})
    content = {"dataset": dataset.name, "weights": weights, "pictures": figures}
    write_atomically(out / FIGURES, json.dumps(content, indent=2) + "\n")
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run folder or weights of a difnet")
    parser.add_argument("--dataset", choices=DATASETS, default="scenes")
    parser.add_argument("--data-root", type=Path, help="folder of the data, for camvid and folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--count", type=int, default=4, help="number of pictures (default: 4)")
    parser.add_argument("--no-photographs", action="store_true", help="leave the images out")
    parser.add_argument("--device", help="such as cuda or cpu (default: the best one present)")
    options = parser.parse_args(arguments)
    try:
        prepare_folder(options.out)
        model, dataset = open_run(options.checkpoint, options.dataset, options.data_root, options.device)
        photographs = not options.no_photographs
        weights = "/".join(options.checkpoint.parts[-3:])
        figures = write_pictures(
            model, dataset, options.out, options.count, weights=weights, photographs=photographs
        )
    except (ValueError, OSError) as error:
        print(f"diffusion_pictures: error: {error}", file=sys.stderr)
        return 1
    for row in figures:
        accuracies = f"pixel accuracy {100 * row['before']:.2f}% before, {100 * row['after']:.2f}% after"
        print(f"{options.out / row['file']}: {row['image']}, {accuracies}")
    if len(figures) < options.count:
        print(f"{len(figures)} of {options.count} pictures: there are no more images with labels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
