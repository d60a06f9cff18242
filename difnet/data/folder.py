"""A data set in a folder: images/{train,val}, labels/{train,val}, classes.txt."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision import tv_tensors

from difnet.data.base import (
    VOID,
    DataError,
    SegmentationDataset,
    Split,
    Transform,
    distinct_palette,
    raise_all,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
LAYOUT = "a root with images/train, images/val, labels/train, labels/val and classes.txt"


class Folder(SegmentationDataset):
    """Images and palette (or grey) PNG labels of the same relative name.

    Args:
        root: folder that holds ``images/SPLIT/**/NAME.jpg`` (or png, bmp, tif, webp, ppm),
            ``labels/SPLIT/**/NAME.png`` (pixel value = class index, 255 = void) and ``classes.txt``
            (one class name a line, in index order).
        split: "train" or "val".
        transform: see `SegmentationDataset`.

    Raises:
        DataError: a folder or classes.txt is missing or empty, or images and labels do not pair up.
    """

    name = "folder"

    def __init__(self, root: str | Path, split: Split, *, transform: Transform | None = None):
        self.root = Path(root)
        self.split = split
        self.transform = transform
        if not self.root.is_dir():
            raise DataError(f"data root {self.root} is not a folder; --data-root takes {LAYOUT}")
        self.classes = self._read_classes()
        self.images, self.labels = self._pair()
        self.palette = self._find_palette()

    def __len__(self) -> int:
        return len(self.images)

    def item_name(self, index: int) -> str:
        """Path below images/SPLIT, without suffix."""
        folder = self.root / "images" / self.split
        return self.images[index].relative_to(folder).with_suffix("").as_posix()

    def read(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """See `SegmentationDataset.read`."""
        image = read_image(self.images[index])
        label = read_label(self.labels[index], len(self.classes))
        if image.shape[-2:] != label.shape:
            raise DataError(
                f"{self.labels[index]} is {label.shape[1]}x{label.shape[0]}, its image {self.images[index]} "
                f"is {image.shape[2]}x{image.shape[1]} (after EXIF rotation); "
                "resize the label with nearest neighbour"
            )
        return image, label

    def _read_classes(self) -> list[str]:
        path = self.root / "classes.txt"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}); write one class name a line, in index order"
            ) from error
        classes = [line.strip() for line in text.splitlines() if line.strip()]
        if not 2 <= len(classes) <= VOID:
            raise DataError(f"{path} names {len(classes)} class(es); between 2 and {VOID} are possible")
        repeated = sorted({name for name in classes if classes.count(name) > 1})
        if repeated:
            raise DataError(f"{path} names {', '.join(repeated)} more than once; make the names distinct")
        return classes

    def _pair(self) -> tuple[list[Path], list[Path]]:
        """Images and labels in one order, sorted by relative name."""
        images = self._find("images", IMAGE_SUFFIXES)
        labels = self._find("labels", (".png",))
        if not images:
            raise DataError(
                f"{self.root / 'images' / self.split} holds no image; put files ending in "
                f"{', '.join(IMAGE_SUFFIXES)} there"
            )
        label_folder = self.root / "labels" / self.split
        errors = [
            f"image {images[name]} has no label; add {label_folder / name}.png or remove the image"
            for name in sorted(images.keys() - labels.keys())
        ]
        errors += [
            f"label {labels[name]} has no image; add images/{self.split}/{name}.jpg or remove the label"
            for name in sorted(labels.keys() - images.keys())
        ]
        raise_all(errors, f"{self.name} {self.split} in {self.root}")
        names = sorted(images)
        return [images[name] for name in names], [labels[name] for name in names]

    def _find(self, kind: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
        folder = self.root / kind / self.split
        if not folder.is_dir():
            raise DataError(f"folder {folder} is missing; --data-root takes {LAYOUT}")
        found: dict[str, Path] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in suffixes or path.name.startswith("."):
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise DataError(f"{found[name]} and {path} share the name {name!r}; keep one of them")
            found[name] = path
        return found

    def _find_palette(self) -> np.ndarray:
        """Colours of the first label's palette where it has enough distinct ones, else made-up ones."""
        try:
            with Image.open(self.labels[0]) as label:
                colours = np.array(label.getpalette() or [], np.uint8).reshape(-1, 3)[: len(self.classes)]
        except (OSError, ValueError):
            colours = np.zeros((0, 3), np.uint8)  # `check` reports the file with its reason
        enough = len(np.unique(colours, axis=0)) == len(self.classes)
        return colours if enough else distinct_palette(len(self.classes))


def read_image(path: Path) -> tv_tensors.Image:
    """Image file as (3, H, W) uint8 RGB, rotated as its EXIF tag says.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as file:
            rgb = ImageOps.exif_transpose(file).convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image that Pillow can read; convert it to JPEG or PNG") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({error}); replace the file") from error
    return tv_tensors.Image(torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous())


def read_label(path: Path, num_classes: int) -> tv_tensors.Mask:
    """Palette or grey PNG as (H, W) uint8 class indices, 255 = void.

    Raises:
        DataError: unreadable, not single-channel, or a value that is neither a class index nor 255.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L", "1", "I", "I;16"):
                raise DataError(
                    f"{path} has mode {file.mode}; a label is a palette or grey PNG "
                    "whose pixel value is the class index"
                )
            values = np.array(file).astype(np.int64)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image that Pillow can read; write the label as PNG") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read ({error}); replace the file") from error
    strange = np.unique(values[(values >= num_classes) & (values != VOID)])
    if strange.size or values.min() < 0:
        shown = ", ".join(str(value) for value in strange[:5])
        raise DataError(
            f"{path} holds label value(s) {shown} outside the {num_classes} classes (0 to {num_classes - 1}, "
            f"{VOID} = void); correct the label or add the class to classes.txt"
        )
    return tv_tensors.Mask(torch.from_numpy(values.astype(np.uint8)))
