"""Saves and loads networks as files of their weights, and starts a network from the weights of another."""

import json
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difnet.modeling.factory import MODELS, create_model
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.options import DiffusionOptions
from difnet.modeling.skeleton import loadable_state, unwrapped
from difnet.utils.weights_file import SavedWeights, read_weights, write_weights

_MOST_CLASSES = 255
"""Number of classes that 8-bit labels can hold beside void."""


def save_model(model: nn.Module, path: str | Path, *, metadata: dict[str, Any] | None = None) -> None:
    """Write the weights of `model` to `path`, whole or not at all.

    The header holds `model.config` under "config" and `metadata` under "metadata". `load_model` builds an
    equal network of the same dtypes. A network that `load_model` could not build is refused here.

    Args:
        model: a network from `difnet.create_model`, on any device. It may be wrapped by torch.compile,
            DistributedDataParallel, DataParallel, AveragedModel or timm's ModelEmaV3, in any order.
        path: the file; its folder must exist. "~" is the home folder.
        metadata: a dict that JSON can hold, such as {"classes": [...], "palette": [[r, g, b], ...]}.

    Raises:
        TypeError: `model` is not such a network; or its layers are not those that its configuration builds
            (for example, they have other settings or forward hooks); or `metadata` is not a dict that JSON
            can hold. Nothing is written.
        OSError: the file cannot be written, or `path` is a folder, a device or a pipe. A file that was there
            before is unchanged.
    """
    network = unwrapped(model)
    tensors = loadable_state(network)
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict, got {metadata!r}")
    try:
        header = {"config": json.dumps(network.config), "metadata": json.dumps(metadata or {})}
    except TypeError as error:
        raise TypeError(f"metadata: expected values that JSON can hold: {error}") from error
    path = Path(os.path.expanduser(path))
    if not path.parent.exists():
        raise FileNotFoundError(f"{path}: its folder does not exist; create {path.parent} first")
    write_weights(path, tensors, header)


def load_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[DifNet | SimDeepLab, dict[str, Any]]:
    """Load a network that `save_model` wrote, in evaluation mode.

    Args:
        path: the file, or a run folder: then its best.safetensors, or last.safetensors if there is no best.
            If there is neither, the name of trained weights that are installed: "difnet-scenes" (drawn
            scenes) or "difnet-resnet10t-camvid" (street scenes; for non-commercial use).
        device: the device of the returned network.

    Returns:
        The network, in the dtypes in which it was saved (trained weights by name: in float32), on a CPU with
        channels-last weights; and the metadata saved with it.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: the file is damaged, or another program wrote or changed it.
    """
    saved = read_weights(Path(path))
    try:
        model = create_model(**saved.config)
        floats = {tensor.dtype for tensor in saved.tensors.values() if tensor.is_floating_point()}
        if len(floats) == 1:  # this also converts buffers that are not in the file
            model = model.to(floats.pop())
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in saved.tensors:
                tensor.data = tensor.data.to(saved.tensors[name].dtype)
        model.load_state_dict(saved.tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split("\n\t")[:2])  # PyTorch lists every tensor that does not fit
        raise ValueError(
            f"{saved.path}: its weights do not fit its configuration {saved.config}: {reason}"
        ) from error
    model = model.to(device).eval()
    # On a CPU, inference is fastest in this layout, with the same error (docs/benchmarks.md). It was not
    # measured on a GPU.
    if torch.device(device).type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    return model, saved.metadata


