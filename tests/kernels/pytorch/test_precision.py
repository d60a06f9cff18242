"""The forward reads the precision of float32 products, and the backward takes the same."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cascades import run_python
from torch import Tensor

from difnet_kernels import cascaded_random_walk
from difnet_kernels.backends import instruction_sets
from difnet_kernels.support.precision import float32_precision, matmul_precision
from difnet_kernels.testing import make_inputs

# At "medium", these instruction sets round float32 features to bfloat16.
BFLOAT16_PRODUCTS = {"amx", "avx512_bf16"} & set(instruction_sets())


@pytest.fixture(autouse=True)
def _restore_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def results_at(forward: str, backward: str, cascade: Callable[..., Any], backend: str) -> list[Tensor]:
    """State and gradients of float32 inputs, at one precision in the forward and another in the backward."""
    inputs = make_inputs().to(torch.float32).requires_grad_()
    torch.set_float32_matmul_precision(forward)
    state = cascade(inputs.features, inputs.seed, inputs.mu, inputs.beta, state=inputs.state, backend=backend)
    torch.set_float32_matmul_precision(backward)
    gradients = torch.autograd.grad(state.square().sum(), inputs.tensors())
    assert torch.get_float32_matmul_precision() == backward
    return [state, *gradients]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_change_before_the_backward_changes_nothing(backend: str, compiled: bool) -> None:
    cascade = torch.compile(cascaded_random_walk, fullgraph=True) if compiled else cascaded_random_walk
    medium = results_at("medium", "medium", cascade, backend)
    highest = results_at("highest", "highest", cascade, backend)
    assert equal(medium, results_at("medium", "highest", cascade, backend))
    assert equal(highest, results_at("highest", "medium", cascade, backend))
    if backend == "native" and BFLOAT16_PRODUCTS:
        assert not equal(medium, highest)


def test_a_compiled_cascade_obeys_a_change_between_highest_and_medium(backend: str) -> None:
    inputs = make_inputs().to(torch.float32)
    arguments = inputs.features, inputs.seed, inputs.mu, inputs.beta
    compiled = torch.compile(cascaded_random_walk, fullgraph=True)
    for precision in ("highest", "medium", "highest"):
        torch.set_float32_matmul_precision(precision)
        expected = cascaded_random_walk(*arguments, backend=backend)
        assert torch.equal(compiled(*arguments, backend=backend), expected), precision


@pytest.mark.skipif(not instruction_sets(), reason="the compiled kernels were not built")
@pytest.mark.parametrize("name", ["low", ""])
def test_an_unknown_precision_raises(name: str) -> None:
    x, one = torch.ones(1, 2, 3), torch.ones(())
    with pytest.raises(ValueError, match="float32_precision: expected highest, high or medium"):
        torch.ops.difnet_kernels.walk_forward.native(x, x, x, one, one, None, name)


PER_BACKEND = """
import sys, torch
from difnet_kernels import cascaded_random_walk
from difnet_kernels.support.precision import float32_precision
from difnet_kernels.testing import make_inputs
setting, value, backend = sys.argv[1:]
owner, name = setting.rsplit(".", 1)
setattr(eval(owner), name, value)
inputs = make_inputs().to(torch.float32).requires_grad_()
state = cascaded_random_walk(inputs.features, inputs.seed, inputs.mu, inputs.beta, backend=backend)
state.sum().backward()
assert eval(setting) == value
print(float32_precision(torch.device("cpu")))
"""


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("torch.backends.fp32_precision", "tf32", "high"),
        ("torch.backends.mkldnn.matmul.fp32_precision", "bf16", "medium"),
        ("torch.backends.cuda.matmul.fp32_precision", "tf32", "highest"),
    ],
)
def test_the_precision_of_a_backend(backend: str, setting: str, value: str, expected: str) -> None:
    """torch.get_float32_matmul_precision() raises an error once a program has set it for a backend."""
    assert run_python(PER_BACKEND, setting, value, backend).stdout.strip() == expected


def test_threads_leave_the_setting_as_it_was() -> None:
    torch.set_float32_matmul_precision("highest")
    seen = []

    def compute(name: str) -> None:
        for _ in range(200):
            with matmul_precision(name):
                seen.append(torch.get_float32_matmul_precision() == name)

    threads = [threading.Thread(target=compute, args=(name,)) for name in ("medium", "high") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 800
    assert float32_precision(torch.device("cpu")) == "highest"
