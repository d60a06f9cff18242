"""Weights on disk: safetensors, configuration and metadata as JSON in its header; nothing is unpickled."""

import inspect
import json
import os
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, zip_longest
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.utils.model_ema import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from difnet.modeling.factory import MODELS, create_model
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.utils.files import write_atomically

_RUN_FILES = ("best.safetensors", "last.safetensors")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_HOLDERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel, ModelEmaV2, ModelEmaV3)
"""Classes that wrap a network and keep it in the attribute `module`."""

_LABELS = 255
"""Classes that a label of 8 bits can number beside void."""

_PLAIN = (bool, int, float, str, NoneType, torch.dtype, FunctionType, BuiltinFunctionType)
"""Types of the settings of layers that can be compared."""

_OF_TRAINING = {
    *("training", "momentum", "track_running_stats", "p", "drop_prob", "drop_rate", "scale_by_keep"),
    *("inplace", "grad_checkpointing", "fused_attn", "concurrent"),
}
"""Settings of layers that change training alone, or how something is computed and not what."""


def save_model(model: nn.Module, path: str | Path, *, metadata: dict[str, Any] | None = None) -> None:
    """Write the weights of `model` to `path`, whole or not at all.

    The header holds `model.config` under "config" and `metadata` under "metadata". `load_model` reads an
    equal network, of the same dtypes; a network that it could not read is refused here.

    Args:
        model: a network from `difnet.create_model`, on any device; also as torch.compile,
            DistributedDataParallel, DataParallel, AveragedModel or timm's ModelEmaV3 hold it, in any order.
        path: the file; its folder must exist. "~" is the home folder.
        metadata: what JSON can hold, such as {"classes": [...], "palette": [[r, g, b], ...]}.

    Raises:
        TypeError: `model` is not such a network, or its layers are not those that its configuration builds
            (of other settings, say, or with forward hooks), or `metadata` is no dict, or JSON cannot hold it.
            Nothing is written.
        OSError: the file cannot be written, or `path` is no file but a folder, a device or a pipe; what was
            there before is left as it was.
    """
    network = unwrapped(model)
    tensors = _savable(network)
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata: expected a dict with what is to be kept by name, got {metadata!r}")
    try:
        header = {"config": json.dumps(network.config), "metadata": json.dumps(metadata or {})}
    except TypeError as error:
        raise TypeError(f"metadata: expected what JSON can hold: {error}") from error
    path = Path(os.path.expanduser(path))
    if not path.parent.exists():
        raise FileNotFoundError(f"{path}: its folder does not exist; create {path.parent} first")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, {**header, "checksum": checksum(plain)}))


def load_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[DifNet | SimDeepLab, dict[str, Any]]:
    """Read a network that `save_model` wrote, in evaluation mode.

    Args:
        path: the file, or a run folder: then its best.safetensors, or last.safetensors if there is no best.
        device: where to put the network.

    Returns:
        The network, of the dtypes that it was saved in, on a CPU with its weights laid out channels-last; and
        the metadata saved with it.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: the file is damaged, or another program wrote or changed it.
    """
    saved = read_weights(Path(path))
    try:
        model = create_model(**saved.config)
        floats = {tensor.dtype for tensor in saved.tensors.values() if tensor.is_floating_point()}
        if len(floats) == 1:  # also of buffers that are not in the file
            model = model.to(floats.pop())
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in saved.tensors:
                tensor.data = tensor.data.to(saved.tensors[name].dtype)
        model.load_state_dict(saved.tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split("\n\t")[:2])  # PyTorch lists all tensors that do not fit
        raise ValueError(
            f"{saved.path}: its weights do not fit its configuration {saved.config}: {reason}"
        ) from error
    model = model.to(device).eval()
    # The fastest way to run it on a CPU with the same error (docs/benchmarks.md); not measured on a GPU yet.
    if torch.device(device).type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    return model, saved.metadata


