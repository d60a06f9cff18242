"""Under autocast, walks and their derivatives are computed in the types of their inputs, compiled or not."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cascades import ALL_BACKENDS, walk_on_tensors
from torch import Tensor
from torch.func import grad, jvp, vmap

from difnet_kernels import testing, transition_rows
from difnet_kernels.support.autocast import product

COMPILERS = [None, "eager", "aot_eager"]


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def compiled_by(compiler: str | None, function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return function if compiler is None else torch.compile(function, backend=compiler, fullgraph=True)


def float32_inputs(num_walks: int) -> testing.Inputs:
    inputs = testing.make_inputs(3, 30, 8, 3, num_walks, node_bias=True)
    return inputs.to(torch.float32).requires_grad_()


def walk(backend: str) -> tuple[Callable[..., Any], Sequence[Tensor]]:
    return walk_on_tensors(backend, 2), float32_inputs(2).tensors()


def rows(backend: str) -> tuple[Callable[..., Any], Sequence[Tensor]]:
    inputs = float32_inputs(1)
    nodes = torch.tensor([0, 3, 17])

    def run(feature, bias):
        return transition_rows(feature, nodes, node_bias=bias, backend=backend)

    return run, (inputs.features[0], inputs.node_bias[0].detach().requires_grad_())


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("make", [walk, rows])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_autocast_rounds_no_gradient(backend: str, make: Callable[..., Any], compiler: str | None) -> None:
    """Neither where the backward is traced or called under the autocast of the forward, nor outside of it."""
    run, tensors = make(backend)
    expected = run(*tensors)
    weights = torch.randn_like(expected) * 1e-4
    expected_grads = torch.autograd.grad((expected * weights).sum(), tensors)

    compiled = compiled_by(compiler, run)
    with autocast():
        found = compiled(*tensors)
        grads_inside = torch.autograd.grad((found * weights).sum(), tensors, retain_graph=True)
    grads_outside = torch.autograd.grad((found * weights).sum(), tensors)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    for inside, outside, truth in zip(grads_inside, grads_outside, expected_grads, strict=True):
        scale = truth.abs().max().item()
        torch.testing.assert_close(inside, truth, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(outside, truth, rtol=0, atol=1e-5 * scale)


def factors() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(5, 4), torch.randn(2, 3, 4, 6)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_products_broadcast_and_have_both_gradients(compiler: str | None) -> None:
    left, right = (x.requires_grad_() for x in factors())
    expected = torch.autograd.grad((left @ right).square().sum(), (left, right))
    compiled = compiled_by(compiler, lambda *x: product(*x).square().sum())
    with autocast():
        found = torch.autograd.grad(compiled(left, right), (left, right))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("compiler", [None, "eager"])
def test_products_have_second_derivatives(compiler: str | None) -> None:
    left, right = (x.double().requires_grad_() for x in factors())

    def second(function):
        first = torch.autograd.grad(function(left, right).sin().sum(), (left, right), create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), (left, right))

    expected = second(torch.matmul)
    compiled = compiled_by(compiler, product)
    with autocast():
        found = second(compiled)
        assert torch.autograd.gradgradcheck(product, (left, right))
        assert torch.autograd.gradcheck(product, (left, right), check_forward_ad=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("compiler", [None, "eager", "aot_eager"])
@pytest.mark.parametrize("dims", [(0, None), (None, 1), (1, 2), (0, 0)])
def test_products_under_vmap(dims: tuple[int | None, ...], compiler: str | None) -> None:
    torch.manual_seed(0)
    calls = [
        x if dim is None else torch.stack([x, x.flip(0), x * 2], dim)
        for x, dim in zip(factors(), dims, strict=True)
    ]

    def derivative(function):
        return vmap(grad(lambda *x: function(*x).square().sum(), (0, 1)), dims)(*calls)

    expected = derivative(torch.matmul)
    compiled = compiled_by(compiler, lambda: derivative(product))
    with autocast():
        torch.testing.assert_close(compiled(), expected)
        value = vmap(product, dims)(*calls)
    torch.testing.assert_close(value, vmap(torch.matmul, dims)(*calls))


def test_products_have_derivatives_in_forward_mode() -> None:
    left, right = factors()
    tangents = (torch.randn_like(left), torch.randn_like(right))
    expected = jvp(torch.matmul, (left, right), tangents)
    half = jvp(lambda x: x @ right, (left,), tangents[:1])
    with autocast():
        torch.testing.assert_close(jvp(product, (left, right), tangents), expected)
        torch.testing.assert_close(jvp(lambda x: product(x, right), (left,), tangents[:1]), half)
