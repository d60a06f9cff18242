"""Show where a pixel takes its label from: the row of each walk's transition matrix, drawn on the image.

    python -m difnet.explain --checkpoint RUN photo.jpg --point 120,80 --out explained

This writes explained/photo.walk1.png and so on, a heat map of the pixel's row for each walk, brightest where
the weight is largest; photo.importance.png, the importance map; photo.before.png and photo.after.png, the
labels of the seed and those after the walks; and photo.all.png, all of them side by side. A cross marks the
pixel. Write ``python -m difnet.explain --help`` for all options.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from difnet.utils.extras import train_extra
from difnet_kernels import transition_rows

with train_extra():
    import tyro
    from PIL import Image, ImageDraw

    from difnet.data.files.disk import read_image
    from difnet.data.transforms import scaled_size
    from difnet.modeling.network import DifNet
    from difnet.modeling.weights import load_for_pictures
    from difnet.training.engine import NotFiniteError
    from difnet.utils.console import DEVICE_DEFAULT, Reporter, parse, run_command
    from difnet.utils.devices import default_device
    from difnet.utils.files import distinct_names, prepare_folder
    from difnet.utils.options import shown_default
    from difnet.utils.pictures import (
        image_scale_of,
        overlay,
        palette_of,
        save_picture,
        side_by_side,
        to_array,
    )
    from difnet.utils.views import resize_antialiased

SOURCES = ("image", "block 1", "block 2", "block 3", "block 4")


@dataclass(frozen=True)
class ExplainConfig:
    """Explain the label of one pixel of a picture."""

    image: Annotated[Path, tyro.conf.Positional]
    """The picture, of any size."""
    checkpoint: Path
    """Run folder (its best weights) or weights file of a DifNet, or name of a trained one."""
    point: str
    """The pixel, as x,y from the upper left corner of the upright picture."""
    out: Path
    """Folder for the pictures, created if it does not exist."""
    image_scale: Annotated[float | None, shown_default("as in training")] = None
    """Resize the picture by this factor for the network. The written pictures have its own size."""
    device: Annotated[str | None, DEVICE_DEFAULT] = None
    """Device, such as cuda or cpu."""


def node_of(point: tuple[int, int], image_size: tuple[int, int], map_size: tuple[int, int]) -> int:
    """Return the node, counted row by row, whose cell holds the pixel `point` = (x, y).

    Both sizes are (height, width).

    Raises:
        ValueError: the pixel lies outside the image.
    """
    (x, y), (height, width), (rows, columns) = point, image_size, map_size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f"--point {x},{y}: outside the image of width {width} and height {height}; "
            f"give x in 0 .. {width - 1} and y in 0 .. {height - 1}"
        )
    return (y * rows // height) * columns + x * columns // width


@torch.inference_mode()
def explain(
    model: DifNet, image: Tensor, point: tuple[int, int], image_scale: float = 1.0
) -> tuple[dict[str, Tensor], list[str]]:
    """Compute the maps that show where the label of a pixel comes from.

    Args:
        model: in evaluation mode.
        image: (3, H, W) in [0, 1], on the model's device.
        point: (x, y) in the image.
        image_scale: the network sees the image resized by this factor.

    Returns:
        Maps of the image's size, (H, W): "importance", one row of P for each walk ("walk1", ...), and the
        int64 label maps "before" and "after"; and one line of text for each walk.

    Raises:
        NotFiniteError: a logit is NaN or infinite.
        ValueError: the pixel lies outside the image.
    """
    size = (image.shape[-2], image.shape[-1])
    seen = resize_antialiased(image[None], scaled_size(size, image_scale))
    details = model(seen, details=True)
    if not details.logits.isfinite().all():
        raise NotFiniteError
    grid = (details.seed.shape[-2], details.seed.shape[-1])
    node = torch.tensor([node_of(point, size, grid)], device=image.device)

    maps = {"importance": model.upsample(details.importance, size)[0, 0]}
    lines = []
    walks = zip(model.transition_sources, details.transitions, details.mu, details.beta, strict=True)
    for number, (source, (features, bias), mu, beta) in enumerate(walks, 1):
        row = transition_rows(features, node, node_bias=bias)[0, 0]
        maps[f"walk{number}"] = model.upsample(row.view(1, 1, *grid), size)[0, 0]
        spread = torch.special.entr(row).sum().exp()
        lines.append(
            f"walk {number} ({SOURCES[source]}): mu {mu:.3f}, beta {beta:.3f}, weight on itself "
            f"{row[node].item():.3f}, spread over {spread:.1f} of {row.numel()} nodes (exp of the entropy)"
        )
    maps["before"] = model.upsample(details.seed, size)[0].argmax(0)
    maps["after"] = model.upsample(details.logits, size)[0].argmax(0)
    return maps, lines


def draw(
    image: Tensor, maps: dict[str, Tensor], palette: np.ndarray, point: tuple[int, int]
) -> dict[str, Any]:
    """Turn the maps of `explain` into RGB pictures of the same names, plus "all" side by side."""
    pictures = {}
    for name, values in maps.items():
        is_label = not values.is_floating_point()
        picture = overlay(image, values, palette) if is_label else heat_map(image, values)
        mark(picture, point)
        pictures[name] = picture
    return pictures | {"all": side_by_side(*pictures.values())}


def heat_map(image: Tensor, values: Tensor) -> Image.Image:
    """Draw values (H, W) >= 0 over a darkened grey image (3, H, W), through red and yellow to white."""
    grey = to_array(image).mean(-1, keepdims=True)
    heat = (values / values.max().clamp(min=torch.finfo(values.dtype).tiny)).cpu().numpy()[..., None]
    colour = 255 * np.clip(3 * heat - np.arange(3), 0, 1)
    return Image.fromarray(np.round(np.maximum(grey * 0.5, colour)).astype(np.uint8))


def mark(picture: Image.Image, point: tuple[int, int], radius: int = 4) -> None:
    """Draw a cross at `point` = (x, y), white with a black edge so that it is visible on any picture."""
    x, y = point
    pen = ImageDraw.Draw(picture)
    for colour, width in (("black", 3), ("white", 1)):
        pen.line((x - radius, y, x + radius, y), fill=colour, width=width)
        pen.line((x, y - radius, x, y + radius), fill=colour, width=width)


def run(config: ExplainConfig) -> None:
    """Explain one pixel of one picture as `config` says.

    Raises:
        ValueError: the point, the device or the checkpoint cannot be used; the message says what to change.
        NotFiniteError: a logit is NaN or infinite.
        DataError: the picture cannot be read.
        OSError: the checkpoint cannot be read, or the results cannot be written.
    """
    point, device = _parse(config.point), default_device(config.device)
    prepare_folder(config.out)
    model, metadata = load_for_pictures(config.checkpoint, device)
    if not isinstance(model, DifNet) or not model.walk_sources:
        raise ValueError(
            f"--checkpoint {config.checkpoint}: {model.config['name']!r} has no walks to explain; "
            "choose a difnet with walks"
        )
    palette = palette_of(metadata, model.num_classes)
    image = read_image(config.image).as_subclass(Tensor).float() / 255
    scale = image_scale_of(metadata, config.image_scale, config.checkpoint)
    maps, lines = explain(model, image.to(device), point, scale)
    (stem,) = distinct_names([config.image.stem])
    for name, picture in draw(image, maps, palette, point).items():
        save_picture(picture, config.out / f"{stem}.{name}.png")
    report = Reporter()
    report.line("\n".join(lines))
    before, after = (int(maps[name][point[1], point[0]]) for name in ("before", "after"))
    classes = metadata.get("classes")
    if not isinstance(classes, list) or len(classes) != model.num_classes:
        classes = range(model.num_classes)
    report.line(
        f"pixel {point[0]},{point[1]}: {classes[before]} before the walks, {classes[after]} after them"
    )
    report.line(f"pictures in {config.out}")


def _parse(point: str) -> tuple[int, int]:
    try:
        x, y = (int(part) for part in point.split(","))
    except ValueError:
        raise ValueError(f"--point {point}: expected two whole numbers as x,y") from None
    return x, y


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(ExplainConfig, arguments, "explain", __doc__)
    return run_command(lambda: run(config), "difnet.explain")


if __name__ == "__main__":
    sys.exit(main())