def load_for_pictures(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[DifNet | SimDeepLab, dict[str, Any]]:
    """Load a network as `load_model` does, in float32, and refuse one that the commands cannot use.

    Raises:
        ValueError: also where the network takes images of other channels than three, or has more classes
            than 8 bits can number beside void.
    """
    model, metadata = load_model(path, device)
    model = model.float()
    if model.num_classes > _LABELS:
        raise ValueError(
            f"{path}: its network has {model.num_classes} classes, and labels are pictures of 8 bits, of "
            f"{_LABELS} classes at most; call it from Python: difnet.load_model"
        )
    channels = model.config["in_chans"]
    if channels != 3:
        raise ValueError(
            f"{path}: its network takes images of {channels} channels, and pictures are read as three (RGB); "
            "call it from Python: difnet.load_model"
        )
    return model, metadata


def init_from(model: nn.Module, path: str | Path, *, classes: Sequence[str] | None = None) -> str:
    """Start `model` from the weights of another network on the same backbone, as far as they fit.

    The backbones are loaded; so are the embeddings and shares of the walks where both networks have the same
    walks, and the classifier with its importance head where both have the same classes. What else the model
    has keeps the weights that it has.

    Args:
        model: a network from `difnet.create_model`, or what holds it, as in `save_model`; changed in place.
        path: a file of `save_model`, or a run folder, as in `load_model`.
        classes: names of the model's classes. Where they are not those that were saved with the weights, the
            classifier and the importance head start anew; without names, where the numbers of classes differ.

    Returns:
        One line that says what was loaded, and what starts anew and why.

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
                f"{saved.path}: its {key} is {theirs}, that of the network to be trained {ours}: nothing of "
                f"it would fit. Start from weights of the same {key}, or choose the same"
            )
    other_classes = _why_classes_differ(saved, new["num_classes"], classes)
    other_walks = _unlike("walks", old["walks"], new["walks"])
    anew = {
        "classifier": other_classes or _unlike("aspp", old["aspp"], new["aspp"]),
        "importance": other_classes,
        **dict.fromkeys(("embeddings", "mu_logit", "beta_logit"), other_walks),
    }
    state = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in saved.tensors.items()
        if name in state and state[name].shape == tensor.shape and not anew.get(name.partition(".")[0])
    }
    missing = [name for name in state if name.startswith("seed_branch.") and name not in fitting]
    if missing:
        raise ValueError(
            f"{saved.path}: its seed branch does not fit, as {missing[0]} shows; nothing was loaded"
        )
    for name, tensor in fitting.items():
        if not tensor.to(state[name].dtype).isfinite().all():
            raise ValueError(
                f"{saved.path}: {name} holds numbers that are NaN or infinite, as after a training that "
                "diverged; nothing was loaded. Start from other weights"
            )
    network.load_state_dict(fitting, strict=False)

    parts = dict.fromkeys(name.partition(".")[0] for name in state)
    fresh = [part for part in parts if any(_is_of(name, part) and name not in fitting for name in state)]
    loaded = [
        f"{part} in part" if part in fresh else part
        for part in parts
        if any(_is_of(name, part) for name in fitting)
    ]
    reasons = "; ".join(dict.fromkeys(reason for part in fresh if (reason := anew.get(part))))
    return (
        f"weights from {saved.path}: loaded {', '.join(loaded)}; "
        + (f"starting anew: {', '.join(fresh)}" if fresh else "nothing starts anew")
        + (f" ({reasons})" if reasons else "")
    )


def unwrapped(model: nn.Module) -> DifNet | SimDeepLab:
    """The network in `model`, out of whatever holds it: see `save_model`.

    Raises:
        TypeError: there is none.
    """
    network = model
    while held := _held_by(network):
        network = getattr(network, held)
    if type(network) is DifNet or type(network) is SimDeepLab:
        return network
    kinds = " in ".join(dict.fromkeys(type(it).__name__ for it in (network, model)))
    raise TypeError(
        f"model: expected a network from difnet.create_model, got {kinds}. Pass the network itself. If it is "
        "sharded, gather its weights, load them into a network from difnet.create_model, and save that"
    )


def _held_by(module: nn.Module) -> str | None:
    """The attribute of `module` that holds the network proper, where `module` is but a wrapper."""
    if isinstance(module, _HOLDERS):
        return "module"
    # torch.compile's; its class is not named here, because that would import the compiler.
    return "_orig_mod" if isinstance(module, nn.Module) and "_orig_mod" in module._modules else None


def _savable(network: DifNet | SimDeepLab) -> dict[str, Tensor]:
    """The weights by the names that `load_model` knows.

    Raises:
        TypeError: `load_model` would not build an equal network from them.
    """
    try:
        twin = _skeleton(json.dumps(network.config))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"model: its configuration {network.config} builds no network: {error}") from error
    held = [
        (f"{name}.", f"{name}.{inner}.") for name, it in network.named_modules() if (inner := _held_by(it))
    ]
    held.sort(key=lambda pair: len(pair[1]), reverse=True)  # the innermost first

    def plain(name: str) -> str:
        for outside, inside in held:
            if name.startswith(inside):
                name = outside + name[len(inside) :]
        return name

    modules = network.named_modules(remove_duplicate=False)
    layers = {plain(name + ".")[:-1]: layer for name, layer in modules if not _held_by(layer)}
    for name, expected in twin.named_modules():
        _compare_layers(name, layers.get(name), expected)
    state = {plain(name): tensor for name, tensor in network.state_dict().items()}
    built = twin.state_dict()
    for name in [*built, *state]:
        if name not in state or name not in built:
            raise _unlike_config(name, "there" if name in state else "missing")
    for name, tensor in state.items():
        _compare_tensors(name, tensor, built[name])
    _check_apart({name: tensor for name, tensor in state.items() if tensor.numel()})
    return state


def _check_apart(state: dict[str, Tensor]) -> None:
    """See that no two tensors share memory, which loading would not restore."""
    places = []
    for name, tensor in state.items():
        length = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr()
        places.append((str(tensor.device), start, start + length * tensor.element_size(), name))
    places.sort(key=lambda place: place[:2])  # and the earlier in the network first
    for (device, start, end, name), (next_device, next_start, next_end, other) in pairwise(places):
        if (device, start, end) == (next_device, next_start, next_end):
            raise _unlike_config(other, f"the same tensor as {name}, which loading would not tie again")
        if device == next_device and next_start < end:
            raise _unlike_config(other, f"in part in the memory of {name}; give each a tensor of its own")


@lru_cache(maxsize=1)
def _skeleton(config: str) -> DifNet | SimDeepLab:
    """The network that `config` builds, without values."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return create_model(**json.loads(config))


def _compare_layers(name: str, layer: nn.Module | None, expected: nn.Module) -> None:
    if layer is None:
        raise _unlike_config(name, f"missing in place of {type(expected).__name__}")
    # In evaluation, a synchronised batch norm is one like any other.
    alike = isinstance(layer, nn.SyncBatchNorm) and isinstance(expected, _BatchNorm)
    if type(layer) is not type(expected) and not alike:
        raise _unlike_config(name, f"of class {type(layer).__name__} in place of {type(expected).__name__}")
    values, built_values = vars(layer), vars(expected)
    for method in values.keys() - built_values.keys():
        if callable(getattr(type(layer), method, None)) and not _does_the_same(layer, method):
            raise _unlike_config(name, f"given a {method} of its own in place of that of its class")
    for setting, built in built_values.items():
        value = values.get(setting)
        if not setting.startswith("_") and setting not in _OF_TRAINING and _differ(value, built):
            raise _unlike_config(name, f"built with {setting} {built} and has {value} now")
    for hooks in ("forward_hooks", "forward_pre_hooks"):
        count, built = (len(vars(it)[f"_{hooks}"]) for it in (layer, expected))
        if count != built:
            raise _unlike_config(
                name, f"built with {built} {hooks} and has {count} now, which must be removed to save it"
            )
    inner, built = (list(it._modules) for it in (layer, expected))
    if added := [child for child in inner if child not in built]:
        raise _unlike_config(f"{name}.{added[0]}".lstrip("."), "a layer that is not in it")
    if inner != built and len(inner) == len(built):
        raise _unlike_config(name, f"built of {', '.join(built)}, which now come as {', '.join(inner)}")


def _differ(value: Any, built: Any) -> bool:
    """Whether two settings are different, as far as they can be compared."""
    if not (_is_plain(value) and _is_plain(built)):
        return _is_plain(value) != _is_plain(built)
    # Functions that are written in a constructor are made anew for each layer.
    return getattr(value, "__code__", value) != getattr(built, "__code__", built)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, _PLAIN)


