"""Every derivative, against finite differences and against automatic differentiation of the reference."""

import itertools

import pytest
import torch
from cascades import walk_on_tensors

from difnet_kernels import DoubleBackwardError, cascaded_random_walk, random_walk, testing

NAMES = ("features[0]", "features[1]", "seed", "mu", "beta", "state", "node_bias")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("num_walks", [1, 2, 5])
@pytest.mark.parametrize("return_states", [False, True])
def test_gradcheck(backend: str, num_walks: int, return_states: bool) -> None:
    nodes = 12 if num_walks < 5 else 7
    inputs = testing.make_inputs(3, nodes, 4, 3, num_walks, node_bias=True).requires_grad_()
    run = walk_on_tensors(backend, num_walks, return_states=return_states)
    assert torch.autograd.gradcheck(run, inputs.tensors(), fast_mode=return_states)


def test_zero_walks_return_the_state(backend: str) -> None:
    inputs = testing.make_inputs(2, 7, 4, 3, num_walks=0).requires_grad_()
    run = walk_on_tensors(backend, 0, return_states=True)
    final, states = run(inputs.seed, inputs.mu, inputs.beta, inputs.state, None)
    assert torch.equal(final, inputs.state)
    assert states.shape == (0, 2, 7, 3)
    (grad,) = torch.autograd.grad(final.sum(), inputs.state)
    assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=len(NAMES)))[1:])
def test_every_subset_of_gradients(backend: str, wanted: tuple[bool, ...]) -> None:
    inputs = testing.make_inputs(2, 9, 4, 3, 2, "mixed", node_bias=True)
    tensors = inputs.tensors()
    assert inputs.names() == list(NAMES)
    leaves = [x.requires_grad_() for x, want in zip(tensors, wanted, strict=True) if want]
    weight = torch.randn_like(inputs.seed)
    ours, truth = (
        torch.autograd.grad(walk_on_tensors(name, 2)(*tensors), leaves, weight)
        for name in (backend, "reference")
    )
    for x, y in zip(ours, truth, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_gradient_through_the_first_two_of_three_states(backend: str) -> None:
    inputs = testing.make_inputs(3, 20, 8, 3, 3, "mixed").requires_grad_()
    weight = torch.randn(3, 3, 20, 3, dtype=torch.float64)
    grads = []
    for name in (backend, "reference"):
        run = walk_on_tensors(name, 3, return_states=True)
        _, states = run(*inputs.features, inputs.seed, inputs.mu, inputs.beta, inputs.state, None)
        grads.append(torch.autograd.grad(states[:2], inputs.tensors(), weight[:2], allow_unused=True))
    ours, truth = grads
    assert ours[2] is None or not ours[2].any(), "the first two states do not depend on the last walk"
    for t, (x, y) in enumerate(zip(ours, truth, strict=True)):
        if t != 2:
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_state_defaults_to_seed(backend: str) -> None:
    inputs = testing.make_inputs(2, 15, 8, 3, 2).requires_grad_()
    results = []
    for state in (None, inputs.seed):
        y = cascaded_random_walk(
            inputs.features, inputs.seed, inputs.mu, inputs.beta, state=state, backend=backend
        )
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs.seed)))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def test_double_backward_raises_double_backward_error(backend: str) -> None:
    inputs = testing.make_inputs(1, 6, 4, 2, 1).requires_grad_()

    def gradient(name):
        y = cascaded_random_walk(inputs.features, inputs.seed, inputs.mu, inputs.beta, backend=name)
        (grad,) = torch.autograd.grad(y.square().sum(), inputs.features[0], create_graph=True)
        return grad

    with pytest.raises(DoubleBackwardError, match='backend="reference"'):
        gradient(backend).sum().backward()
    gradient("reference").sum().backward()
    assert inputs.features[0].grad.abs().sum() > 0


def test_gradient_by_torch_func(backend: str) -> None:
    inputs = testing.make_inputs(2, 9, 4, 3, 1)

    def loss(seed, name):
        y = cascaded_random_walk(inputs.features, seed, inputs.mu, inputs.beta, backend=name)
        return y.square().sum()

    ours, truth = (torch.func.grad(loss)(inputs.seed, name) for name in (backend, "reference"))
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)


def test_single_walk(backend: str) -> None:
    inputs = testing.make_inputs(3, 33, 8, 5, 1, node_bias=True).requires_grad_()
    tensors = (inputs.features[0], inputs.state, inputs.seed, inputs.mu[0], inputs.beta[0])
    ours = random_walk(*tensors, node_bias=inputs.node_bias[0], backend=backend)
    truth = random_walk(*tensors, node_bias=inputs.node_bias[0], backend="reference")
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(y.square().sum(), inputs.tensors()) for y in (ours, truth)]
    for x, y in zip(*grads, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
