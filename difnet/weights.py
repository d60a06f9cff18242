"""Weights on disk: safetensors, configuration and metadata as JSON in its header; nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from difnet.factory import create_model
from difnet.files import write_atomically
from difnet.model import DifNet, SimDeepLab

_RUN_FILES = ("best.safetensors", "last.safetensors")


def save_model(model: DifNet | SimDeepLab, path: str | Path, *, metadata: dict[str, Any]) -> None:
    """Write the weights of `model` to `path`, whole or not at all.

    The header holds `model.config` under "config" and `metadata` under "metadata".

    Args:
        model: a network from `difnet.create_model`, on any device.
        path: the file; its folder must exist.
        metadata: what JSON can hold, such as {"classes": [...], "palette": [[r, g, b], ...]}.

    Raises:
        TypeError: JSON cannot hold `metadata`.
        OSError: the file cannot be written; a file that was there before is left as it was.
    """
    try:
        header = {"config": json.dumps(model.config), "metadata": json.dumps(metadata)}
    except TypeError as error:
        raise TypeError(f"metadata: expected what JSON can hold: {error}") from error
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist; create {path.parent} first")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, save(tensors, header))


def load_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[DifNet | SimDeepLab, dict[str, Any]]:
    """Read a network that `save_model` wrote, in evaluation mode.

    Args:
        path: the file, or a run folder: then its best.safetensors, or last.safetensors if there is no best.
        device: where to put the network.

    Returns:
        The network, on a CPU with its weights laid out channels-last, and the metadata saved with it.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: the file is damaged, or another program wrote it.
    """
    path = _find(Path(path))
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or save it again") from error
    try:
        config, metadata = json.loads(header["config"]), json.loads(header["metadata"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: no configuration in its header; expected a file from difnet.save_model"
        ) from error
    try:
        model = create_model(**config)
        model.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: its weights do not fit its configuration {config}: {error}") from error
    model = model.to(device).eval()
    # The fastest way to run it on a CPU with the same error (docs/benchmarks.md); not measured on a GPU yet.
    if torch.device(device).type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    return model, metadata


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or run folder")
    for name in _RUN_FILES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"{path}: holds neither {' nor '.join(_RUN_FILES)}; name a run folder or a weights file"
    )
