"""Label images of any size:

    python -m difnet.predict --checkpoint RUN photo.jpg other.png --out labelled
    python -m difnet.predict --checkpoint RUN photos --out labelled
    python -m difnet.predict --checkpoint RUN map.tif --out labelled --tile 1024

For each image this writes labelled/photo.labels.png (a palette PNG, pixel value = class index) and
labelled/photo.overlay.png. All images in a folder and in its subfolders are labelled; photos/rome/1.jpg
becomes labelled/rome_1.labels.png. With --tile, the convolutions of the network see one tile of a large image
after the other, and the walks see all of it. Write ``python -m difnet.predict --help`` for all options.
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
    from difnet.data.files.disk import IMAGE_SUFFIXES, find_files
    from difnet.data.transforms import scaled_size
    from difnet.modeling.network import DifNet, SimDeepLab
    from difnet.modeling.weights import load_for_pictures
    from difnet.training.engine import NotFiniteError
    from difnet.utils.console import DEVICE_DEFAULT, Reporter, is_memory_error, parse, run_command
    from difnet.utils.devices import default_device
    from difnet.utils.files import WriteError, distinct_names, file_to_write, prepare_folder
    from difnet.utils.options import shown_default
    from difnet.utils.pictures import colour_labels, image_scale_of, overlay, palette_of, save_picture
    from difnet.utils.tiling import (
        OVERLAP,
        Plan,
        Tiling,
        blockwise_labels,
        long_run,
        make_plan,
        read_large_image,
        resized,
        tiled_state,
    )
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
    tile: Annotated[int | None, shown_default("whole images")] = None
    """Divide larger images into tiles of at most this side, in pixels of the resized image. Feature maps and
    logits then take the memory of a tile. Walks still diffuse over the whole image."""
    overlap: Annotated[int | None, shown_default("128")] = None
    """With --tile: what is computed and thrown away at each inner border of a tile. 128 is a compromise; only
    an overlap of the network's reach, 300 to 400 pixels for ResNets with ASPP, gives exactly the result of
    the whole image."""
    max_pixels: Annotated[int | None, shown_default("Pillow's limit, 178956970")] = None
    """Read images of up to this many pixels. The limit guards against files made to fill the memory."""
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


@torch.inference_mode()
def predict_tiled(
    model: DifNet | SimDeepLab, image: Tensor, tiling: Tiling | Plan, image_scale: float = 1.0
) -> Tensor:
    """Predict as `predict_labels`, in memory that does not grow with the image but for what walks need.

    The resized image is in memory in float32, unless `image_scale` is 1.

    Args:
        model: the network, in evaluation mode.
        image: (C, H, W) uint8.
        tiling: tiles of the resized image, or the plan of them; one that fits into a tile is not divided.
        image_scale: the factor by which the image is resized for the network.

    Returns:
        (H, W) class indices on the CPU: uint8, or int64 for more than 256 classes.

    Raises:
        ValueError: no tiles fit together, or the network is in training mode.
        NotFiniteError: a logit is NaN or infinite.
    """
    plain = image.as_subclass(torch.Tensor)
    size = plain.shape[-2], plain.shape[-1]
    scaled = scaled_size(size, image_scale)
    state = tiled_state(model, resized(plain, scaled), tiling)
    if not state.isfinite().all():
        raise NotFiniteError
    return blockwise_labels(state, [scaled, size] if scaled != size else [size])


def predict_files(
    config: PredictConfig, images: Sequence[Path], report: Reporter | None = None
) -> list[Path]:
    """Write a label map and an overlay for each image; return the label maps' paths.

    Args:
        config: the checkpoint, the folder to write to, and the views.
        images: image files, and folders whose images are all labelled.
        report: prints a line for each picture and before each long run, and the files in folders that are
            not read.

    Raises:
        DataError: an image cannot be read, the network does not take images of its size, or memory runs out;
            the pictures of all others have been written.
        ValueError: there is no image, a picture would replace one, or an option is out of its range.
        WriteError: a picture cannot be written; the message says how many images are labelled.
        NotFiniteError: a logit is NaN or infinite; the message names the image.
    """
    report = report or Reporter(enabled=False)
    tiling = _tiling(config)
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
            image, label = _label_image(model, path, config, (tiling, views, image_scale), report)
        except DataError as error:
            if len(sources) == 1:
                raise
            errors.append(str(error))
            continue
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


def _label_image(
    model: DifNet | SimDeepLab,
    path: Path,
    config: PredictConfig,
    ways: tuple[Tiling | None, Views | None, float],
    report: Reporter,
) -> tuple[Tensor, Tensor]:
    """Read an image (3, H, W) and predict its labels (H, W); `ways` are the tiles, the views and the scale.

    Raises:
        DataError: the image cannot be read, the network does not take it, it cannot be divided, or memory
            runs out; the message names the file and the remedy.
        NotFiniteError: a logit is NaN or infinite; the message names the file.
    """
    tiling, views, image_scale = ways
    try:
        image = read_large_image(path, config.max_pixels, expected=tiling is not None)
        size = image.shape[1], image.shape[2]
        try:
            check_views(model, size, views)
            plan = None if tiling is None else make_plan(model, scaled_size(size, image_scale), tiling)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        if plan is None:
            return image, predict_labels(model, image, views)
        if warning := long_run(model, plan):
            report.line(f"{path}: {warning}")
        return image, predict_tiled(model, image, plan, image_scale)
    except NotFiniteError as error:
        error.args = (f"{error}; the image is {path}",)
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        remedy = "give a smaller --tile, or cut it into smaller pictures"
        if tiling is None:
            instead = " instead of --multi-scale and --flip" if config.multi_scale or config.flip else ""
            remedy = f"give --tile 1024{instead}, or cut it into smaller pictures"
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: memory ran out ({reason}); {remedy}") from error


def _tiling(config: PredictConfig) -> Tiling | None:
    """The tiles of --tile and --overlap, if there are any.

    Raises:
        ValueError: an option is out of its range, or does not go with another.
    """
    if config.max_pixels is not None and config.max_pixels < 1:
        raise ValueError(f"--max-pixels must be positive, got {config.max_pixels}")
    if config.tile is None and config.overlap is not None:
        raise ValueError("--overlap belongs to --tile; give --tile too, or leave it out")
    if config.tile is not None and (config.multi_scale or config.flip):
        raise ValueError(
            "--multi-scale and --flip average the probabilities of whole images, which --tile never holds in "
            "memory; leave these out, or --tile"
        )
    overlap = OVERLAP if config.overlap is None else config.overlap
    return None if config.tile is None else Tiling(config.tile, overlap)


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
