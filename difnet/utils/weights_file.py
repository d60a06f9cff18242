"""The file format of saved weights: safetensors, with configuration, metadata and a checksum in the header.

The header holds the network's `config` and the caller's `metadata` as JSON. Nothing is unpickled.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from difnet.utils.files import write_atomically

_RUN_FILES = ("best.safetensors", "last.safetensors")

_PACKAGE = Path(__file__).parents[1]
TRAINED = {
    "difnet-scenes": _PACKAGE / "weights",
    "difnet-resnet10t-camvid": _PACKAGE.parent / "weights",
}
"""Names of trained networks, and the folder in which each is looked for. The first folder is part of the
package, the second only of a clone, because its data are for non-commercial use. Beside weights lies a model
card."""


class SavedWeights(NamedTuple):
    """The content of a weights file.

    Attributes:
        path: the file.
        config: arguments of `difnet.create_model`, complete.
        metadata: what was saved beside the weights.
        tensors: the weights by name, on the CPU.
    """

    path: Path
    config: dict[str, Any]
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def write_weights(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and header, with the checksum of the tensors, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, {**header, "checksum": checksum(plain)}))


def read_weights(path: Path) -> SavedWeights:
    """Read the weights file `path`, or that of the run folder `path`: its best weights, else its last.

    If there is no such file or folder, `path` may be a name in `TRAINED`. These weights are stored in
    float16, so that the files are small, and are returned in float32.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: the file is damaged, or another program wrote or changed it.
    """
    name = str(path)
    path = _find(Path(os.path.expanduser(path)))
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a complete safetensors file ({error}); copy or save it again"
        ) from error
    try:
        config, metadata = (json.loads(header[key]) for key in ("config", "metadata"))
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: no configuration in its header; expected a file from difnet.save_model"
        ) from error
    for key, value in (("config", config), ("metadata", metadata)):
        if not isinstance(value, dict):
            raise _bad_header(path, key, value, "a JSON object")
    found = checksum(tensors)
    if header.get("checksum", found) != found:  # earlier versions wrote no checksum
        raise ValueError(
            f"{path}: its weights are not those that were saved (their checksum is {found}, that in the "
            f"header {header['checksum']}), as after a copy that was cut short; copy it again. If another "
            "program changed them on purpose, read them with safetensors.torch.load_file, load them into a "
            "network from difnet.create_model, and save that with difnet.save_model"
        )
    if path.parent == TRAINED.get(name):
        tensors = {
            it: tensor.float() if tensor.is_floating_point() else tensor for it, tensor in tensors.items()
        }
    return SavedWeights(path, _complete(path, config), metadata, tensors)


def checksum(tensors: dict[str, Tensor]) -> str:
    """Compute 8 hexadecimal digits that reveal damaged tensors; safetensors files have no checksum.

    PyTorch sums the 64-bit words of each tensor, and zlib combines the sums; zlib alone would be slow.
    """
    number = 0
    for name, tensor in sorted(tensors.items()):
        data = tensor.reshape(-1).view(torch.uint8)
        if data.storage_offset() % 8:  # a view that does not start at a 64-bit word of its memory
            data = data.clone()
        words = data.numel() // 8 * 8
        found = f"{name} {data[:words].view(torch.int64).sum().item()} {data[words:].tolist()}"
        number = zlib.crc32(found.encode(), number)
    return f"{number:08x}"


def _complete(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of what the configuration in a header leaves out.

    Raises:
        ValueError: the configuration holds what `create_model` does not take.
    """
    if "walks" in config and "walk_sources" not in config:  # the key of earlier versions
        config = {"walk_sources" if key == "walks" else key: value for key, value in config.items()}
    complete = {
        **{"name": None, "num_classes": None, "aspp": True, "walk_sources": [0, 1, 2, 3, 4], "in_chans": 3},
        **{"branches": 1, "diffusion": {}},  # earlier versions did not have them
        **config,
    }
    for key, value in complete.items():
        if key == "name":
            fits, expected = isinstance(value, str), "the name of a network"
        elif key in ("num_classes", "in_chans", "branches"):
            fits, expected = isinstance(value, int), "a whole number"
        elif key == "aspp":
            fits, expected = isinstance(value, int), "true or false"
        elif key == "diffusion":
            fits, expected = isinstance(value, dict), "a JSON object"
        elif key == "walk_sources":
            numbers = isinstance(value, list) and all(isinstance(source, int) for source in value)
            fits, expected = numbers or value is None, "a list of whole numbers, or null"
        else:
            fits, expected = False, "no such key"
        if not fits:
            raise _bad_header(path, f"config.{key}", value, expected)
    return complete


def _bad_header(path: Path, key: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        f"{path}: its header holds {key} = {value!r}, expected {expected}; save the network again with "
        "difnet.save_model"
    )


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir() and str(path) in TRAINED:
        file = TRAINED[str(path)] / f"{path}.safetensors"
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: {file} does not exist, so this installation does not have these weights; name a "
                "run folder or a weights file"
            )
        return file
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such file or run folder, nor the name of trained weights ({', '.join(TRAINED)})"
        )
    for name in _RUN_FILES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"{path}: holds neither {' nor '.join(_RUN_FILES)}; name a run folder or a weights file"
    )
