"""Checks before saving that the configuration of a network builds an equal network.

`load_model` builds a network from the saved configuration. So `save_model` builds it too, on the meta device
(the skeleton), and refuses a network that differs from it in the class, settings, methods or hooks of a
layer, or in the name, shape or kind of a tensor.
"""

import inspect
import json
from functools import lru_cache
from itertools import pairwise
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from difnet.modeling.factory import create_model
from difnet.modeling.network import DifNet, SimDeepLab

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel, ModelEmaV2, ModelEmaV3)
"""Classes that wrap a network and keep it in the attribute `module`."""

_PLAIN = (bool, int, float, str, NoneType, torch.dtype, FunctionType, BuiltinFunctionType)
"""Types of settings that can be compared."""

_TRAINING_SETTINGS = {
    *("training", "momentum", "track_running_stats", "p", "drop_prob", "drop_rate", "scale_by_keep"),
    *("inplace", "grad_checkpointing", "fused_attn"),
}
"""Settings of layers that change only training, or how something is computed but not its result."""


def unwrapped(model: nn.Module) -> DifNet | SimDeepLab:
    """Return the network inside any wrappers: those of torch.compile, and the classes in `_WRAPPERS`.

    Raises:
        TypeError: there is no network of this package inside.
    """
    network = model
    while attribute := _wrapped_attribute(network):
        network = getattr(network, attribute)
    if type(network) is DifNet or type(network) is SimDeepLab:
        return network
    kinds = " in ".join(dict.fromkeys(type(it).__name__ for it in (network, model)))
    raise TypeError(
        f"model: expected a network from difnet.create_model, got {kinds}. Pass the network itself. If it is "
        "sharded, gather its weights, load them into a network from difnet.create_model, and save that"
    )


def _wrapped_attribute(module: nn.Module) -> str | None:
    """The attribute that holds the wrapped module, if `module` is a wrapper."""
    if isinstance(module, _WRAPPERS):
        return "module"
    # torch.compile's wrapper. Naming its class here would import the compiler.
    return "_orig_mod" if isinstance(module, nn.Module) and "_orig_mod" in module._modules else None


def loadable_state(network: DifNet | SimDeepLab) -> dict[str, Tensor]:
    """Return the weights under the names that `load_model` expects.

    Raises:
        TypeError: `load_model` would not build an equal network from them.
    """
    try:
        expected_network = _skeleton(json.dumps(network.config))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"model: its configuration {network.config} builds no network: {error}") from error
    wrappers = [
        (f"{name}.", f"{name}.{attribute}.")
        for name, module in network.named_modules()
        if (attribute := _wrapped_attribute(module))
    ]
    wrappers.sort(key=lambda pair: len(pair[1]), reverse=True)  # innermost first

    def plain(name: str) -> str:
        """The name without the attributes of wrappers inside the network."""
        for outside, inside in wrappers:
            if name.startswith(inside):
                name = outside + name[len(inside) :]
        return name

    modules = network.named_modules(remove_duplicate=False)
    layers = {plain(name + ".")[:-1]: layer for name, layer in modules if not _wrapped_attribute(layer)}
    for name, expected in expected_network.named_modules():
        _compare_layers(name, layers.get(name), expected)
    state = {plain(name): tensor for name, tensor in network.state_dict().items()}
    expected_state = expected_network.state_dict()
    for name in [*expected_state, *state]:
        if name not in state or name not in expected_state:
            raise _unlike_config(
                name, "a tensor that the configuration does not build" if name in state else "missing"
            )
    for name, tensor in state.items():
        _compare_tensors(name, tensor, expected_state[name])
    _check_no_shared_memory({name: tensor for name, tensor in state.items() if tensor.numel()})
    return state