def _does_the_same(layer: nn.Module, attribute: str) -> bool:
    """Whether a method set on a layer changes training alone, or is that of its class.

    That may be compiled, run by Accelerate in another precision, or set by Accelerate when it is unwrapped.
    """
    method, original = vars(layer)[attribute], getattr(type(layer), attribute)
    plain = getattr(method, "_torchdynamo_orig_callable", method)
    by_accelerate = f"_original_{attribute}" in vars(layer) and inspect.unwrap(method) is original
    return attribute in ("train", "eval") or getattr(plain, "__func__", None) is original or by_accelerate


def _compare_tensors(name: str, tensor: Any, expected: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter):
        kind = type(tensor).__name__
        raise _unlike_config(name, f"a {kind}, no plain tensor; if it is sharded, gather the weights first")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise _unlike_config(name, f"sparse or quantised ({tensor.layout}, {tensor.dtype})")
    if tensor.is_meta:
        raise _unlike_config(name, "on the meta device and holds no values")
    if tensor.shape != expected.shape:
        raise _unlike_config(name, f"of shape {tuple(tensor.shape)} in place of {tuple(expected.shape)}")
    if tensor.dtype != expected.dtype and not {tensor.dtype, expected.dtype} <= set(_FLOATS):
        raise _unlike_config(name, f"of {tensor.dtype} in place of {expected.dtype}")


