"""Checks a provider's results against float64, with the error budget of difnet_kernels.testing.

The walk is computed from blocks of rows of P, so it fits in memory at any N: once in float64 (the exact
result) and once in the precision of the inputs (the reference error, from which the budget follows).

One walk forward over more than `SAMPLED_ROWS` nodes is checked on that many rows of the output, spread
evenly. Otherwise all results are checked if that takes seconds (`MOST_PAIRS`), and none if it takes longer.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from difnet_kernels.testing import FORWARD_FACTOR, GRADIENT_FACTOR, Inputs, budget, term_size
from harness.cases import FORWARD, Case

Results = dict[str, Tensor]
"""Results by name: "output", and with gradients the name of every input."""

SAMPLED_ROWS = 256
MOST_PAIRS = {"cpu": 1e9, "cuda": 5e9}
"""Pairs of nodes up to which computing all rows of the exact result takes seconds."""
_BLOCK_BYTES = 2**28


class Truth(NamedTuple):
    """The exact results, and the quantities that determine the budget.

    Attributes:
        exact: results in float64.
        same_precision: results of the same computation in the precision of the inputs.
        terms: the size of the terms that are summed to each result.
        rows: the rows of the output that were computed; None for all.
    """

    exact: Results
    same_precision: Results
    terms: dict[str, float]
    rows: Tensor | None


class Accuracy(NamedTuple):
    """The errors of a provider, and what the budget allows.

    Attributes:
        error: error of the output.
        allowed: budget of the output.
        gradient: name of the gradient that takes the largest share of its budget; None in the forward.
        gradient_error: error of that gradient.
        gradient_allowed: budget of that gradient.
        within: whether the output and every gradient are within their budgets.
    """

    error: float
    allowed: float
    gradient: str | None
    gradient_error: float | None
    gradient_allowed: float | None
    within: bool


def compute_results(run: Callable[[Inputs], Tensor], inputs: Inputs, mode: str) -> Results:
    """Call `run` once; return the output, in "forward+backward" also the gradients of sum(output^2) / 2."""
    if mode == FORWARD:
        with torch.no_grad():
            return {"output": run(inputs)}
    leaves = [*inputs.features, inputs.seed, inputs.mu, inputs.beta]
    names = [*(f"features[{t}]" for t in range(len(inputs.features))), "seed", "mu", "beta"]
    y = run(inputs)
    gradients = torch.autograd.grad(y, leaves, y.detach())
    return {"output": y.detach(), **dict(zip(names, gradients, strict=True))}


def with_gradients(inputs: Inputs) -> Inputs:
    """The same inputs as leaves that require gradients. The state is the seed."""
    features = [feature.detach().requires_grad_() for feature in inputs.features]
    seed, mu, beta = (x.detach().requires_grad_() for x in (inputs.seed, inputs.mu, inputs.beta))
    return Inputs(features, seed, mu, beta, seed, None)


def compute_truth(case: Case, inputs: Inputs, mode: str) -> Truth | None:
    """The exact results of a case; None if they would take minutes."""
    device = inputs.seed.device
    rows = None
    if mode == FORWARD and case.walks == 1 and case.nodes > SAMPLED_ROWS:
        rows = torch.linspace(0, case.nodes - 1, SAMPLED_ROWS, device=device).long()
    elif case.pairs > MOST_PAIRS.get(device.type, 1e9):
        return None

    def run(x: Inputs) -> Tensor:
        return _cascade_in_blocks(x, rows)

    def results(x: Inputs) -> Results:
        return compute_results(run, x if mode == FORWARD else with_gradients(x), mode)

    exact = results(inputs.to(torch.float64))
    terms = {name: term_size(name, inputs, exact["output"]) for name in exact}
    return Truth(exact, results(inputs), terms, rows)


def check_accuracy(results: Results, truth: Truth) -> Accuracy:
    """Compare a provider's results with the exact ones."""
    errors = []
    for name, exact in truth.exact.items():
        result = results[name]
        if truth.rows is not None:
            result = result[:, truth.rows]
        factor = FORWARD_FACTOR if name == "output" else GRADIENT_FACTOR
        errors.append(budget(name, result, truth.same_precision[name], exact, factor, truth.terms[name]))
    output, *gradients = errors
    within = all(error.within for error in errors)
    if not gradients:
        return Accuracy(output.ours, output.allowed, None, None, None, within)
    worst = max(gradients, key=lambda error: error.ours / error.allowed)
    return Accuracy(output.ours, output.allowed, worst.name, worst.ours, worst.allowed, within)


def _cascade_in_blocks(x: Inputs, rows: Tensor | None) -> Tensor:
    """The cascade from blocks of rows of P. If `rows` are given, only these rows of one walk's output."""
    y = x.seed
    for feature, mu, beta in zip(x.features, x.mu, x.beta, strict=True):
        columns = y.to(feature.dtype)
        if rows is not None:
            z = _rows_of_p_times_y(feature[:, rows], feature, columns)
            y, seed = y[:, rows], x.seed[:, rows]
        else:
            size = max(1, _BLOCK_BYTES // (8 * feature.shape[0] * feature.shape[1]))
            blocks = [
                checkpoint(_rows_of_p_times_y, block, feature, columns, use_reentrant=False)
                for block in feature.split(size, dim=1)
            ]
            z, seed = torch.cat(blocks, 1), x.seed
        y = y.lerp(seed.lerp(z.to(y.dtype), mu), beta)
    return y


def _rows_of_p_times_y(rows: Tensor, feature: Tensor, y: Tensor) -> Tensor:
    return torch.softmax(rows @ feature.mT, dim=-1) @ y
