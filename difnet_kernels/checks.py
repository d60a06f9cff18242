"""Checks of public arguments. Every message names the argument, expectation, actual value and a remedy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from difnet_kernels.support.sharding import is_distributed, replicated


def _describe(value: Any) -> str:
    if isinstance(value, Tensor) and value.is_nested:
        return f"a nested tensor, {value.dtype}, on {value.device}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}, on {value.device}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__module__}.{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}"
    name = type(value).__name__
    return f"{name} {value!r}" if isinstance(value, (int, float)) else name


def _conversion(name: str, value: object, shape: str) -> str:
    """The end of a message that says how to convert `value` to a tensor; empty if no way is known."""
    if isinstance(value, (int, float)) or (
        hasattr(value, "__float__") and getattr(value, "shape", None) == ()
    ):
        return f"; pass torch.full({shape}, {float(value)})"
    if isinstance(value, (list, tuple, torch.nn.ParameterList)):
        tensors = len(value) > 0 and all(isinstance(x, Tensor) for x in value)
        # torch.as_tensor is for lists of numbers: a list of tensors would lose its gradients in it.
        return f"; pass torch.stack(list({name}))" if tensors else f"; pass torch.as_tensor({name})"
    return f"; pass torch.as_tensor({name})" if hasattr(value, "__array__") else ""


_DTYPES = frozenset((torch.float64, torch.float32, torch.bfloat16, torch.float16))


def check_tensor(name: str, value: object, axes: tuple[str, ...]) -> None:
    """Require a dense floating-point tensor with the named axes. Only the axis T may be empty."""
    usual = (
        isinstance(value, Tensor)
        and value.dtype in _DTYPES
        and value.layout is torch.strided
        and not value.is_nested  # before the shape, which a nested tensor does not have
        and value.ndim == len(axes)
        and 0 not in value.shape
    )
    if not usual:
        _check_unusual_tensor(name, value, axes)


def _check_unusual_tensor(name: str, value: object, axes: tuple[str, ...]) -> None:
    """Raise the error that says what is wrong, if anything is: masks and an empty axis T are valid."""
    expected = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected a floating-point tensor {expected}, got {_describe(value)}"
            f"{_conversion(name, value, expected)}"
        )
    if value.is_nested:
        remedy = "pad it with torch.nested.to_padded_tensor"
        if name == "node_bias":
            padding = "False" if value.dtype == torch.bool else 'float("-inf")'
            remedy += f"(node_bias, {padding}), which masks the padding"
        else:
            remedy += f"({name}, 0.0), and pass a boolean node_bias that is False at the padding"
        raise TypeError(f"{name}: expected a dense tensor {expected}, got {_describe(value)}; {remedy}")
    if value.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a dense tensor {expected}, got layout {value.layout}; pass {name}.to_dense()"
        )
    is_mask = name == "node_bias" and value.dtype == torch.bool
    if not is_mask and (not value.dtype.is_floating_point or value.dtype.itemsize < 2):
        convert = "dequantize" if value.is_quantized else "float"
        remedy = f"{name}.real or {name}.abs()" if value.is_complex() else f"{name}.{convert}()"
        if name == "node_bias":
            remedy += ", or node_bias.bool() if it is a mask that is 0 at masked nodes"
        raise TypeError(
            f"{name}: expected float64, float32, bfloat16 or float16, got {value.dtype}; "
            f"convert it, e.g. {remedy}"
        )
    if value.ndim != len(axes):
        is_map = value.ndim == 4 and "B" in axes
        view = f"{name}.flatten(1)" if len(axes) == 2 else f"{name}.permute(0, 2, 3, 1).flatten(1, 2)"
        shape = f"(B, {'1' if len(axes) == 2 else axes[-1]}, h, w)"
        remedy = f"; if it is a map {shape}, pass {view}" if is_map else ""
        if name == "node_bias" and value.ndim == 1:
            remedy = "; if it is (N,), the same for all images, pass node_bias.expand(B, -1)"
        if axes == ("T",) and value.ndim == 0:
            remedy = f"; pass {name}.expand(T) to give all T walks the same number"
        raise ValueError(f"{name}: expected {len(axes)} axes {expected}, got {_describe(value)}{remedy}")
    for axis, size in zip(axes, value.shape, strict=True):
        if size == 0 and axis != "T":
            raise ValueError(f"{name}: axis {axis} of {expected} is empty, got {_describe(value)}")


def check_like(
    name: str, value: Tensor, shape: Sequence[int], other: Tensor, expected: str, remedy: str = ""
) -> None:
    """Require a shape, which the message calls `expected`, and the device of `other`."""
    if value.shape != tuple(shape):
        remedy = f"; {remedy}" if remedy else ""
        raise ValueError(f"{name}: expected {expected} = {tuple(shape)}, got {_describe(value)}{remedy}")
    check_device(name, value, other)


def check_device(name: str, value: Tensor, other: Tensor) -> None:
    """Require the device of `other`, and a DTensor exactly where `other` is one."""
    if is_distributed(value) != is_distributed(other):
        raise TypeError(
            f"{name}: expected a {type(other).__name__} like the other inputs, got a "
            f"{type(value).__name__}; make all inputs DTensors with torch.distributed.tensor."
            "distribute_tensor, or none of them"
        )
    if value.device != other.device:
        raise ValueError(
            f"{name}: expected the device of the other inputs, {other.device}, got {value.device}; "
            f"move it with {name}.to({str(other.device)!r})"
        )


def check_shares(name: str, value: Tensor, num_walks: int, seed: Tensor) -> None:
    """Require one number for each walk, on the device of `seed`."""
    check_tensor(name, value, ("T",))
    remedy = f"give {num_walks} numbers"
    if num_walks == 0:
        remedy = "give one tensor for each walk in features, which is empty"
    check_like(name, value, (num_walks,), seed, f"(T,) for T = {num_walks} walks", remedy)


def check_share(name: str, value: object) -> None:
    """Require one number, as a tensor of any shape."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        remedy = "" if isinstance(value, Tensor) else _conversion(name, value, "()")
        raise ValueError(f"{name}: expected a tensor of one element, got {_describe(value)}{remedy}")


