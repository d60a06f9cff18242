"""torch.library contracts, torch.compile, torch.export, autocast, inference mode."""

import pytest
import torch

from difnet_kernels import cascaded_random_walk, ops, random_walk, testing, transition_rows


def one_walk(dtype=torch.float32, nodes=17):
    inputs = testing.make_inputs(3, nodes, 8, 3, 2, "mixed", node_bias=True).to(dtype)
    return inputs, (inputs.features[0], inputs.state, inputs.seed, inputs.mu[0], inputs.beta[0])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [[True] * 6, [True, False, True, False, False, False], [False] * 6])
def test_opcheck(backend, bias, mask):
    inputs, (feature, state, seed, mu, beta) = one_walk()
    node_bias = inputs.node_bias[0] if bias else None
    torch.library.opcheck(ops.walk_forward(backend), (feature, state, seed, mu, beta, node_bias))
    grad, z, lse = ops.walk_forward(backend)(feature, state, seed, mu, beta, node_bias)
    arguments = (grad, feature, state, seed, z, lse, mu, beta, node_bias, mask)
    torch.library.opcheck(ops.walk_backward(backend), arguments)


def test_operators_are_not_differentiable_on_their_own(backend):
    _, (feature, *rest) = one_walk()
    y, _, _ = ops.walk_forward(backend)(feature.requires_grad_(), *rest, None)
    with pytest.raises(NotImplementedError, match="cascaded_random_walk"):
        y.sum().backward()


def test_compiles_once_for_all_sizes(backend):
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    def step(feature, other, seed, mu, beta, bias):
        y, states = cascaded_random_walk(
            [feature, other, feature], seed, mu, beta, node_bias=bias, return_states=True, backend=backend
        )
        return y.square().sum() + states.sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=count)
    for batch, nodes in ((2, 17), (3, 23), (5, 40)):
        inputs = testing.make_inputs(batch, nodes, 8, 3, 3, node_bias=True).to(torch.float32).requires_grad_()
        arguments = (*inputs.features[:2], inputs.seed, inputs.mu, inputs.beta, inputs.node_bias)
        grads = [torch.autograd.grad(function(*arguments), arguments) for function in (compiled, step)]
        for x, y in zip(*grads, strict=True):
            torch.testing.assert_close(x, y)
    assert len(graphs) == 1


def test_compiles_with_the_default_compiler(backend):
    inputs = testing.make_inputs(2, 30, 8, 3, 2).to(torch.float32).requires_grad_()

    def step(features, seed, mu, beta):
        return cascaded_random_walk(features, seed, mu, beta, backend=backend).square().sum()

    arguments = (inputs.features, inputs.seed, inputs.mu, inputs.beta)
    wanted = [*inputs.features, inputs.seed, inputs.mu, inputs.beta]
    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for x, y in zip(*(torch.autograd.grad(f(*arguments), wanted) for f in (compiled, step)), strict=True):
        torch.testing.assert_close(x, y)


class Walks(torch.nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.backend = backend

    def forward(self, feature, seed, mu, beta):
        return cascaded_random_walk([feature, feature], seed, mu, beta, backend=self.backend)


def test_exports_with_dynamic_sizes(backend):
    def arguments(batch, nodes):
        inputs = testing.make_inputs(batch, nodes, 8, 3, 2).to(torch.float32)
        return inputs.features[0], inputs.seed, inputs.mu, inputs.beta

    sizes = {0: torch.export.Dim("B"), 1: torch.export.Dim("N")}
    walks = Walks(backend)
    program = torch.export.export(walks, arguments(3, 17), dynamic_shapes=(sizes, sizes, None, None))
    for batch, nodes in ((2, 5), (4, 60)):
        example = arguments(batch, nodes)
        torch.testing.assert_close(program.module()(*example), walks(*example))


def test_transition_rows_compile(backend):
    _, (feature, *_) = one_walk()
    nodes = torch.tensor([0, 3])
    compiled = torch.compile(
        lambda f: transition_rows(f, nodes, backend=backend), fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(feature), transition_rows(feature, nodes, backend=backend))


def test_autocast_leaves_the_walk_alone(backend):
    _, arguments = one_walk(nodes=200)

    def run():
        leaf = arguments[0].clone().requires_grad_()
        y = random_walk(leaf, *arguments[1:], backend=backend)
        return y, *torch.autograd.grad(y.sum(), leaf)

    plain, reference = run(), random_walk(*arguments, backend="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(x, y) for x, y in zip(run(), plain, strict=True))
        assert torch.equal(random_walk(*arguments, backend="reference"), reference)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(backend, mode):
    _, arguments = one_walk()
    leaf = arguments[0].clone().requires_grad_()
    with mode():
        y = random_walk(leaf, *arguments[1:], backend=backend)
    assert not y.requires_grad
    assert torch.equal(y, random_walk(*arguments, backend=backend))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_result_has_the_dtype_of_seed(backend, dtype, seed_dtype):
    inputs = testing.make_inputs(2, 20, 8, 3, 2).to(dtype, seed_dtype).requires_grad_()
    y, states = cascaded_random_walk(
        inputs.features, inputs.seed, inputs.mu, inputs.beta, return_states=True, backend=backend
    )
    assert y.dtype == states.dtype == seed_dtype
    grads = torch.autograd.grad(y.float().square().sum(), [*inputs.features, inputs.seed, inputs.mu])
    assert [g.dtype for g in grads] == [dtype, dtype, seed_dtype, seed_dtype]


class Tagged(torch.Tensor):
    """A subclass with nothing overridden."""


def test_tensor_subclasses_keep_their_default_behaviour(backend):
    _, (feature, *rest) = one_walk()
    y = random_walk(feature.as_subclass(Tagged), *rest, backend=backend)
    assert torch.equal(y.as_subclass(torch.Tensor), random_walk(feature, *rest, backend=backend))
