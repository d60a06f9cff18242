"""Inputs with controlled sharpness and the one error budget, shared by tests and benchmarks.

Unit-normal features at d = 64 make P the identity, and a kernel that returns its state would pass. So
features come with a named sharpness, measured by the mean of diag(P):

    flat     P close to uniform: every node sees all others
    mixed    about half of each row's weight on the node itself
    peaked   nearly all of it
    pooled   max-pooled normals: a large mean row common to all nodes, as the network's Psi gives
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from difnet_kernels import cascaded_random_walk

SHARPNESS = ("flat", "mixed", "peaked", "pooled")
_SELF_WEIGHT = {"flat": 0.02, "mixed": 0.5, "peaked": 0.99}

# How much worse than PyTorch's eager form at the same precision a result may be.
FORWARD_FACTOR = 2.0
GRADIENT_FACTOR = 3.0


_SMALLEST = 1e-300


class Inputs(NamedTuple):
    """Arguments of `cascaded_random_walk`."""

    features: list[Tensor]
    seed: Tensor
    mu: Tensor
    beta: Tensor
    state: Tensor
    node_bias: Tensor | None

    def to(self, dtype: torch.dtype, value_dtype: torch.dtype | None = None) -> "Inputs":
        """Copies, detached: features in `dtype`, all else in `value_dtype` (by default the same)."""
        value_dtype = value_dtype or dtype
        features = [feature.detach().to(dtype) for feature in self.features]
        return Inputs(features, *(None if x is None else x.detach().to(value_dtype) for x in self[1:]))  # type: ignore[arg-type]

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of `names`."""
        return [*self.features, *(x for x in self[1:] if isinstance(x, Tensor))]

    def names(self) -> list[str]:
        """What each of `tensors` is called in a report."""
        named = zip(self._fields[1:], self[1:], strict=True)
        return [f"features[{t}]" for t in range(len(self.features))] + [n for n, x in named if x is not None]

    def requires_grad_(self) -> "Inputs":
        """Ask for every gradient."""
        for tensor in self.tensors():
            tensor.requires_grad_()
        return self


def make_features(
    batch: int, nodes: int, width: int, sharpness: str, generator: torch.Generator | None = None
) -> Tensor:
    """Features (B, N, d), float64 on the CPU, of a named sharpness."""
    if sharpness == "pooled":
        # The largest of 16 normals: the inverse of its distribution, at uniform numbers.
        shares = torch.rand(batch, nodes, width, dtype=torch.float64, generator=generator)
        return torch.special.ndtri(shares ** (1 / 16))
    normal = torch.randn(batch, nodes, width, dtype=torch.float64, generator=generator)
    uniform = 1 / nodes
    target = uniform + (1 - uniform) * _SELF_WEIGHT[sharpness]
    # Few dimensions cannot be mixed: the nodes with the largest features draw all weight. There, stop here.
    low, high = 0.0, 1.5
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if self_weight(middle * normal) < target else (low, middle)
    return high * normal


def self_weight(feature: Tensor, sample: int = 64) -> float:
    """Mean of diag(P) over the first `sample` nodes of the first image."""
    rows = feature[0, :sample].double()
    weights = torch.softmax(rows @ feature[0].double().mT, dim=-1)
    return weights.diagonal().mean().item()


def make_inputs(
    batch: int = 3,
    nodes: int = 63,
    width: int = 64,
    classes: int = 21,
    walks: int = 2,
    sharpness: str = "mixed",
    *,
    node_bias: bool = False,
    seed: int = 0,
) -> Inputs:
    """Inputs of a cascade in float64 on the CPU, the same for the same arguments.

    Raises AssertionError when `mixed` features of a usual width are not mixed.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    features = [make_features(batch, nodes, width, sharpness, generator) for _ in range(walks)]
    if sharpness == "mixed" and width >= 16 and nodes > 1:
        for feature in features:
            assert 0.05 < self_weight(feature) < 0.95, "mixed features are not mixed"
    return Inputs(
        features,
        seed=normal(batch, nodes, classes),
        mu=torch.rand(walks, dtype=torch.float64, generator=generator),
        beta=torch.rand(walks, dtype=torch.float64, generator=generator),
        state=normal(batch, nodes, classes),
        node_bias=normal(walks, batch, nodes) if node_bias else None,
    )


def eager_cascade(
    features: Sequence[Tensor],
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    node_bias: Tensor | None = None,
) -> Tensor:
    """What one would write in PyTorch, in the inputs' own precision throughout: the yardstick for errors."""
    y = seed if state is None else state
    for t, feature in enumerate(features):
        scores = feature @ feature.mT
        if node_bias is not None:
            scores = scores + node_bias[t][:, None]
        z = torch.softmax(scores, dim=-1).to(y.dtype) @ y
        y = beta[t] * (mu[t] * z + (1 - mu[t]) * seed) + (1 - beta[t]) * y
    return y


