"""Finds and reads the JSON files that annotation tools write."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from difnet.data.errors import DataError
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.files.walk import walk
from difnet.utils.files import read_text

Kind = TypeVar("Kind")

_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def some_json_files(root: Path, count: int = 20, many: int = 200) -> Iterator[Path]:
    """Yield a few files of each folder below `root` that end in .json, by which a tool is recognised.

    Files that are named like an image beside them come first, because some tools write one for each image.
    Of the others, those are taken whose places among the sorted names are evenly spread: there may be files
    of other programs in the same folder.

    Args:
        root: where to begin.
        count: how many files of a folder are yielded at most, beside two that are named like images.
        many: how many files are yielded in all before one of each further folder has to do.
    """
    yielded = 0
    for folder, names, _ in walk(root):
        files = sorted(it for it in names if it.lower().endswith(".json") and not it.startswith("."))
        if not files:
            continue
        stems = {os.path.splitext(name)[0] for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
        beside = [name for name in files if name[: -len(".json")] in stems][:2]
        spread = [files[place * len(files) // count] for place in range(count)]
        chosen = list(dict.fromkeys([*beside, *(files if len(files) <= count else spread)]))
        for name in chosen if yielded < many else chosen[:1]:
            yielded += 1
            yield Path(folder, name)


def ends_of(path: str | Path, size: int = 1 << 16) -> str:
    """Return the first and the last `size` bytes of a file, as text without white space at both ends.

    A tool's format shows there without reading a file of many megabytes. What cannot be read gives "".
    """
    try:
        with open(path, "rb") as file:
            head = file.read(size)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(len(head), length - size))
            text = (head + file.read(size)).decode("utf-8", "replace")
    except OSError:
        return ""
    return text.lstrip("\ufeff").strip()


def read_json(path: str | Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file; `object_hook` may replace each object, as in `json.loads`.

    Raises:
        DataError: the file cannot be read, or holds no JSON.
    """
    try:
        return json.loads(read_text(Path(path)), object_hook=object_hook)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); restore it or make it readable"
        ) from error
    except UnicodeError as error:
        raise DataError(f"{path} cannot be read ({error}); save it as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply; export it again") from error
    except ValueError as error:
        raise DataError(
            f"{path} holds no JSON ({error}); it was cut or edited: restore it or export it again"
        ) from error


def member(owner: Any, key: str, kind: type[Kind], where: str, remedy: str = "export it again") -> Kind:
    """Return `owner[key]`, which must be of a kind of JSON values; float takes whole numbers too.

    Args:
        owner: a value read from JSON.
        key: the name of the member.
        kind: dict, list, str, int, float or bool.
        where: the file and the place of `owner` in it, such as "a.json, shape 3".
        remedy: what the user can do.

    Raises:
        DataError: `owner` is no object, lacks the member, or holds another kind there (or a number that is
            infinite or not a number).
    """
    if not isinstance(owner, Mapping):
        raise DataError(f"{where} holds {shown(owner)} in place of an object; {remedy}")
    if key not in owner:
        raise DataError(f"{where} lacks {key}; {remedy}")
    value = owner[key]
    right = isinstance(value, (int, float) if kind is float else kind)
    if isinstance(value, bool) and kind is not bool:
        right = False
    if right and kind is float:
        right = is_finite(value)
    if not right:
        raise DataError(f"{where} holds {key} = {shown(value)}, expected {_NAMES[kind]}; {remedy}")
    return value


def is_finite(value: Any) -> bool:
    """Whether a value read from JSON is a number that a float can hold: JSON may hold NaN and 10^400."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: Any, length: int = 60) -> str:
    """A value read from JSON, cut for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
