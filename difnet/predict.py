"""Label images of any size:

    python -m difnet.predict --checkpoint RUN photo.jpg other.png --out labelled

writes labelled/photo.labels.png (palette PNG, pixel value = class index) and labelled/photo.overlay.png.
Write ``python -m difnet.predict --help`` for all options.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difnet.extras import train_extra

with train_extra():
    import numpy as np
    import torch
    import tyro
    from torch import Tensor, nn

    from difnet.config import PredictConfig
    from difnet.console import Reporter, run_command
    from difnet.data.base import distinct_palette
    from difnet.data.disk import read_image
    from difnet.engine import Views, make_views
    from difnet.evaluate import default_device
    from difnet.pictures import colour_labels, overlay
    from difnet.weights import load_model


@torch.inference_mode()
def predict_labels(model: nn.Module, image: Tensor, views: Views | None = None) -> Tensor:
    """Class indices (H, W) on the CPU for one uint8 image (3, H, W)."""
    device = next(model.parameters()).device
    batch = image.as_subclass(torch.Tensor)[None].to(device).float() / 255.0
    scores = model(batch) if views is None else views.probabilities(model, batch)
    return scores.argmax(1)[0].cpu()


def predict_files(
    config: PredictConfig, images: Sequence[Path], report: Reporter | None = None
) -> list[Path]:
    """Write a label map and an overlay for each image; return the label maps' paths.

    Raises:
        DataError: an image cannot be read.
        OSError: a picture cannot be written.
    """
    report = report or Reporter(enabled=False)
    model, metadata = load_model(config.checkpoint, default_device(config.device))
    palette = _palette(metadata, model.num_classes)
    views = make_views(config.multi_scale, config.flip)
    config.out.mkdir(parents=True, exist_ok=True)
    written = []
    for path, stem in zip(images, distinct_stems(images), strict=True):
        image = read_image(path)
        label = predict_labels(model, image, views)
        target = config.out / f"{stem}.labels.png"
        colour_labels(label, palette).save(target)
        overlay(image, label, palette).save(config.out / f"{stem}.overlay.png")
        report.line(f"{path} -> {target}")
        written.append(target)
    return written


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """A name for each path's pictures: its stem, with "-2", "-3", ... where an earlier one has it already."""
    stems: list[str] = []
    taken: set[str] = set()
    for path in paths:
        stem, count = path.stem, 1
        while stem.casefold() in taken:  # some file systems do not tell cases apart
            count += 1
            stem = f"{path.stem}-{count}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _palette(metadata: dict[str, Any], classes: int) -> np.ndarray:
    colours = metadata.get("palette")
    return np.array(colours, np.uint8) if colours else distinct_palette(classes)


def _command(images: tyro.conf.Positional[tuple[Path, ...]], config: PredictConfig) -> int:
    """Label images of any size.

    Args:
        images: Image files.
        config: The other options.
    """

    def command() -> None:
        if not images:
            raise ValueError("no image given; name at least one image file")
        predict_files(config, images, Reporter())

    return run_command(command, "difnet.predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return tyro.cli(
        _command,
        args=arguments,
        prog="python -m difnet.predict",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )


if __name__ == "__main__":
    sys.exit(main())