class Errors(NamedTuple):
    """Largest deviation of one result from the float64 truth, relative to the truth's largest value."""

    name: str
    ours: float
    eager: float
    allowed: float

    @property
    def within(self) -> bool:
        """Whether the budget holds."""
        return self.ours <= self.allowed


def budget(name: str, ours: Tensor, eager: Tensor, truth: Tensor, factor: float, term: float = 0.0) -> Errors:
    """ours <= factor x the error of eager at the same precision, plus a rounding band.

    The band is one rounding of the result or of `term`, the size of the terms that are summed to it,
    whichever is larger: where terms cancel, what is left of their rounding is nobody's fault.
    """
    size = max(truth.abs().max().item(), _SMALLEST)
    band = torch.finfo(ours.dtype).eps * max(1.0, term / size)
    mine, yardstick = relative_error(ours, truth), relative_error(eager, truth)
    return Errors(name, mine, yardstick, factor * yardstick + band)


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """max |actual - truth| / max |truth|, infinite if it is not a number."""
    size = max(truth.abs().max().item(), _SMALLEST)
    error = (actual.double() - truth).abs().max().item() / size
    return error if math.isfinite(error) else math.inf


def term_size(name: str, inputs: Inputs, *weights: Tensor) -> float:
    """Size of the terms in the sum that gives a gradient (docs/math.md, section 2); g is one of `weights`."""
    weight = max(weights, key=lambda g: g.norm(dim=-1).max().item())
    rows = [x.norm(dim=-1).max().item() for x in (weight, inputs.state)]
    if name.startswith("features"):
        return math.prod(rows) * max(f.norm(dim=-1).max().item() for f in inputs.features)
    if name == "node_bias":
        return math.prod(rows)
    if name in ("mu", "beta"):
        return (weight.norm() * (inputs.seed.norm() + inputs.state.norm())).item()
    return 0.0


def measure_errors(
    inputs: Inputs,
    dtype: torch.dtype,
    backend: str,
    value_dtype: torch.dtype | None = None,
    cascade: Callable[..., Tensor | tuple[Tensor, Tensor]] = cascaded_random_walk,
) -> list[Errors]:
    """The error of the output and of every gradient, of a backend and of eager, against float64.

    All three start from the inputs rounded to `dtype` (features) and `value_dtype` (the rest; by default
    `dtype`), so that what is measured is the arithmetic. The loss is the inner product of the output with
    its true value: with a random weight the gradients of mu and beta, sums over all of (B, N, k), would
    cancel to noise, and whose noise is smaller is luck.
    """
    rounded = inputs.to(dtype, value_dtype)
    weight, *reaching = gradients_of_states(rounded.to(torch.float64))

    def run(copy: Inputs, function: Callable[..., Tensor]) -> list[Tensor]:
        output = function(copy.requires_grad_())
        grads = torch.autograd.grad(output, copy.tensors(), weight.to(output))
        return [output.detach(), *grads]

    def ours(x: Inputs) -> Tensor:
        result = cascade(
            x.features, x.seed, x.mu, x.beta, state=x.state, node_bias=x.node_bias, backend=backend
        )
        assert isinstance(result, Tensor)
        return result

    def eager(x: Inputs) -> Tensor:
        return eager_cascade(*x)

    truth = run(rounded.to(torch.float64), eager)
    by_eager = run(rounded.to(dtype), eager)
    by_us = run(rounded.to(dtype, value_dtype), ours)
    names = ["output", *inputs.names()]
    rows = []
    for name, mine, yardstick, true in zip(names, by_us, by_eager, truth, strict=True):
        factor = FORWARD_FACTOR if name == "output" else GRADIENT_FACTOR
        # The gradient that reaches an early walk can be far larger than the loss's own: a node that most of
        # the others look at gathers theirs.
        weights = (weight, *reaching) if name == "node_bias" else (weight,)
        rows.append(budget(name, mine, yardstick, true, factor, term_size(name, inputs, *weights)))
    return rows


def gradients_of_states(inputs: Inputs) -> list[Tensor]:
    """dLoss/dy_T, ..., dLoss/dy_1 of the eager cascade for the loss |y_T|^2 / 2; the first is y_T itself."""
    states = [inputs.state.requires_grad_()]
    for t, feature in enumerate(inputs.features):
        bias = None if inputs.node_bias is None else inputs.node_bias[t : t + 1]
        share = slice(t, t + 1)
        state = eager_cascade([feature], inputs.seed, inputs.mu[share], inputs.beta[share], states[-1], bias)
        states.append(state)
    final = states[-1]
    return [g.detach() for g in torch.autograd.grad(final, states[:0:-1], final.detach())]
