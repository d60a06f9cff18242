"""Every derivative, against differences and against automatic differentiation of the reference."""

import itertools

import pytest
import torch

from difnet_kernels import DoubleBackwardError, cascaded_random_walk, random_walk, testing

NAMES = ("features[0]", "features[1]", "seed", "mu", "beta", "state", "node_bias")


def cascade(backend, walks, **options):
    def run(*tensors):
        features, (seed, mu, beta, state, bias) = tensors[:walks], tensors[walks:]
        return cascaded_random_walk(
            features, seed, mu, beta, state=state, node_bias=bias, backend=backend, **options
        )

    return run


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("walks", [1, 2, 5])
@pytest.mark.parametrize("return_states", [False, True])
def test_gradcheck(backend, walks, return_states):
    inputs = testing.make_inputs(3, 12 if walks < 5 else 7, 4, 3, walks, node_bias=True).requires_grad_()
    run = cascade(backend, walks, return_states=return_states)
    assert torch.autograd.gradcheck(run, inputs.tensors(), fast_mode=return_states)


def test_no_walks_return_the_state(backend):
    inputs = testing.make_inputs(2, 7, 4, 3, num_walks=0).requires_grad_()
    run = cascade(backend, 0, return_states=True)
    final, states = run(inputs.seed, inputs.mu, inputs.beta, inputs.state, None)
    assert torch.equal(final, inputs.state)
    assert states.shape == (0, 2, 7, 3)
    (grad,) = torch.autograd.grad(final.sum(), inputs.state)
    assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=len(NAMES)))[1:])
def test_only_the_gradients_asked_for(backend, wanted):
    inputs = testing.make_inputs(2, 9, 4, 3, 2, "mixed", node_bias=True)
    tensors = inputs.tensors()
    assert inputs.names() == list(NAMES)
    asked = [x.requires_grad_() for x, want in zip(tensors, wanted, strict=True) if want]
    weight = torch.randn_like(inputs.seed)
    ours = torch.autograd.grad(cascade(backend, 2)(*tensors), asked, weight)
    truth = torch.autograd.grad(cascade("reference", 2)(*tensors), asked, weight)
    for x, y in zip(ours, truth, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_gradient_through_every_state(backend):
    inputs = testing.make_inputs(3, 20, 8, 3, 3, "mixed").requires_grad_()
    weight = torch.randn(3, 3, 20, 3, dtype=torch.float64)
    grads = []
    for name in (backend, "reference"):
        run = cascade(name, 3, return_states=True)
        _, states = run(*inputs.features, inputs.seed, inputs.mu, inputs.beta, inputs.state, None)
        grads.append(torch.autograd.grad(states[:2], inputs.tensors(), weight[:2], allow_unused=True))
    ours, truth = grads
    assert ours[2] is None or not ours[2].any(), "the last walk has no part in the first two states"
    for t, (x, y) in enumerate(zip(ours, truth, strict=True)):
        if t != 2:
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_state_defaults_to_seed(backend):
    inputs = testing.make_inputs(2, 15, 8, 3, 2).requires_grad_()
    results = []
    for state in (None, inputs.seed):
        y = cascaded_random_walk(
            inputs.features, inputs.seed, inputs.mu, inputs.beta, state=state, backend=backend
        )
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs.seed)))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def test_double_backward_is_a_named_error(backend):
    inputs = testing.make_inputs(1, 6, 4, 2, 1).requires_grad_()

    def gradient(name):
        y = cascaded_random_walk(inputs.features, inputs.seed, inputs.mu, inputs.beta, backend=name)
        (grad,) = torch.autograd.grad(y.square().sum(), inputs.features[0], create_graph=True)
        return grad

    with pytest.raises(DoubleBackwardError, match='backend="reference"'):
        gradient(backend).sum().backward()
    gradient("reference").sum().backward()
    assert inputs.features[0].grad.abs().sum() > 0


def test_functional_transform(backend):
    inputs = testing.make_inputs(2, 9, 4, 3, 1)

    def loss(seed, name):
        y = cascaded_random_walk(inputs.features, seed, inputs.mu, inputs.beta, backend=name)
        return y.square().sum()

    ours, truth = (torch.func.grad(loss)(inputs.seed, name) for name in (backend, "reference"))
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)


def test_one_walk(backend):
    inputs = testing.make_inputs(3, 33, 8, 5, 1, node_bias=True).requires_grad_()
    tensors = (inputs.features[0], inputs.state, inputs.seed, inputs.mu[0], inputs.beta[0])
    ours = random_walk(*tensors, node_bias=inputs.node_bias[0], backend=backend)
    truth = random_walk(*tensors, node_bias=inputs.node_bias[0], backend="reference")
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(y.square().sum(), inputs.tensors()) for y in (ours, truth)]
    for x, y in zip(*grads, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
