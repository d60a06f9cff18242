"""What users call: checks, choice of a backend, dtypes. The mathematics is in `difnet_kernels.reference`."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from difnet_kernels import blockwise, reference
from difnet_kernels.autograd import cascade, same_layout
from difnet_kernels.backends import choose
from difnet_kernels.support.sharding import is_distributed, over_images, replicated


def cascaded_random_walk(
    features: Sequence[Tensor] | Tensor,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    *,
    state: Tensor | None = None,
    node_bias: Tensor | None = None,
    return_states: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""T random walks over the nodes of each image, one after the other; Eqs. 2, 4 and 5 of the DifNet paper.

        P_t     = softmax(F_t F_t^T + 1 c_t^T)          over each row, never stored
        y_{t+1} = beta_t (mu_t P_t y_t + (1 - mu_t) s) + (1 - beta_t) y_t

    Args:
        features: F_t, a sequence of T tensors (B, N, d_t), or one tensor (T, B, N, d). Their dtype decides
            the matrix arithmetic, for float32 together with torch.set_float32_matmul_precision, which is
            read once, in the forward, or when a graph is compiled. Scores and sums are float32 at least.
            Nothing scales the scores.
        seed: s, (B, N, k).
        mu: (T,) on the inputs' device: the share of the walk against the seed. A share lies in [0, 1], but
            any finite number is taken as it is: to check it would synchronise with the device.
        beta: (T,) like `mu`: the share of the update against the old state.
        state: y_0, (B, N, k); `seed` by default.
        node_bias: c_t, (B, N) for all walks or (T, B, N): added to column j of the scores, a log prior of
            the nodes. -inf removes a node, and an image that loses all of them comes out as NaN;
            -|f_j|^2 / 2 makes the affinity Gaussian in the features. A boolean tensor is a mask, as in
            `torch.nn.functional.scaled_dot_product_attention`: True keeps a node, False removes it.
        return_states: also return y_1 .. y_T.
        backend: a name from `difnet_kernels.backends()`; None takes the best that can run, or the one named
            by the environment variable DIFNET_BACKEND.

    Returns:
        y_T, (B, N, k) in the dtype of `seed`; with `return_states` the pair (y_T, states), the states being
        (T, B, N, k). If any input is float64 all are computed in float64. With T = 0 the result is the
        initial state.

    Differentiable once with respect to every tensor, in memory linear in N; `backend="reference"` is
    differentiable any number of times, in reverse and in forward mode, and stores P. `torch.vmap` takes the
    images of all calls into one. The same inputs give the same bits.

    All tensors may be DTensors of one mesh: every process walks over its own images, those of its part of
    `seed`, and the results are sharded over images. Parts along other axes are gathered first.

    Raises:
        ValueError: a shape, length or device does not fit.
        TypeError: an argument is not a dense floating-point tensor.
        BackendError: the backend asked for is unknown or cannot run here.
        DoubleBackwardError: a second derivative was taken with a backend other than "reference".
        ForwardModeError: a forward-mode derivative was taken with a backend other than "reference".
    """
    _check_tensor("seed", seed, ("B", "N", "k"))
    features = _check_features(features, seed)
    walks = len(features)
    for name, value in (("mu", mu), ("beta", beta)):
        _check_tensor(name, value, ("T",))
        remedy = f"give {walks} numbers" if walks else "give one tensor a walk in features, which is empty"
        _check_like(name, value, (walks,), seed, f"(T,) for T = {walks} walks", remedy)
    if state is not None:
        _check_tensor("state", state, ("B", "N", "k"))
        _check_like("state", state, seed.shape, seed, "the shape of seed (B, N, k)")
    if node_bias is not None:
        node_bias = _check_node_bias(node_bias, seed, walks)

    backend = choose(backend, seed.device)
    state = seed if state is None else state
    dtype = _value_dtype(*features, seed, mu, beta, state, *(() if node_bias is None else (node_bias,)))
    if dtype == torch.float64:
        features = [feature.to(dtype) for feature in features]
    values = [None if x is None else x.to(dtype) for x in (seed, mu, beta, state, node_bias)]
    images = (0, None, None, 0, 1, *(0 for _ in features))
    states = over_images(partial(_run, backend), [*values, *features], images) if features else []
    final = (states[-1] if states else state.clone()).to(seed.dtype)
    if not return_states:
        return final
    return final, torch.stack(states).to(seed.dtype) if states else final.new_empty(0, *final.shape)