def _listing(features: object) -> str:
    """The end of a message that says how to make a list of tensors of `features`."""
    if hasattr(features, "__array__"):
        return "pass torch.as_tensor(features)"
    if isinstance(features, Mapping):
        return "pass list(features.values())"
    if isinstance(features, Iterable) and not isinstance(features, str):
        return "pass list(features)"
    return "for one walk pass [feature]"


def check_features(features: object, seed: Tensor) -> list[Tensor]:
    """The features of every walk as a list of tensors (B, N, d_t)."""
    in_one_tensor = isinstance(features, Tensor)
    if isinstance(features, Tensor):
        if features.is_nested:
            check_tensor("features", features, ("T", "B", "N", "d"))
        if features.ndim != 4:
            raise ValueError(
                "features: expected a sequence of T tensors (B, N, d_t) or one tensor (T, B, N, d), "
                f"got {_describe(features)}; for one walk pass [feature]"
            )
        features = list(features.unbind(0))
    if not isinstance(features, (list, tuple)):
        raise TypeError(
            "features: expected a list or tuple of tensors or a tensor, "
            f"got {_describe(features)}; {_listing(features)}"
        )
    for t, feature in enumerate(features):
        check_feature(f"features[{t}]", feature, seed, in_one_tensor=in_one_tensor)
    return list(features)


def check_feature(name: str, feature: Tensor, seed: Tensor, *, in_one_tensor: bool = False) -> None:
    """Require features (B, N, d) of one walk with the B and N of `seed`.

    `in_one_tensor` says that the features of all walks were passed as one tensor `features`.
    """
    check_tensor(name, feature, ("B", "N", "d"))
    remedy = ""
    if tuple(feature.shape[:2]) != tuple(seed.shape[:2]):
        if in_one_tensor:
            remedy = (
                "; if features is one map (B, d, h, w), pass [features.permute(0, 2, 3, 1).flatten(1, 2)]"
            )
        if (feature.shape[0], feature.shape[2]) == tuple(seed.shape[:2]):
            remedy = f"; if {name} is (B, d, N), pass {name}.mT"
            if in_one_tensor:
                remedy = "; if features is (T, B, d, N), pass features.mT"
        raise ValueError(
            f"{name} and seed: expected the same B and N, got {name} (B, N, d) = {tuple(feature.shape)} "
            f"and seed (B, N, k) = {tuple(seed.shape)}{remedy}"
        )
    check_device(name, feature, seed)


def check_node_bias(node_bias: Tensor, seed: Tensor, num_walks: int) -> Tensor:
    """The node bias of every walk, (T, B, N), as numbers."""
    per_walk = isinstance(node_bias, Tensor) and node_bias.ndim == 3
    check_tensor("node_bias", node_bias, ("T", "B", "N") if per_walk else ("B", "N"))
    shape = (num_walks, *seed.shape[:2])
    check_like(
        "node_bias", node_bias, shape if per_walk else shape[1:], seed, "(T, B, N)" if per_walk else "(B, N)"
    )
    node_bias = log_prior(node_bias)
    return node_bias if per_walk else node_bias.expand(shape)


def check_nodes(nodes: Tensor, feature: Tensor) -> Tensor:
    """The nodes of every image, int64 (B, n), all between 0 and N - 1."""
    batch, count, _ = feature.shape
    if not isinstance(nodes, Tensor) or nodes.dtype not in (torch.int64, torch.int32):
        remedy = "nodes.long()" if isinstance(nodes, Tensor) else "torch.as_tensor(nodes)"
        if isinstance(nodes, Tensor) and nodes.dtype == torch.bool:
            remedy = "nodes.nonzero().squeeze(-1) of a mask (N,)"
        raise TypeError(
            f"nodes: expected an int64 or int32 tensor (n,) or (B, n), got {_describe(nodes)}; pass {remedy}"
        )
    if nodes.is_nested:
        raise TypeError(
            f"nodes: expected a dense tensor (n,) or (B, n), got {_describe(nodes)}; call transition_rows "
            "for one image at a time, or repeat a node where an image has fewer"
        )
    if is_distributed(nodes) and not is_distributed(feature):
        check_device("nodes", nodes, feature)
    if nodes.ndim not in (1, 2) or (nodes.ndim == 2 and nodes.shape[0] != batch):
        raise ValueError(f"nodes: expected (n,) or (B, n) with B = {batch}, got {_describe(nodes)}")
    if not (torch.compiler.is_compiling() or nodes.is_meta or is_fake(nodes)):
        # Every process reads the nodes of all processes, so that all of them raise.
        values = nodes.full_tensor() if is_distributed(nodes) else nodes  # type: ignore[attr-defined]
        bad = values[(values < 0) | (values >= count)].tolist()
        if bad:
            raise IndexError(f"nodes: {bad[0]} is outside 0 .. {count - 1} (N = {count})")
    return replicated(nodes.to(feature.device, torch.int64).expand(batch, -1), feature)


def log_prior(node_bias: Tensor) -> Tensor:
    """The node bias as numbers. A boolean mask becomes 0 where it is True and -inf where it is False."""
    if node_bias.dtype != torch.bool:
        return node_bias
    return torch.zeros_like(node_bias, dtype=torch.float32).masked_fill(~node_bias, -torch.inf)
