"""A data set in a folder with images/{train,val}, labels/{train,val} and classes.txt."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from difnet.data.base import (
    VOID,
    DataError,
    DataReport,
    SegmentationDataset,
    Split,
    Transform,
    distinct_palette,
    listed,
    raise_all,
)
from difnet.data.disk import IMAGE_SUFFIXES, QUARTER_TURNS, find_files, read_turned_image, read_turned_label
from difnet.utils.files import read_text

LAYOUT = "a root with images/train, images/val, labels/train, labels/val and classes.txt"


def appearance(name: str) -> str:
    """Normalise a name to what a reader sees: one Unicode form, without invisible characters."""
    shown = "".join(character for character in name if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", shown).split())


class Folder(SegmentationDataset):
    """Images, and palette or grey PNG labels of the same relative names.

    Args:
        root: folder that holds ``images/SPLIT/**/NAME.jpg`` (or another of `IMAGE_SUFFIXES`),
            ``labels/SPLIT/**/NAME.png`` (see `read_turned_label`) and ``classes.txt`` (one class name per
            line, in index order). Links to folders are followed, names that begin with a dot are ignored.
        split: "train" or "val".
        transform: see `SegmentationDataset`.
        void_value: the numbers that mean void in the labels.
        label_offset: the number of the first class in the labels.

    Raises:
        DataError: a folder or classes.txt is missing or empty, or images and labels do not pair up.
        ValueError: a void number is also that of a class, or out of range.
    """

    name = "folder"

    def __init__(
        self,
        root: str | Path,
        split: Split,
        *,
        transform: Transform | None = None,
        void_value: tuple[int, ...] = (VOID,),
        label_offset: int = 0,
    ):
        self.root = Path(root)
        self.split = split
        self.transform = transform
        self.void_value, self.label_offset = void_value, label_offset
        if not self.root.is_dir():
            raise DataError(f"data root {self.root} is not a folder; --data-root takes {LAYOUT}")
        self.classes = self._read_classes()
        self._check_numbering()
        self.notes: list[str] = []
        self.images, self.labels = self._pair()
        self.palette = self._find_palette()

    def __len__(self) -> int:
        return len(self.images)

    def item_name(self, index: int) -> str:
        """Return the path below images/SPLIT, without suffix."""
        folder = self.root / "images" / self.split
        return self.images[index].relative_to(folder).with_suffix("").as_posix()

    def read(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image, label, _ = self._read_turned(index)
        return image, label

    def check(self, progress: Callable[[int], None] | None = None) -> DataReport:
        """See `SegmentationDataset.check`; the notes also name files in the folders that are not data."""
        self._turned: list[str] = []
        self._turned_apart: list[str] = []
        report = super().check(progress)
        notes = [*self.notes, *report.notes]
        if self._turned_apart:
            notes.append(
                f"{len(self._turned_apart)} {self.split} label(s) carry an EXIF tag Orientation that their "
                f"image does not have ({listed(sorted(self._turned_apart))}); each file is turned by its own "
                "tag: make sure that the label then matches its image, or remove the tag"
            )
        if self._turned:
            notes.append(
                f"{len(self._turned)} {self.split} image(s) are turned by an EXIF tag, which their size does "
                f"not show ({listed(sorted(self._turned))}); make sure that their labels are drawn upright"
            )
        return report._replace(notes=tuple(notes))

    def _item(self, index: int) -> tuple[Tensor, Tensor]:
        image, label, (turn, label_turn) = self._read_turned(index)
        if label_turn not in (1, turn):
            self._turned_apart.append(self.item_name(index))
        elif turn not in (1, label_turn) and (
            image.shape[-1] == image.shape[-2] or turn not in QUARTER_TURNS
        ):
            self._turned.append(self.item_name(index))
        return image, label

    def _read_turned(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask, tuple[int, int]]:
        """Read image and label, of one size, and the values of their EXIF tags Orientation."""
        image, orientation = read_turned_image(self.images[index])
        label, label_orientation = read_turned_label(
            self.labels[index],
            len(self.classes),
            void_value=self.void_value,
            label_offset=self.label_offset,
        )
        (height, width), size = image.shape[-2:], tuple(label.shape)
        if size == (height, width):
            return image, label, (orientation, label_orientation)
        remedy = "resize the label with nearest neighbour"
        if size == (width, height):
            remedy = "one of them lies on its side: turn the label until it matches the image"
            if orientation in QUARTER_TURNS and label_orientation not in QUARTER_TURNS:
                remedy = (
                    "the label was drawn on the stored pixels, before the turn by the EXIF tag "
                    f"(Orientation {orientation}): turn the label the same way, or remove the tag from the "
                    "image"
                )
            elif label_orientation in QUARTER_TURNS and orientation not in QUARTER_TURNS:
                remedy = (
                    f"the label was turned by its own EXIF tag (Orientation {label_orientation}), which its "
                    "image lacks: remove the tag from the label, or turn the image the same way"
                )
        raise DataError(
            f"{self.labels[index]} is {size[1]}x{size[0]}, its image {self.images[index]} is "
            f"{width}x{height} (each after EXIF rotation); {remedy}"
        )

    def _check_numbering(self) -> None:
        last = self.label_offset + len(self.classes) - 1
        for option, number in (
            ("--label-offset", self.label_offset),
            *(("--void-value", number) for number in self.void_value),
        ):
            if not 0 <= number < 2**16:
                raise ValueError(f"{option} must be a number that a PNG can hold, 0 to 65535, got {number}")
        for number in self.void_value:
            if self.label_offset <= number <= last:
                name = self.classes[number - self.label_offset]
                raise ValueError(
                    f"--void-value {number} is also the number of class {name!r} in the labels (classes are "
                    f"{self.label_offset} to {last}); set --label-offset to the number of the first class, "
                    "or remove the void class from classes.txt"
                )

    def _read_classes(self) -> list[str]:
        path = self.root / "classes.txt"
        try:
            text = read_text(path)
        except (OSError, UnicodeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}); write one class name per line, in index order, as UTF-8"
            ) from error
        # str.splitlines would also split at characters that names may contain.
        lines = re.split(r"\r\n|\r|\n", text.rstrip()) if text.strip() else []
        classes = [line.strip() for line in lines]
        looks = [appearance(name) for name in classes]
        if "" in looks:
            number = looks.index("")
            raise DataError(
                f"{path} has no name on line {number + 1}, and each line names a class; remove the line, or "
                f"write the name of class {number + self.label_offset} there"
            )
        if not 2 <= len(classes) <= VOID:
            raise DataError(f"{path} names {len(classes)} class(es); it must name 2 to {VOID}")
        for name, look in zip(classes, looks, strict=True):
            if looks.count(look) > 1:
                numbers = [str(number) for number, other in enumerate(looks, start=1) if other == look]
                raise DataError(
                    f"{path} names {name} more than once (on lines {listed(numbers)}; names that look the "
                    "same count as one); make the names distinct"
                )
        self._check_lines(path, classes)
        return classes

    def _check_lines(self, path: Path, classes: list[str]) -> None:
        """Refuse comments, and numbered names that are out of order."""
        for index, name in enumerate(classes):
            if name.startswith(("#", "//")):
                raise DataError(
                    f"{path} has a comment on line {index + 1} ({name!r}), and each line names a class; "
                    "remove the line"
                )
        found = [re.match(r"[\"']?(\d{1,5})[\"']?[\s:;,.=)|]+\S", name) for name in classes]
        numbers = {index: int(match[1]) for index, match in enumerate(found) if match}
        # Names may begin with a number. Lines are numbered if all, except a heading, count up from 0 or 1.
        first = min(numbers.values(), default=0)
        counted = sorted(numbers.values()) == list(range(first, first + len(numbers)))
        if not (numbers.keys() >= set(range(1, len(classes))) and len(numbers) > 1 and counted and first < 2):
            return
        shift = first if 0 in numbers else 0
        for index, number in numbers.items():
            if number != index + shift:
                raise DataError(
                    f"{path} has {classes[index]!r} on line {index + 1}, and the order of its lines makes "
                    f"that class {index + self.label_offset}; sort the lines by number and remove a heading, "
                    "or remove the numbers"
                )

    def _pair(self) -> tuple[list[Path], list[Path]]:
        """Find images and labels, both sorted by relative name."""
        images, other_images = self._find("images", IMAGE_SUFFIXES)
        labels, other_labels = self._find("labels", (".png",))
        if not images:
            raise DataError(
                f"{self.root / 'images' / self.split} holds no image; put files ending in "
                f"{', '.join(IMAGE_SUFFIXES)} there"
            )
        label_folder = self.root / "labels" / self.split
        lone_images, lone_labels = images.keys() - labels.keys(), labels.keys() - images.keys()
        near = {appearance(name).casefold(): name for name in lone_labels}
        twins = {name: near[look] for name in lone_images if (look := appearance(name).casefold()) in near}
        errors = [
            f"image {images[name]} has no label; "
            + (
                f"{labels[twins[name]]} has nearly the same name: {twins[name]!a} differs from {name!a} in "
                "case, spaces or the Unicode form; rename one of them"
                if name in twins
                else f"save {other_labels[name]} as PNG"
                if name in other_labels
                else f"add {label_folder / name}.png or remove the image"
            )
            for name in sorted(lone_images)
        ]
        errors += [
            f"label {labels[name]} has no image; "
            + (
                f"save {other_images[name]} as PNG or JPEG"
                if name in other_images
                else f"add images/{self.split}/{name}.jpg or remove the label"
            )
            for name in sorted(lone_labels - set(twins.values()))
        ]
        raise_all(errors, f"{self.name} {self.split} in {self.root}")
        names = sorted(images)
        return [images[name] for name in names], [labels[name] for name in names]

    def _find(self, kind: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, Path]]:
        """Find the files of a kind and all other files there, both by relative name without suffix."""
        folder = self.root / kind / self.split
        if not folder.is_dir():
            raise DataError(f"folder {folder} is missing; --data-root takes {LAYOUT}")

        def name_of(path: Path) -> str:
            return path.relative_to(folder).with_suffix("").as_posix()

        files, others = find_files(folder, suffixes)
        found: dict[str, Path] = {}
        for path in files:
            name = name_of(path)
            if name in found:
                raise DataError(f"{found[name]} and {path} share the name {name!r}; keep one of them")
            found[name] = path
        if others:
            self.notes.append(
                f"not read in {folder}: {listed([str(path.relative_to(folder)) for path in others])} "
                f"(only {', '.join(suffixes)} are read, and linked folders unless they lead back)"
            )
        return found, {name_of(path): path for path in others}

    def _find_palette(self) -> np.ndarray:
        """Take the colours of the first label's palette, or generate colours if it has too few."""
        try:
            with Image.open(self.labels[0]) as label:
                colours = np.array(label.getpalette() or [], np.uint8).reshape(-1, 3)
                colours = colours[self.label_offset :][: len(self.classes)]
        except Exception:  # for damaged files, Pillow raises errors of nearly every type
            colours = np.zeros((0, 3), np.uint8)  # `check` will report the file with its reason
        enough = len(np.unique(colours, axis=0)) == len(self.classes)
        return colours if enough else distinct_palette(len(self.classes))