def random_walk(
    feature: Tensor,
    state: Tensor,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    *,
    node_bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """One walk: beta (mu P y + (1 - mu) s) + (1 - beta) y.

    Args:
        feature: F, (B, N, d).
        state: y, (B, N, k).
        seed: s, (B, N, k).
        mu: tensor of one element.
        beta: tensor of one element.
        node_bias: c, (B, N), or a boolean mask.
        backend: as for `cascaded_random_walk`, where the rest is said: dtypes, derivatives, errors.

    Returns:
        The new state, (B, N, k) in the dtype of `seed`.
    """
    _check_tensor("seed", seed, ("B", "N", "k"))
    _check_feature("feature", feature, seed)
    for name, value in (("mu", mu), ("beta", beta)):
        if not isinstance(value, Tensor) or value.numel() != 1:
            remedy = "" if isinstance(value, Tensor) else _conversion(name, value, "()")
            raise ValueError(f"{name}: expected a tensor of one element, got {_describe(value)}{remedy}")
    if node_bias is not None:
        _check_tensor("node_bias", node_bias, ("B", "N"))
    result = cascaded_random_walk(
        [feature],
        seed,
        mu.reshape(1),
        beta.reshape(1),
        state=state,
        node_bias=node_bias,
        backend=backend,
    )
    assert isinstance(result, Tensor)
    return result


def transition_rows(
    feature: Tensor, nodes: Tensor, *, node_bias: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Rows of the transition matrix P for chosen nodes: where each of them takes its new state from.

    Args:
        feature: F, (B, N, d).
        nodes: integer tensor (n,), the same for every image, or (B, n). Its values are read on the host.
        node_bias: c, (B, N), or a boolean mask, as for `cascaded_random_walk`.
        backend: as for `cascaded_random_walk`. "reference" multiplies the features as they are, every other
            backend centres them first.

    Returns:
        (B, n, N), each row summing to 1, or NaN where `node_bias` removes every node; float64 for float64
        features, else float32. Differentiable.

    Raises:
        IndexError: a node outside 0 .. N - 1.
        ValueError, TypeError, BackendError: as for `cascaded_random_walk`.
    """
    _check_tensor("feature", feature, ("B", "N", "d"))
    batch, count, _ = feature.shape
    if node_bias is not None:
        _check_tensor("node_bias", node_bias, ("B", "N"))
        _check_like("node_bias", node_bias, (batch, count), feature, "(B, N) of feature")
        node_bias = _log_prior(node_bias)
    nodes = _check_nodes(nodes, feature)
    backend = choose(backend, feature.device)
    dtype = _value_dtype(feature, *(() if node_bias is None else (node_bias,)))
    rows = reference.transition_rows if backend == "reference" else blockwise.transition_rows
    bias = None if node_bias is None else node_bias.to(dtype)
    (result,) = over_images(lambda *x: [rows(*x)], [feature.to(dtype), nodes, bias], (0, 0, 0))
    return result


def _run(
    backend: str,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    state: Tensor,
    node_bias: Tensor | None,
    *features: Tensor,
) -> list[Tensor]:
    """y_1 .. y_T from checked inputs in their working dtypes."""
    if backend != "reference" and seed.shape[0] > 0:  # a process may have none of the images
        outputs = cascade(backend, seed, mu, beta, state, node_bias, *features)
        return list(outputs[: len(features)])
    states = []
    seed, state = same_layout(seed), same_layout(state)
    for t, feature in enumerate(features):
        bias = None if node_bias is None else node_bias[t]
        state = reference.random_walk(same_layout(feature), state, seed, mu[t], beta[t], bias)
        states.append(state)
    return states


def _log_prior(node_bias: Tensor) -> Tensor:
    """A node bias as it is, or that of a boolean mask: 0 where it is True, -inf where it is False."""
    if node_bias.dtype != torch.bool:
        return node_bias
    return torch.zeros_like(node_bias, dtype=torch.float32).masked_fill(~node_bias, -torch.inf)


def _value_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of states and scores: float64 if any input is, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


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
    """How to make a tensor of what is none, as the end of a message; nothing where no way is known."""
    if isinstance(value, (int, float)) or (
        hasattr(value, "__float__") and getattr(value, "shape", None) == ()
    ):
        return f"; pass torch.full({shape}, {float(value)})"
    if isinstance(value, (list, tuple, torch.nn.ParameterList)):
        tensors = len(value) > 0 and all(isinstance(x, Tensor) for x in value)
        # torch.as_tensor takes lists of numbers alone: of tensors, it loses the gradients.
        return f"; pass torch.stack(list({name}))" if tensors else f"; pass torch.as_tensor({name})"
    return f"; pass torch.as_tensor({name})" if hasattr(value, "__array__") else ""


def _check_tensor(name: str, value: object, axes: tuple[str, ...]) -> None:
    """A floating-point tensor with as many axes as named, none of which (but T) is empty."""
    expected = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected a floating-point tensor {expected}, got {_describe(value)}"
            f"{_conversion(name, value, expected)}"
        )
    if value.is_nested:
        raise TypeError(
            f"{name}: expected a dense tensor {expected}, got {_describe(value)}; pad it with torch.nested."
            f"to_padded_tensor({name}, 0.0), and pass a boolean node_bias that is False at the padding"
        )
    if value.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a dense tensor {expected}, got layout {value.layout}; pass {name}.to_dense()"
        )
    is_mask = name == "node_bias" and value.dtype == torch.bool
    if not is_mask and (not value.dtype.is_floating_point or value.dtype.itemsize < 2):
        convert = "dequantize" if value.is_quantized else "float"
        remedy = f"{name}.real or {name}.abs()" if value.is_complex() else f"{name}.{convert}()"
        if name == "node_bias":
            remedy += ", or node_bias.bool() if it is a mask that is 0 where a node is removed"
        raise TypeError(
            f"{name}: expected float64, float32, bfloat16 or float16, got {value.dtype}; "
            f"convert it, e.g. {remedy}"
        )
    if value.ndim != len(axes):
        is_map = value.ndim == 4 and "B" in axes
        view = f"{name}.flatten(1)" if len(axes) == 2 else f"{name}.permute(0, 2, 3, 1).flatten(1, 2)"
        shape = f"(B, {'1' if len(axes) == 2 else axes[-1]}, h, w)"
        remedy = f"; if it is a map {shape}, pass {view}" if is_map else ""
        if axes == ("T",) and value.ndim == 0:
            remedy = f"; pass {name}.expand(T) for T walks with the same number"
        raise ValueError(f"{name}: expected {len(axes)} axes {expected}, got {_describe(value)}{remedy}")
    for axis, size in zip(axes, value.shape, strict=True):
        if size == 0 and axis != "T":
            raise ValueError(f"{name}: axis {axis} of {expected} is empty, got {_describe(value)}")


def _check_like(
    name: str, value: Tensor, shape: Sequence[int], other: Tensor, expected: str, remedy: str = ""
) -> None:
    if tuple(value.shape) != tuple(shape):
        remedy = f"; {remedy}" if remedy else ""
        raise ValueError(f"{name}: expected {expected} = {tuple(shape)}, got {_describe(value)}{remedy}")
    _check_device(name, value, other)


def _check_device(name: str, value: Tensor, other: Tensor) -> None:
    if is_distributed(value) != is_distributed(other):
        raise TypeError(
            f"{name}: expected a {type(other).__name__} as the other inputs are, got a "
            f"{type(value).__name__}; make all inputs DTensors with torch.distributed.tensor."
            "distribute_tensor, or none"
        )
    if value.device != other.device:
        raise ValueError(
            f"{name}: expected the device of the other inputs, {other.device}, got {value.device}; "
            f"move it with {name}.to({str(other.device)!r})"
        )


def _listing(features: object) -> str:
    """How to make a list of features of what is none, as the end of a message."""
    if hasattr(features, "__array__"):
        return "pass torch.as_tensor(features)"
    if isinstance(features, Mapping):
        return "pass list(features.values())"
    if isinstance(features, Iterable) and not isinstance(features, str):
        return "pass list(features)"
    return "for one walk pass [feature]"


def _check_features(features: object, seed: Tensor) -> list[Tensor]:
    is_whole = isinstance(features, Tensor)
    if isinstance(features, Tensor):
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
        _check_feature(f"features[{t}]", feature, seed, "features is (T, B, d, N)" if is_whole else "")
    return list(features)


def _check_feature(name: str, feature: Tensor, seed: Tensor, whole: str = "") -> None:
    """Check the features of one walk; `whole` says what all of them are, where they came as one tensor."""
    _check_tensor(name, feature, ("B", "N", "d"))
    remedy = ""
    if tuple(feature.shape[:2]) != tuple(seed.shape[:2]):
        if whole:
            remedy = (
                "; if features is one map (B, d, h, w), pass [features.permute(0, 2, 3, 1).flatten(1, 2)]"
            )
        if (feature.shape[0], feature.shape[2]) == tuple(seed.shape[:2]):
            remedy = (
                f"; if {f'{whole}, pass features.mT' if whole else f'{name} is (B, d, N), pass {name}.mT'}"
            )
        raise ValueError(
            f"{name} and seed: expected the same B and N, got {name} (B, N, d) = {tuple(feature.shape)} "
            f"and seed (B, N, k) = {tuple(seed.shape)}{remedy}"
        )
    _check_device(name, feature, seed)


def _check_node_bias(node_bias: Tensor, seed: Tensor, walks: int) -> Tensor:
    """The node bias of every walk, (T, B, N)."""
    per_walk = isinstance(node_bias, Tensor) and node_bias.ndim == 3
    _check_tensor("node_bias", node_bias, ("T", "B", "N") if per_walk else ("B", "N"))
    shape = (walks, *seed.shape[:2])
    _check_like(
        "node_bias", node_bias, shape if per_walk else shape[1:], seed, "(T, B, N)" if per_walk else "(B, N)"
    )
    node_bias = _log_prior(node_bias)
    return node_bias if per_walk else node_bias.expand(shape)


def _check_nodes(nodes: Tensor, feature: Tensor) -> Tensor:
    """The nodes of every image, int64 (B, n), all of them between 0 and N - 1."""
    batch, count, _ = feature.shape
    if not isinstance(nodes, Tensor) or nodes.dtype not in (torch.int64, torch.int32):
        remedy = "nodes.long()" if isinstance(nodes, Tensor) else "torch.as_tensor(nodes)"
        if isinstance(nodes, Tensor) and nodes.dtype == torch.bool:
            remedy = "nodes.nonzero().squeeze(-1) of a mask (N,)"
        raise TypeError(
            f"nodes: expected an int64 or int32 tensor (n,) or (B, n), got {_describe(nodes)}; pass {remedy}"
        )
    if is_distributed(nodes) and not is_distributed(feature):
        _check_device("nodes", nodes, feature)
    if nodes.ndim not in (1, 2) or (nodes.ndim == 2 and nodes.shape[0] != batch):
        raise ValueError(f"nodes: expected (n,) or (B, n) with B = {batch}, got {_describe(nodes)}")
    if not (torch.compiler.is_compiling() or nodes.is_meta or is_fake(nodes)):
        # Every process reads all nodes, and so all of them raise.
        values = nodes.full_tensor() if is_distributed(nodes) else nodes  # type: ignore[attr-defined]
        bad = values[(values < 0) | (values >= count)].tolist()
        if bad:
            raise IndexError(f"nodes: {bad[0]} is outside 0 .. {count - 1} (N = {count})")
    return replicated(nodes.to(feature.device, torch.int64).expand(batch, -1), feature)