@lru_cache(maxsize=1)
def _skeleton(config: str) -> DifNet | SimDeepLab:
    """The network that `config` builds, without values."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return create_model(**json.loads(config))


def _check_no_shared_memory(state: dict[str, Tensor]) -> None:
    """Check that no two tensors share memory, because loading would not share it again."""
    places = []
    for name, tensor in state.items():
        length = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr()
        places.append((str(tensor.device), start, start + length * tensor.element_size(), name))
    places.sort(key=lambda place: place[:2])  # a stable sort: tensors at one address keep the network's order
    for (device, start, end, name), (next_device, next_start, next_end, other) in pairwise(places):
        if (device, start, end) == (next_device, next_start, next_end):
            raise _unlike_config(other, f"the same tensor as {name}, and loading would not tie them again")
        if device == next_device and next_start < end:
            raise _unlike_config(other, f"partly in the memory of {name}; give each its own memory")


def _compare_layers(name: str, layer: nn.Module | None, expected: nn.Module) -> None:
    if layer is None:
        raise _unlike_config(name, f"missing, and should be a {type(expected).__name__}")
    # In evaluation, a synchronised batch norm computes the same as a plain one.
    same_in_evaluation = isinstance(layer, nn.SyncBatchNorm) and isinstance(expected, _BatchNorm)
    if type(layer) is not type(expected) and not same_in_evaluation:
        raise _unlike_config(name, f"of class {type(layer).__name__} instead of {type(expected).__name__}")
    values, expected_values = vars(layer), vars(expected)
    for method in values.keys() - expected_values.keys():
        if callable(getattr(type(layer), method, None)) and not _does_the_same(layer, method):
            raise _unlike_config(name, f"a {type(layer).__name__} whose method {method} was replaced")
    for setting, built in expected_values.items():
        value = values.get(setting)
        if not setting.startswith("_") and setting not in _TRAINING_SETTINGS and _differ(value, built):
            raise _unlike_config(name, f"built with {setting} {built} and now has {value}")
    for hooks in ("forward_hooks", "forward_pre_hooks"):
        count, built = (len(vars(it)[f"_{hooks}"]) for it in (layer, expected))
        if count != built:
            raise _unlike_config(
                name, f"built with {built} {hooks} and now has {count}, which must be removed to save it"
            )
    children, built = (list(it._modules) for it in (layer, expected))
    if added := [child for child in children if child not in built]:
        raise _unlike_config(
            f"{name}.{added[0]}".lstrip("."), "a layer that the configuration does not build"
        )
    if children != built and len(children) == len(built):
        raise _unlike_config(
            name, f"built with the layers {', '.join(built)} and now has the order {', '.join(children)}"
        )


def _differ(value: Any, built: Any) -> bool:
    """Whether two settings differ, as far as they can be compared."""
    if not (_is_plain(value) and _is_plain(built)):
        return _is_plain(value) != _is_plain(built)
    # A function defined inside a constructor is a new object for each layer: compare its code.
    return getattr(value, "__code__", value) != getattr(built, "__code__", built)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, _PLAIN)


def _does_the_same(layer: nn.Module, attribute: str) -> bool:
    """Whether a method set on a layer changes only training, or is the method of the layer's class.

    The method of the class may be compiled, wrapped by Accelerate for another precision, or set again by
    Accelerate when it removes that wrapper.
    """
    method, original = vars(layer)[attribute], getattr(type(layer), attribute)
    plain = getattr(method, "_torchdynamo_orig_callable", method)
    by_accelerate = f"_original_{attribute}" in vars(layer) and inspect.unwrap(method) is original
    return attribute in ("train", "eval") or getattr(plain, "__func__", None) is original or by_accelerate


def _compare_tensors(name: str, tensor: Any, expected: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter):
        kind = type(tensor).__name__
        raise _unlike_config(
            name, f"a {kind}, not a plain tensor; if it is sharded, gather the weights first"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise _unlike_config(name, f"sparse or quantised ({tensor.layout}, {tensor.dtype})")
    if tensor.is_meta:
        raise _unlike_config(name, "on the meta device and holds no values")
    if tensor.shape != expected.shape:
        raise _unlike_config(name, f"of shape {tuple(tensor.shape)} instead of {tuple(expected.shape)}")
    if tensor.dtype != expected.dtype and not {tensor.dtype, expected.dtype} <= set(_FLOATS):
        raise _unlike_config(name, f"of {tensor.dtype} instead of {expected.dtype}")


def _unlike_config(name: str, what: str) -> TypeError:
    return TypeError(
        f"model: its configuration does not build the same network: {name or 'the network'} is {what}. "
        "Save a network as difnet.create_model builds it, with its own weights. If its state_dict() fits, "
        "load that into difnet.create_model(**model.config) and save the result"
    )
