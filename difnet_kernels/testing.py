"""Inputs with controlled sharpness and the one error budget, shared by tests and benchmarks.

    python -m difnet_kernels.testing --nodes 1681 --backends blockwise native

prints the error of every backend against float64, the error of PyTorch's eager form at the same precision,
and the share of the budget that is used.

Unit-normal features at d = 64 make P the identity, and a kernel that returns its state would pass. So
features come with a named sharpness, measured by the mean of diag(P):

    flat     P close to uniform: every node sees all others
    mixed    about half of each row's weight on the node itself
    peaked   nearly all of each row's weight on the node itself
    pooled   max-pooled normals: a large mean row common to all nodes, as in the paper's network
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from difnet_kernels import backends, cascaded_random_walk

SHARPNESS = ("flat", "mixed", "peaked", "pooled")
_SELF_WEIGHT = {"flat": 0.02, "mixed": 0.5, "peaked": 0.99}

# The allowed error is this multiple of the error of PyTorch's eager form at the same precision.
FORWARD_FACTOR = 2.0
GRADIENT_FACTOR = 3.0

# Errors are relative to the largest value of the truth, or to this number where the truth is zero.
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
        """Detached copies: features in `dtype`, everything else in `value_dtype` (by default `dtype`)."""
        value_dtype = value_dtype or dtype
        features = [feature.detach().to(dtype) for feature in self.features]
        return Inputs(features, *(None if x is None else x.detach().to(value_dtype) for x in self[1:]))  # type: ignore[arg-type]

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of `names`."""
        return [*self.features, *(x for x in self[1:] if isinstance(x, Tensor))]

    def names(self) -> list[str]:
        """The name of each of `tensors` in a report."""
        named = zip(self._fields[1:], self[1:], strict=True)
        return [f"features[{t}]" for t in range(len(self.features))] + [n for n, x in named if x is not None]

    def requires_grad_(self) -> "Inputs":
        """Make every tensor require its gradient."""
        for tensor in self.tensors():
            tensor.requires_grad_()
        return self


