"""Cascades on `testing.Inputs`, memory layouts and processes, shared by the operator's tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from difnet_kernels import backends, cascaded_random_walk
from difnet_kernels.testing import Errors, Inputs

ALL_BACKENDS = [status.name for status in backends() if status.available]
# The backends that are compared with the specification.
BACKENDS = [name for name in ALL_BACKENDS if name != "reference"]


def walk(inputs: Inputs, backend: str | None, **changes: Any) -> Tensor:
    """The last state of the cascade, with `changes` in place of some inputs."""
    inputs = inputs._replace(**changes)
    final = cascaded_random_walk(
        inputs.features,
        inputs.seed,
        inputs.mu,
        inputs.beta,
        state=inputs.state,
        node_bias=inputs.node_bias,
        backend=backend,
    )
    assert isinstance(final, Tensor)
    return final


def walk_on_tensors(backend: str | None, num_walks: int, **options: Any) -> Callable[..., Any]:
    """The cascade as a function of tensors in the order of `Inputs.tensors`, node bias included."""

    def run(*tensors: Tensor | None) -> Any:
        features, (seed, mu, beta, state, node_bias) = tensors[:num_walks], tensors[num_walks:]
        return cascaded_random_walk(
            features, seed, mu, beta, state=state, node_bias=node_bias, backend=backend, **options
        )

    return run


def state_and_gradients(inputs: Inputs, backend: str | None) -> list[Tensor]:
    """The last state y and the gradients of all inputs for the loss |y|^2."""
    copy = inputs.to(inputs.features[0].dtype, inputs.seed.dtype).requires_grad_()
    y = walk(copy, backend)
    return [y, *torch.autograd.grad(y.square().sum(), copy.tensors())]


def assert_within(errors: Iterable[Errors]) -> None:
    over_budget = [error for error in errors if not error.within]
    assert not over_budget, "\n".join(map(str, over_budget))


def as_image(x: Tensor) -> Tensor:
    """The same values (B, N, c), as a view of an image (B, c, N)."""
    return x.mT.contiguous().mT


# The same values (B, N, c) with other strides; "expanded" repeats the values of the first image.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nodes": lambda x: x,
    "image": as_image,
    "part": lambda x: torch.stack((x, x), dim=2).flatten(1, 2)[:, ::2],  # every second of 2 N nodes
    "expanded": lambda x: x[:1].expand_as(x),
    "offset": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 0))[:, 3:, 1:-2],
}


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python process of its own, with further environment variables."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
        check=False,
    )
