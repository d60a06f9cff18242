"""What a provider should return, and how far it may be from that: the error budget of difnet_kernels.testing.

The walk is computed from blocks of rows of P, so that any N fits: once in float64, the truth, and once in the
inputs' own precision, the yardstick. Of one walk forward over more nodes than `SAMPLED_ROWS` that many rows
of the output are checked, spread evenly; else all of every result where that takes seconds (`MOST_PAIRS`), or
none.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from difnet_kernels.testing import FORWARD_FACTOR, GRADIENT_FACTOR, Inputs, budget, term_size
from harness.cases import FORWARD, Case

# Results of a provider by name: "output", and with gradients one for each input.
Results = dict[str, Tensor]

SAMPLED_ROWS = 256
# Pairs of nodes up to which the truth of all rows takes seconds.
MOST_PAIRS = {"cpu": 1e9, "cuda": 5e9}
_BLOCK_BYTES = 2**28


class Truth(NamedTuple):
    """Float64 results with the yardstick's; of the output only the rows `rows` where that is not None."""

    exact: Results
    yardstick: Results
    terms: dict[str, float]
    rows: Tensor | None


class Verdict(NamedTuple):
    """Error and budget of the output, and of the gradient furthest towards or over its own (None forward).

    `within` says whether all results are within theirs.
    """

    error: float
    allowed: float
    gradient: str | None
    gradient_error: float | None
    gradient_allowed: float | None
    within: bool


def results(run: Callable[[Inputs], Tensor], inputs: Inputs, mode: str) -> Results:
    """One call: the output, or the output and the gradient of half its sum of squares by every input."""
    if mode == FORWARD:
        with torch.no_grad():
            return {"output": run(inputs)}
    leaves = [*inputs.features, inputs.seed, inputs.mu, inputs.beta]
    names = [*(f"features[{t}]" for t in range(len(inputs.features))), "seed", "mu", "beta"]
    y = run(inputs)
    grads = torch.autograd.grad(y, leaves, y.detach())
    return {"output": y.detach(), **dict(zip(names, grads, strict=True))}


def with_gradients(inputs: Inputs) -> Inputs:
    """The same inputs, as leaves that ask for gradients; the state is the seed."""
    features = [feature.detach().requires_grad_() for feature in inputs.features]
    seed, mu, beta = (x.detach().requires_grad_() for x in inputs[1:4])
    return Inputs(features, seed, mu, beta, seed, None)


def find_truth(case: Case, inputs: Inputs, mode: str) -> Truth | None:
    """The truth of a case, or None where it would take minutes."""
    device = inputs.seed.device
    rows = None
    if mode == FORWARD and case.walks == 1 and case.nodes > SAMPLED_ROWS:
        rows = torch.linspace(0, case.nodes - 1, SAMPLED_ROWS, device=device).long()
    elif case.pairs > MOST_PAIRS.get(device.type, 1e9):
        return None

    def run(x: Inputs) -> Tensor:
        return _in_blocks(x, rows)

    def computed(x: Inputs) -> Results:
        return results(run, x if mode == FORWARD else with_gradients(x), mode)

    exact = computed(inputs.to(torch.float64))
    return Truth(
        exact,
        computed(inputs),
        {name: term_size(name, inputs, exact["output"]) for name in exact},
        rows,
    )


def judge(found: Results, truth: Truth) -> Verdict:
    """Compare a provider's results with the truth."""
    errors = []
    for name, exact in truth.exact.items():
        result = found[name]
        if truth.rows is not None:
            result = result[:, truth.rows]
        factor = FORWARD_FACTOR if name == "output" else GRADIENT_FACTOR
        errors.append(budget(name, result, truth.yardstick[name], exact, factor, truth.terms[name]))
    output, *gradients = errors
    worst = max(gradients, key=lambda e: e.ours / e.allowed, default=None)
    of_gradient = (worst.name, worst.ours, worst.allowed) if worst else (None, None, None)
    return Verdict(output.ours, output.allowed, *of_gradient, all(e.within for e in errors))


def _in_blocks(x: Inputs, rows: Tensor | None) -> Tensor:
    """The cascade from blocks of rows of P; for `rows`, of one walk, only these rows."""
    y = x.seed
    for feature, mu, beta in zip(x.features, x.mu, x.beta, strict=True):
        columns = y.to(feature.dtype)
        if rows is not None:
            z = _block(feature[:, rows], feature, columns)
            y, seed = y[:, rows], x.seed[:, rows]
        else:
            size = max(1, _BLOCK_BYTES // (8 * feature.shape[0] * feature.shape[1]))
            blocks = feature.split(size, dim=1)
            z = torch.cat([checkpoint(_block, b, feature, columns, use_reentrant=False) for b in blocks], 1)
            seed = x.seed
        y = y.lerp(seed.lerp(z.to(y.dtype), mu), beta)
    return y


def _block(rows: Tensor, feature: Tensor, y: Tensor) -> Tensor:
    return torch.softmax(rows @ feature.mT, dim=-1) @ y