def load_for_pictures(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[DifNet | SimDeepLab, dict[str, Any]]:
    """Load a network as `load_model` does, in float32, for commands that read and write pictures.

    Raises:
        FileNotFoundError: as in `load_model`.
        ValueError: as in `load_model`; or the network does not take images of three channels, or it has more
            classes than 8-bit labels can hold beside void.
    """
    model, metadata = load_model(path, device)
    model = model.float()
    if model.num_classes > _MOST_CLASSES:
        raise ValueError(
            f"{path}: its network has {model.num_classes} classes, and 8-bit label pictures hold "
            f"{_MOST_CLASSES} at most; call it from Python: difnet.load_model"
        )
    channels = model.config["in_chans"]
    if channels != 3:
        raise ValueError(
            f"{path}: its network takes images of {channels} channels, and pictures are read with three "
            "(RGB); call it from Python: difnet.load_model"
        )
    return model, metadata


def init_from(model: nn.Module, path: str | Path, *, classes: Sequence[str] | None = None) -> str:
    """Load the weights of another network on the same backbone, as far as they fit `model`, in place.

    The backbones are loaded. The embeddings, mu and beta of the walks are loaded if both networks have the
    same walk sources, gates and number of transition matrices, the classifier and the importance head if both
    have the same classes. All other weights of the model stay as they are.

    Args:
        model: a network from `difnet.create_model`, which may be wrapped as in `save_model`.
        path: a file of `save_model`, or a run folder, as in `load_model`.
        classes: names of the model's classes. If they differ from those saved with the weights, classifier
            and importance head are not loaded. If either has no names, the numbers of classes decide.

    Returns:
        One line that says which parts were loaded, and which were not and why.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: the file is damaged, or of another backbone or number of channels, or a weight is NaN or
            infinite; the model is unchanged.
    """
    saved, network = read_weights(Path(path)), unwrapped(model)
    old, new = saved.config, network.config
    for key, (theirs, ours) in {
        "backbone": tuple(_architecture(config["name"]) for config in (old, new)),
        "in_chans": (old["in_chans"], new["in_chans"]),
    }.items():
        if theirs != ours:
            raise ValueError(
                f"{saved.path}: its {key} is {theirs}, that of the network to be trained is {ours}, so its "
                f"weights do not fit. Start from weights with the same {key}, or choose {theirs} here"
            )
    other_classes = _why_classes_differ(saved, new["num_classes"], classes)
    other_walks = _why_settings_differ("walk_sources", old, new) or _why_walks_differ(old, new)
    why_not = {
        "classifier": other_classes or _why_settings_differ("aspp", old, new),
        "importance": other_classes,
        **dict.fromkeys(("embeddings", "mu_logit", "beta_logit"), other_walks),
    }
    state = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in saved.tensors.items()
        if name in state and state[name].shape == tensor.shape and not why_not.get(_part(name))
    }
    missing = [name for name in state if name.startswith("seed_branch.") and name not in fitting]
    if missing:
        raise ValueError(
            f"{saved.path}: its seed branch does not fit, as {missing[0]} shows; nothing was loaded"
        )
    for name, tensor in fitting.items():
        if not tensor.to(state[name].dtype).isfinite().all():
            raise ValueError(
                f"{saved.path}: {name} holds values that are NaN or infinite, as after a training that "
                "diverged; nothing was loaded. Start from other weights"
            )
    network.load_state_dict(fitting, strict=False)

    parts = dict.fromkeys(_part(name) for name in state)  # a dict keeps the network's order
    incomplete = {_part(name) for name in state if name not in fitting}
    started = {_part(name) for name in fitting}
    loaded = [f"{part} in part" if part in incomplete else part for part in parts if part in started]
    fresh = [part for part in parts if part in incomplete]
    reasons = "; ".join(dict.fromkeys(reason for part in fresh if (reason := why_not.get(part))))
    return (
        f"weights from {saved.path}: loaded {', '.join(loaded)}; "
        + (f"newly initialised: {', '.join(fresh)}" if fresh else "nothing newly initialised")
        + (f" ({reasons})" if reasons else "")
    )


def _architecture(name: str) -> str:
    """The backbone of a network's name, without the tag that selects timm's weights."""
    return (MODELS[name][1] if name in MODELS else name).partition(".")[0]


def _why_classes_differ(saved: SavedWeights, count: int, names: Sequence[str] | None) -> str | None:
    """How the saved network's classes differ from `count` classes called `names`; None if equal."""
    old, theirs = saved.config["num_classes"], saved.metadata.get("classes")
    if old != count:
        return f"{old} classes there, {count} here"
    if names is None or not isinstance(theirs, list) or list(names) == theirs:
        return None
    pairs = enumerate(zip_longest(theirs, names))
    position, (there, here) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return f"class {position} is {there} there and {here} here"


def _why_settings_differ(key: str, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    return None if old[key] == new[key] else f"{key} {old[key]} there, {new[key]} here"


def _why_walks_differ(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """How the embeddings or gates of two networks differ in what they stand for; None if they do not."""
    options = [DiffusionOptions.make(config["diffusion"]) for config in (old, new)]
    for key in ("gates", "shared_transition"):
        theirs, ours = (getattr(it, key) for it in options)
        if theirs != ours:
            return f"{key} {theirs} there, {ours} here"
    return None


def _part(name: str) -> str:
    """The part of the network that a weight belongs to, such as "classifier"."""
    return name.partition(".")[0]
