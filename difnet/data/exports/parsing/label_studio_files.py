"""Finds the images that Label Studio's tasks name by addresses, and the pictures of its brush export."""

import base64
import binascii
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from difnet.data.errors import DataError, listed
from difnet.data.files.disk import IMAGE_SUFFIXES
from difnet.data.files.json_files import shown

# The user's name is written without dashes; what follows may hold some.
BRUSH_PICTURE = re.compile(r"task-(\d+)-annotation-(\d+)-by-([^-]*)-(.+)\.(png|npy)", re.IGNORECASE)
"""The name of a file of the brush export."""

_SCHEMES = ("http", "https", "s3", "gs", "azure-blob")
_UPLOADS = re.compile(r"(^|/)upload/\d+$")
"""Folders of Label Studio itself, which say nothing of the image."""

_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)", re.IGNORECASE)


def image_path(address: str) -> PurePosixPath:
    """The path in an address of an image, with its folders.

    Addresses are "/data/upload/1/4d5e6f70-name.jpg", "/data/local-files/?d=folder/name.jpg", paths, or those
    of storage and web servers, which may end in a signature after a question mark.
    """
    address = address.replace("\\", "/")
    # What follows a "#" belongs to the name of a file; only behind the name, it is part of a web address.
    path = _path(address.replace("#", "%23"), address)
    if "#" in address and not path.name.lower().endswith(IMAGE_SUFFIXES):
        return _path(address.partition("#")[0], address)
    return path


def _path(address: str, plain: str) -> PurePosixPath:
    """The path in an address without "#"; `plain` is the address as it was given."""
    try:
        parts = urlsplit(address)
    except ValueError:  # square brackets that are not those of an IPv6 address
        return PurePosixPath(plain)
    query = {
        key: unquote(value) for key, _, value in (part.partition("=") for part in parts.query.split("&"))
    }
    if "d" in query:
        return PurePosixPath(query["d"].replace("\\", "/"))
    if "fileuri" in query:
        try:
            return image_path(base64.b64decode(query["fileuri"] + "==").decode())
        except (binascii.Error, UnicodeError):
            pass
    if parts.scheme in _SCHEMES or parts.path.startswith("/data/"):
        return PurePosixPath(unquote(parts.path))
    return PurePosixPath(plain)


def address_of(data: dict[str, object], where: str) -> str:
    """The address of the image of a task.

    Args:
        data: the member of that name of a task.
        where: the file and the task, for messages.

    Raises:
        DataError: there is none, or several.
    """
    found = {
        key: value
        for key, value in data.items()
        if isinstance(value, str) and image_path(value).name.lower().endswith(IMAGE_SUFFIXES)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if "image" in found:
        return found["image"]
    if not found:
        texts = [f"{key}: {shown(value)}" for key, value in sorted(data.items())]
        raise DataError(
            f"{where} has no address in its data that ends like the name of an image ({listed(texts)}); "
            "correct the address in the file, or remove the task from it if it has no image"
        )
    raise DataError(
        f"{where} has several images in its data ({listed(sorted(found))}); split it into tasks of one image"
    )


class Images:
    """The images below a folder, by their names.

    Args:
        paths: the files.
        root: the folder.

    Attributes:
        strayed: the addresses that name another folder than that of the image which was taken for them.
    """

    def __init__(self, paths: Iterable[Path], root: Path):
        self.root = root
        self.strayed: list[str] = []
        self._by_name: dict[str, list[Path]] = {}
        self._by_kept_name: dict[str, list[Path]] = {}
        self._folders: set[str] = set()
        for path in paths:
            self._by_name.setdefault(path.name, []).append(path)
            self._by_kept_name.setdefault(_kept_name(path.name), []).append(path)
            self._folders.update(path.parts[len(root.parts) : -1])

    def find(self, address: str, where: str) -> Path:
        """Find the image that an address means.

        It is found by its name, else by its name without the code that an upload puts before it. Of several
        images of that name, the one counts whose folders end as those of the address. An image in another
        folder than that of the address is taken only if none of the folders that differ is in the root: they
        may have been renamed.

        Args:
            address: as the task gives it.
            where: the file and the task, for messages.

        Raises:
            DataError: there is no such image, or it is not certain which one is meant.
        """
        path = image_path(address)
        names = [path.name]
        if match := _UPLOADED.fullmatch(path.name):
            names.append(match[1])
        found: list[Path] = []
        for name in names:
            found = found or self._by_name.get(name, [])
        for name in names[1:]:  # an upload also replaces blanks and drops other characters
            found = found or self._by_kept_name.get(name, [])
        agreeing = 0  # folders
        for count in range(1, len(path.parts)):
            nearer = [it for it in found if it.parts[-count - 1 : -1] == path.parts[-count - 1 : -1]]
            if not nearer:
                break
            found, agreeing = nearer, count
        if not found:
            raise DataError(
                f"{where} annotates {address}, and {self.root} holds no {' or '.join(names)}; put the image "
                "there under that name"
            )
        if len(found) > 1:
            raise DataError(
                f"{where} annotates {address}, which may be {listed(list(map(str, found)))}; keep one of "
                f"them, or rename it to {path.name}"
            )
        if not _UPLOADS.search(str(path.parent)):
            self._check_folders(found[0], path, agreeing, where)
        return found[0]

    def _check_folders(self, image: Path, path: PurePosixPath, agreeing: int, where: str) -> None:
        """Refuse an image whose folder is not that of the address, or note it if the folder may be renamed.

        Args:
            image: the image that was found.
            path: that in the address.
            agreeing: how many folders before the file's name are the same in both.
            where: the file and the task, for messages.
        """
        others = [part for part in path.parts[: len(path.parts) - 1 - agreeing] if part != "/"]
        if any(part in self._folders for part in others):
            raise DataError(
                f"{where} annotates {path}, and {self.root} holds only {image}, which may be another image; "
                f"put the image that is meant into a folder {'/'.join(others)} there"
            )
        if others and len(image.parts) - len(self.root.parts) - 1 > agreeing:
            self.strayed.append(f"{path} is {image.relative_to(self.root)}")


def _kept_name(name: str) -> str:
    """What Label Studio makes of the name of an uploaded file."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


class BrushPictures:
    """The pictures of the brush export, one for each region."""

    def __init__(self, paths: Iterable[Path]):
        self._files: dict[tuple[str, str, str], Path] = {}
        self._unused = set(paths)
        for path in self._unused:
            match = BRUSH_PICTURE.fullmatch(path.name)
            if match and match[5].lower() == "png":
                self._files[match[1], match[2], match[4]] = path

    def find(self, task: object, annotation: object, control: str, label: str, number: int) -> Path | None:
        """Return the picture of a region; None if there is none.

        The name of a picture cannot be taken apart, as names of controls and labels may hold dashes. So the
        name is put together from what the JSON file says.

        Args:
            task, annotation: their numbers.
            control: name of the control in the labelling interface.
            label: the label of the region.
            number: the number of earlier regions of the annotation with the same control and label.
        """
        name = f"{control}-{label}-{number}".replace("/", "-").replace("\\", "-")
        path = self._files.get((str(task), str(annotation), name))
        if path is not None:
            self._unused.discard(path)
        return path

    def unused(self) -> int:
        """How many pictures were not asked for."""
        return len(self._unused)