def _unlike_config(name: str, what: str) -> TypeError:
    return TypeError(
        f"model: load_model could not build it from its configuration: {name or 'the network'} is {what}. "
        "Save a network as difnet.create_model builds it, with weights of its own; where its state_dict() "
        "fits, difnet.create_model(**model.config) can load that and be saved"
    )


class SavedWeights(NamedTuple):
    """A file of `save_model`."""

    path: Path
    config: dict[str, Any]
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_weights(path: Path) -> SavedWeights:
    """Read a file of `save_model`, or of a run folder, as `load_model` does, without building the network.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: the file is damaged, or another program wrote or changed it.
    """
    path = _find(Path(os.path.expanduser(path)))
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or save it again") from error
    try:
        config, metadata = (json.loads(header[key]) for key in ("config", "metadata"))
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: no configuration in its header; expected a file from difnet.save_model"
        ) from error
    for key, value in (("config", config), ("metadata", metadata)):
        if not isinstance(value, dict):
            raise _bad_header(path, key, value, "a JSON object")
    if header.get("checksum", known := checksum(tensors)) != known:  # earlier versions wrote none
        raise ValueError(
            f"{path}: its weights are not those that were saved (their checksum is {known}, that in the "
            f"header {header['checksum']}), as after a copy that was cut short; copy it again. If another "
            "program changed them on purpose, read them with safetensors.torch.load_file, load them into a "
            "network from difnet.create_model, and save that with difnet.save_model"
        )
    return SavedWeights(path, _complete(path, config), metadata, tensors)


def checksum(tensors: dict[str, Tensor]) -> str:
    """What tells damaged tensors from whole ones: the sums of their 64-bit words, and from these one number.

    Safetensors keeps none. PyTorch adds up the words, because zlib alone is slow over all bytes.
    """
    number = 0
    for name, tensor in sorted(tensors.items()):
        data = tensor.reshape(-1).view(torch.uint8)
        if data.storage_offset() % 8:  # a view of larger memory, in which 64-bit words begin elsewhere
            data = data.clone()
        words = data.numel() // 8 * 8
        found = f"{name} {data[:words].view(torch.int64).sum().item()} {data[words:].tolist()}"
        number = zlib.crc32(found.encode(), number)
    return f"{number:08x}"


def _complete(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration in a header, with the defaults of what it leaves out.

    Raises:
        ValueError: it holds what `create_model` does not take.
    """
    complete = {
        **{"name": None, "num_classes": None, "aspp": True, "walks": [0, 1, 2, 3, 4], "in_chans": 3},
        **config,
    }
    for key, value in complete.items():
        if key == "name":
            fits, expected = isinstance(value, str), "the name of a network"
        elif key in ("num_classes", "in_chans"):
            fits, expected = isinstance(value, int), "a whole number"
        elif key == "aspp":
            fits, expected = isinstance(value, int), "true or false"
        elif key == "walks":
            numbers = isinstance(value, list) and all(isinstance(walk, int) for walk in value)
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
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or run folder")
    for name in _RUN_FILES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"{path}: holds neither {' nor '.join(_RUN_FILES)}; name a run folder or a weights file"
    )


def _architecture(name: str) -> str:
    """The backbone of a network's name, without the tag that tells timm's weights apart."""
    return (MODELS[name][1] if name in MODELS else name).partition(".")[0]


def _why_classes_differ(saved: SavedWeights, count: int, names: Sequence[str] | None) -> str | None:
    """Why scores of the saved network are not scores of one of `count` classes, called `names`; or None."""
    old, theirs = saved.config["num_classes"], saved.metadata.get("classes")
    if old != count:
        return f"{old} classes there, {count} here"
    if names is None or not isinstance(theirs, list) or list(names) == theirs:
        return None
    pairs = enumerate(zip_longest(theirs, names))
    position, (there, here) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return f"class {position} is {there} there and {here} here"


def _unlike(argument: str, old: Any, new: Any) -> str | None:
    return None if old == new else f"{argument} {old} there, {new} here"


def _is_of(name: str, part: str) -> bool:
    return name.partition(".")[0] == part