def make_features(
    batch: int, nodes: int, width: int, sharpness: str, generator: torch.Generator | None = None
) -> Tensor:
    """Features (B, N, d), float64 on the CPU, of a named sharpness."""
    if sharpness == "pooled":
        # The maximum of 16 normals, drawn by inverting its distribution function.
        uniform = torch.rand(batch, nodes, width, dtype=torch.float64, generator=generator)
        return torch.special.ndtri(uniform ** (1 / 16))
    normal = torch.randn(batch, nodes, width, dtype=torch.float64, generator=generator)
    target = 1 / nodes + (1 - 1 / nodes) * _SELF_WEIGHT[sharpness]
    # In few dimensions the nodes with the longest features get all weight, and no scale reaches the target.
    # The search then ends at its upper limit.
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
    num_walks: int = 2,
    sharpness: str = "mixed",
    *,
    node_bias: bool = False,
    rng_seed: int = 0,
) -> Inputs:
    """Inputs of a cascade in float64 on the CPU; the same arguments give the same numbers.

    Raises AssertionError if `mixed` features of at least 16 dimensions are not mixed.
    """
    generator = torch.Generator().manual_seed(rng_seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    features = [make_features(batch, nodes, width, sharpness, generator) for _ in range(num_walks)]
    if sharpness == "mixed" and width >= 16 and nodes > 1:
        for feature in features:
            assert 0.05 < self_weight(feature) < 0.95, "mixed features are not mixed"
    return Inputs(
        features,
        seed=normal(batch, nodes, classes),
        mu=torch.rand(num_walks, dtype=torch.float64, generator=generator),
        beta=torch.rand(num_walks, dtype=torch.float64, generator=generator),
        state=normal(batch, nodes, classes),
        node_bias=normal(num_walks, batch, nodes) if node_bias else None,
    )


def eager_cascade(
    features: Sequence[Tensor],
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    node_bias: Tensor | None = None,
) -> Tensor:
    """The cascade as one writes it in PyTorch, in the inputs' own precision: the baseline for errors."""
    y = seed if state is None else state
    for t, feature in enumerate(features):
        scores = feature @ feature.mT
        if node_bias is not None:
            scores = scores + node_bias[t][:, None]  # (1)
        z = torch.softmax(scores, dim=-1).to(y.dtype) @ y  # (2), (3)
        y = beta[t] * (mu[t] * z + (1 - mu[t]) * seed) + (1 - beta[t]) * y  # (4)
    return y


class Errors(NamedTuple):
    """Largest error of one result against float64, relative to the truth's largest value."""

    name: str
    ours: float
    eager: float
    allowed: float

    @property
    def within(self) -> bool:
        """Whether the error is within the budget."""
        return self.ours <= self.allowed


def budget(name: str, ours: Tensor, eager: Tensor, truth: Tensor, factor: float, term: float = 0.0) -> Errors:
    """Allow `factor` times the error of the eager form at the same precision, plus a rounding band.

    The band is one rounding of the result or of `term`, whichever is larger. `term` is the size of the terms
    whose sum is the result: where they cancel, their rounding remains in any result.
    """
    size = max(truth.abs().max().item(), _SMALLEST)
    band = torch.finfo(ours.dtype).eps * max(1.0, term / size)
    eager_error = relative_error(eager, truth)
    return Errors(name, relative_error(ours, truth), eager_error, factor * eager_error + band)


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """max |actual - truth| / max |truth|, infinite if `actual` holds NaN or infinite numbers."""
    size = max(truth.abs().max().item(), _SMALLEST)
    error = (actual.double() - truth).abs().max().item() / size
    return error if math.isfinite(error) else math.inf


def term_size(name: str, inputs: Inputs, *weights: Tensor) -> float:
    """Size of the terms whose sum is a gradient in docs/math.md, with the largest of `weights` as g."""
    weight = max(weights, key=lambda g: g.norm(dim=-1).max().item())
    rows = [x.norm(dim=-1).max().item() for x in (weight, inputs.state)]
    if name.startswith("features"):
        return math.prod(rows) * max(f.norm(dim=-1).max().item() for f in inputs.features)  # (11)
    if name == "node_bias":
        return math.prod(rows)  # (10)
    if name in ("mu", "beta"):
        return (weight.norm() * (inputs.seed.norm() + inputs.state.norm())).item()  # (6), (7)
    return 0.0


def measure_errors(
    inputs: Inputs,
    dtype: torch.dtype,
    backend: str,
    value_dtype: torch.dtype | None = None,
    cascade: Callable[..., Tensor | tuple[Tensor, Tensor]] = cascaded_random_walk,
) -> list[Errors]:
    """Errors of the output and of every gradient against float64, of a backend and of the eager form.

    All computations start from the same inputs: features rounded to `dtype`, everything else to `value_dtype`
    (by default `dtype`). So the errors are those of the arithmetic. The loss is the inner product of the
    output with its true value. Under a random weight, the gradients of mu and beta are sums over all of
    (B, N, k) that cancel almost completely, so two results would differ by chance.
    """
    rounded = inputs.to(dtype, value_dtype)
    weight, *state_gradients = gradients_of_states(rounded.to(torch.float64))

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

    results = zip(
        ["output", *inputs.names()],
        run(rounded.to(dtype, value_dtype), ours),
        run(rounded.to(dtype), eager),
        run(rounded.to(torch.float64), eager),
        strict=True,
    )
    errors = []
    for name, mine, by_eager, truth in results:
        factor = FORWARD_FACTOR if name == "output" else GRADIENT_FACTOR
        # A node to which most other nodes give their weight receives the sum of their gradients. So the
        # gradient of an early state can be far larger than the weight of the loss.
        weights = (weight, *state_gradients) if name == "node_bias" else (weight,)
        size = term_size(name, inputs, *weights)
        errors.append(budget(name, mine, by_eager, truth, factor, size))
    return errors


def gradients_of_states(inputs: Inputs) -> list[Tensor]:
    """dLoss/dy_T, ..., dLoss/dy_1 of the eager cascade for the loss |y_T|^2 / 2; the first is y_T itself."""
    states = [inputs.state.requires_grad_()]
    for t, feature in enumerate(inputs.features):
        walk = slice(t, t + 1)
        bias = None if inputs.node_bias is None else inputs.node_bias[walk]
        state = eager_cascade([feature], inputs.seed, inputs.mu[walk], inputs.beta[walk], states[-1], bias)
        states.append(state)
    final = states[-1]
    return [g.detach() for g in torch.autograd.grad(final, states[:0:-1], final.detach())]


def main() -> int:
    """Print the errors of the output and of the worst gradient; return 1 if one is over its budget."""
    available = [status.name for status in backends() if status.available]
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    parser = argparse.ArgumentParser(description="Errors of every backend against float64 (d = 64, k = 21).")
    parser.add_argument("--backends", nargs="+", choices=available, default=available)
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=["float32", "bfloat16"])
    for option, default in (("--batch", 3), ("--nodes", 1000), ("--walks", 2)):
        parser.add_argument(option, type=int, default=default)
    options = parser.parse_args()

    row = "{:10}{:10}{:10}{:9}" + 2 * "{:14}{:9}{:9}{:8}"
    error = ("error of", "", "eager's", "budget")
    print(row.format("backend", "dtype", "features", "diag(P)", *error, *error))
    within = True
    for sharpness in SHARPNESS:
        inputs = make_inputs(options.batch, options.nodes, 64, 21, options.walks, sharpness)
        diagonal = f"{self_weight(inputs.features[0]):.3f}"
        for dtype, backend in itertools.product(options.dtypes, options.backends):
            output, *gradients = measure_errors(inputs, dtypes[dtype], backend)
            cells = [backend, dtype, sharpness, diagonal]
            for e in (output, max(gradients, key=lambda gradient: gradient.ours / gradient.allowed)):
                cells += [e.name, f"{e.ours:.1e}", f"{e.eager:.1e}", f"{e.ours / e.allowed:.0%}"]
                within &= e.within
            print(row.format(*cells), flush=True)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
