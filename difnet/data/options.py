"""How the files of a data set are read: the options that all commands share."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typeguard

from difnet.utils.options import shown_default


@dataclass(frozen=True)
class Reading:
    """How labels are read; None stands for the default, or in evaluation for the choice made in training."""

    void_value: Annotated[tuple[int, ...] | None, shown_default("255")] = None
    """Numbers that mean void in index masks; void pixels are ignored. For folder."""
    label_offset: Annotated[int | None, shown_default("0")] = None
    """Number of the first class in index masks; 1 if classes are numbered from 1. For folder."""
    colours: Annotated[str | None, shown_default("a table in the folder")] = None
    """Colour table of colour-coded masks: a file (labelmap.txt, a CSV of name,r,g,b, or "R G B name" a line),
    or voc for VOC's colours. For folder."""
    snap_colours: Annotated[bool | None, shown_default("False")] = None
    """Give a pixel whose colour is not in the table the class of the nearest colour. For folder, camvid."""
    unannotated: Annotated[Literal["background", "void"] | None, shown_default("background")] = None
    """Pixels that no polygon, brush stroke or segment covers: a class of their own, or void. For folder."""
    unlabelled: Annotated[Literal["refuse", "background", "skip"] | None, shown_default("refuse")] = None
    """Images without any annotation: refuse them, call all of their pixels background, or leave the images
    out. For folder."""
    val_share: Annotated[float | None, shown_default("0.2")] = None
    """Share of the images that become the validation split where an export is not divided. For folder."""
    class_list: Annotated[Path | None, shown_default("a list in the folder")] = None
    """File that names the classes in the order of their numbers. For context."""
    subset: Annotated[bool | None, shown_default("False")] = None
    """Accept another number of images than the published set has. For the published sets."""

    def given(self) -> list[str]:
        """Names of the fields that are not None."""
        return [field.name for field in fields(Reading) if getattr(self, field.name) is not None]


def reading_of(options: Reading, saved: Reading | None = None) -> Reading:
    """Return the part of the options of a command, which inherits from `Reading`, that says how to read.

    Options that are not given come from `saved`.
    """
    values = {field.name: getattr(options, field.name) for field in fields(Reading)}
    if saved is not None:
        values = {name: getattr(saved, name) if value is None else value for name, value in values.items()}
    return Reading(**values)


def saved_reading(metadata: Mapping[str, Any], dataset: str, source: Path) -> Reading:
    """Return how labels were read in training, if that was on the same kind of data set.

    Args:
        metadata: saved with the weights.
        dataset: name of the data set that will be read.
        source: where the metadata are from, for an error.

    Raises:
        ValueError: the metadata hold something else; the message names the option that replaces it.
    """
    saved = metadata.get("reading")
    if saved is None:  # earlier versions had two options, for folders alone
        saved = {name: metadata[name] for name in ("void_value", "label_offset") if name in metadata}
    if not isinstance(saved, dict):
        raise ValueError(
            f"{source}: its metadata hold reading = {saved!r}, expected a mapping; save it without"
        )
    if metadata.get("dataset", "folder") != dataset:
        return Reading()
    return reading_from(saved, f"{source}: its metadata hold")


def reading_from(values: Mapping[str, Any], where: str) -> Reading:
    """Build a `Reading` from values that were saved as JSON.

    Raises:
        ValueError: a value is of another type; the message starts with `where` and names the option.
    """
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(Reading).items():
        value = values.get(name)
        if isinstance(value, list):
            value = tuple(value)
        if kind == Path | None and isinstance(value, str):
            value = Path(value)
        try:
            typeguard.check_type(value, kind)
        except typeguard.TypeCheckError:
            expected = str(kind).replace("typing.", "").replace(" | None", "")
            raise ValueError(
                f"{where} {name} = {values[name]!r}, expected {expected}; give --{name.replace('_', '-')}"
            ) from None
        found[name] = value
    return Reading(**found)


def saved_form(reading: Reading) -> dict[str, Any]:
    """Return the options that were given, as values for JSON."""
    values = {name: getattr(reading, name) for name in reading.given()}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
