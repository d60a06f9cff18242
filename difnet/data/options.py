"""How the files of a data set are read: the options that all commands share."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

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
    voc for VOC's colours, or none to read numbers. For folder."""
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


COLOUR_WORDS = ("voc", "none")
"""Values of --colours that are no file."""


class UnusedOption(ValueError):
    """An option of `Reading` that changes nothing for the data at hand.

    Attributes:
        option: the name of the field.
    """

    def __init__(self, option: str, data: str, takers: str | None = None):
        self.option = option
        does = f"changes nothing in how {data} is read"
        if takers is not None:
            does = f"is for {takers}, and not for {data}"
        super().__init__(f"--{option.replace('_', '-')} {does}; leave it out")


def reading_of(options: Reading) -> Reading:
    """Return the part of the options of a command, which inherits from `Reading`, that says how to read."""
    return Reading(**{field.name: getattr(options, field.name) for field in fields(Reading)})


def saved_reading(
    metadata: Mapping[str, Any], dataset: str, source: Path, given: Reading | None = None
) -> Reading:
    """Return how labels are to be read: by the options given, else as in training on the same kind of data.

    Args:
        metadata: saved with the weights.
        dataset: name of the data set that will be read.
        source: where the metadata are from, for an error.
        given: the options of the command.

    Raises:
        ValueError: the metadata hold something else; the message names the option that replaces it.
    """
    given = given or Reading()
    saved = metadata.get("reading")
    if saved is None:  # earlier versions had two options, for folders alone
        saved = {name: metadata[name] for name in ("void_value", "label_offset") if name in metadata}
    if metadata.get("dataset", "folder") != dataset:
        saved = {}
    if not isinstance(saved, dict):
        raise ValueError(
            f"{source}: its metadata hold reading = {saved!r}, expected a mapping; save it without that"
        )
    values = {field.name: getattr(given, field.name) for field in fields(Reading)}
    for name, kind in get_type_hints(Reading).items():
        if values[name] is None and saved.get(name) is not None:
            value = _restored(saved[name], kind)
            if value is None:
                raise ValueError(
                    f"{source}: its metadata hold {name} = {saved[name]!r}, expected {_EXPECTED[kind]}; give "
                    f"--{name.replace('_', '-')}"
                )
            values[name] = value
    return Reading(**values)


_EXPECTED: dict[Any, str] = {
    tuple[int, ...] | None: "a list of whole numbers",
    int | None: "a whole number",
    float | None: "a number",
    bool | None: "true or false",
    str | None: "a text",
    Path | None: "a text",
} | {
    kind: f"one of {', '.join(get_args(get_args(kind)[0]))}"
    for kind in get_type_hints(Reading).values()
    if get_origin(get_args(kind)[0]) is Literal
}
"""What JSON holds for a field, by its type."""


def _restored(value: Any, kind: Any) -> Any:
    """The value of a field of `Reading` that was saved as JSON; None if it is of another type."""
    if isinstance(value, list):
        value = tuple(value)
    numbers = value if isinstance(value, tuple) else (value,)
    if kind != bool | None and any(isinstance(it, bool) for it in numbers):  # for Python, True is 1
        return None
    if kind == Path | None and isinstance(value, str):
        return Path(value)
    try:
        return typeguard.check_type(value, kind)
    except typeguard.TypeCheckError:
        return None


def saved_form(reading: Reading) -> dict[str, Any]:
    """Return the options that were given, as values for JSON."""
    values = {name: getattr(reading, name) for name in reading.given()}
    for name, value in values.items():
        if isinstance(value, Path) or (name == "colours" and value not in COLOUR_WORDS):
            values[name] = os.path.abspath(os.path.expanduser(value))
    return values
