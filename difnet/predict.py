"""Label images of any size:

    python -m difnet.predict --checkpoint RUN photo.jpg other.png --out labelled
    python -m difnet.predict --checkpoint RUN photos --out labelled

For each image this writes labelled/photo.labels.png (a palette PNG, pixel value = class index) and
labelled/photo.overlay.png. All images in a folder and in its subfolders are labelled; photos/rome/1.jpg
becomes labelled/rome_1.labels.png. Write ``python -m difnet.predict --help`` for all options.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from difnet.utils.extras import train_extra

with train_extra():
    import torch
    import tyro
    from torch import Tensor, nn

    from difnet.data.errors import DataError, listed, raise_all
    from difnet.data.files.disk import IMAGE_SUFFIXES, find_files, read_image
    from difnet.modeling.network import DifNet, SimDeepLab
    from difnet.modeling.weights import load_for_pictures
    from difnet.training.engine import NotFiniteError
    from difnet.utils.console import DEVICE_DEFAULT, Reporter, parse, run_command
    from difnet.utils.devices import default_device
    from difnet.utils.files import WriteError, distinct_names, file_to_write, prepare_folder
    from difnet.utils.options import shown_default
    from difnet.utils.pictures import colour_labels, image_scale_of, overlay, palette_of, save_picture
    from difnet.utils.views import Views, check_views, make_views

LABELS, OVERLAY = ".labels.png", ".overlay.png"
"""Endings of the written pictures' names; such files in a folder of images are not read."""


@dataclass(frozen=True)
class PredictConfig:
    """Label images of any size: a palette PNG and an overlay for each."""

    checkpoint: Path
    """Run folder (its best weights), weights file, or name of a trained network."""
    out: Path
    """Folder for the pictures, created if it does not exist."""
    multi_scale: bool = False
    """Average class probabilities over scales 0.5, 0.75, 1, 1.25 and 1.5."""
    flip: bool = False
    """Average class probabilities with those of the mirrored image."""
    image_scale: Annotated[float | None, shown_default("as in training")] = None
    """Resize images by this factor for the network. The labels have the image's size."""
    device: Annotated[str | None, DEVICE_DEFAULT] = None
    """Device, such as cuda or cpu."""


@torch.inference_mode()
def predict_labels(model: nn.Module, image: Tensor, views: Views | None = None) -> Tensor:
    """Predict the class indices (H, W), on the CPU, of one uint8 image (3, H, W).

    Raises:
        NotFiniteError: a logit is NaN or infinite.
    """
    device = next(model.parameters()).device
    batch = image.as_subclass(torch.Tensor)[None].to(device).float() / 255.0
    outputs = model(batch) if views is None else views.probabilities(model, batch)
    if not outputs.isfinite().all():
        raise NotFiniteError
    return outputs.argmax(1)[0].cpu()


def predict_files(
    config: PredictConfig, images: Sequence[Path], report: Reporter | None = None
) -> list[Path]:
    """Write a label map and an overlay for each image; return the label maps' paths.

    Args:
        config: the checkpoint, the folder to write to, and the views.
        images: image files, and folders whose images are all labelled.
        report: prints a line for each picture, and the files in folders that are not read.

    Raises:
        DataError: an image cannot be read, or the network does not take images of its size; the pictures of
            all others have been written.
        ValueError: there is no image, or a picture would replace one.
        WriteError: a picture cannot be written; the message says how many images are labelled.
        NotFiniteError: a logit is NaN or infinite.
    """
    report = report or Reporter(enabled=False)
    prepare_folder(config.out)
    sources, names = _list_images(images, report)
    stems = distinct_names([name.stem for name in names])
    targets = {file_to_write(_target(config, stem, end)) for stem in stems for end in (LABELS, OVERLAY)}
    for source in sources:
        if source.resolve() in targets:
            raise ValueError(f"{source} would be replaced by a labelled picture; choose another --out")
    model, metadata = load_for_pictures(config.checkpoint, default_device(config.device))
    palette = palette_of(metadata, model.num_classes)
    image_scale = image_scale_of(metadata, config.image_scale, config.checkpoint)
    views = make_views(config.multi_scale, config.flip, image_scale)
    written: list[Path] = []
    errors: list[str] = []
    for path, stem in zip(sources, stems, strict=True):
        try:
            image = read_image(path)
            _check_size(model, path, image, views)
        except DataError as error:
            if len(sources) == 1:
                raise
            errors.append(str(error))
            continue
        label = predict_labels(model, image, views)
        target = _target(config, stem, LABELS)
        try:
            save_picture(colour_labels(label, palette), target)
            save_picture(overlay(image, label, palette), _target(config, stem, OVERLAY))
        except WriteError as error:
            done = f"{len(written)} of {len(sources)} images are labelled"
            raise WriteError(error.errno, "; ".join([str(error), done, *errors])) from error
        report.line(f"{path} -> {target}")
        written.append(target)
    raise_all(errors, f"{len(written)} of {len(sources)} images are labelled")
    return written


def _target(config: PredictConfig, stem: str, end: str) -> Path:
    return config.out / f"{stem}{end}"


def _list_images(paths: Sequence[Path], report: Reporter) -> tuple[list[Path], list[Path]]:
    """All image files, also those in folders, and a name for each that includes its folders."""
    sources: list[Path] = []
    names: list[Path] = []
    for given in paths:
        if not given.exists():
            raise DataError(f"{given} does not exist; name image files or folders of them")
        if not given.is_dir():
            sources.append(given)
            names.append(Path(given.name))
            continue
        files, others = find_files(given, IMAGE_SUFFIXES)
        results = [file for file in files if file.name.endswith((LABELS, OVERLAY))]  # from an earlier call
        files = [file for file in files if file not in results]
        others = sorted(others + results)
        if not files:
            raise DataError(f"{given} holds no image; images end in {', '.join(IMAGE_SUFFIXES)}")
        if others:
            report.line(f"not read in {given}: {listed([str(other.relative_to(given)) for other in others])}")
        sources += files
        names += [Path("_".join(file.relative_to(given).parts)) for file in files]
    if not sources:
        raise ValueError("no image given; name at least one image file or a folder of them")
    return sources, names


def _check_size(model: DifNet | SimDeepLab, path: Path, image: Tensor, views: Views | None) -> None:
    """Check that the network takes an image (3, H, W), and its views.

    Raises:
        DataError: it does not; the message names the file, its size and the remedy.
    """
    try:
        check_views(model, (image.shape[-2], image.shape[-1]), views)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _command(images: tyro.conf.Positional[tuple[Path, ...]], config: PredictConfig) -> int:
    """Label images of any size.

    Args:
        images: Image files, and folders of them.
        config: The other options.
    """

    def command() -> None:
        predict_files(config, images, Reporter())

    return run_command(command, "difnet.predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return parse(_command, arguments, "predict", __doc__)


if __name__ == "__main__":
    sys.exit(main())
