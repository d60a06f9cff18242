"""Contracts of torch.library, torch.compile, torch.export, autocast, inference mode, operation counts."""

import contextlib
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cascades import ALL_BACKENDS, LAYOUTS, as_image, walk_on_tensors
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad
from torch.utils.flop_counter import FlopCounterMode

from difnet_kernels import (
    DoubleBackwardError,
    cascaded_random_walk,
    ops,
    random_walk,
    testing,
    transition_rows,
)
from difnet_kernels.support.saved import SavedWalk

STRIDES = ("nodes", "image", "part", "expanded")  # of LAYOUTS


def one_walk(
    dtype: torch.dtype = torch.float32, nodes: int = 17
) -> tuple[testing.Inputs, tuple[Tensor, ...]]:
    inputs = testing.make_inputs(3, nodes, 8, 3, 2, "mixed", node_bias=True).to(dtype)
    return inputs, (inputs.features[0], inputs.state, inputs.seed, inputs.mu[0], inputs.beta[0])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [[True] * 6, [True, False, True, False, False, False], [False] * 6])
def test_opcheck(backend: str, bias: bool, mask: list[bool]) -> None:
    inputs, (feature, state, seed, mu, beta) = one_walk()
    node_bias = inputs.node_bias[0] if bias else None
    torch.library.opcheck(ops.walk_forward(backend), (feature, state, seed, mu, beta, node_bias, "highest"))
    grad, z, lse = ops.walk_forward(backend)(feature, state, seed, mu, beta, node_bias, "highest")
    saved = SavedWalk(feature, state, seed, z, lse, mu, beta, node_bias)
    torch.library.opcheck(ops.walk_backward(backend), (grad, *saved, "highest", mask))


@pytest.mark.parametrize(("of_feature", "of_values"), [*itertools.product(STRIDES, STRIDES)])
def test_fakes_and_kernels_agree_on_strides(backend: str, of_feature: str, of_values: str) -> None:
    inputs, (feature, state, seed, mu, beta) = one_walk()
    feature, bias = LAYOUTS[of_feature](feature), as_image(inputs.node_bias[0])
    state, seed = LAYOUTS[of_values](state), LAYOUTS[of_feature](seed)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        ops.walk_forward(backend), (feature, state, seed, mu, beta, bias, "highest"), test_utils=checks
    )
    grad, z, lse = ops.walk_forward(backend)(feature, state, seed, mu, beta, bias, "highest")
    for layout in (LAYOUTS[name] for name in STRIDES):
        saved = SavedWalk(feature, state, seed, layout(z), lse, mu, beta, bias)
        arguments = (layout(grad), *saved, "highest", [True] * 6)
        torch.library.opcheck(ops.walk_backward(backend), arguments, test_utils=checks)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize(
    ("of_feature", "of_values"), [("image", "image"), ("nodes", "image"), ("image", "part")]
)
def test_compiles_for_every_layout(backend: str, of_feature: str, of_values: str) -> None:
    inputs = testing.make_inputs(2, 42, 8, 5, 2).to(torch.float32)
    values = [*inputs.features, inputs.seed, inputs.mu, inputs.beta]

    def step(first, second, seed, mu, beta):
        first, second = LAYOUTS[of_feature](first), LAYOUTS[of_feature](second)
        y = cascaded_random_walk([first, second], LAYOUTS[of_values](seed), mu, beta, backend=backend)
        return LAYOUTS[of_values](y).square().sum()

    leaves = [x.clone().requires_grad_() for x in values]
    torch._dynamo.reset()
    for x, y in zip(
        *(torch.autograd.grad(f(*leaves), leaves) for f in (torch.compile(step, fullgraph=True), step)),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


MODES = {
    "gradients": contextlib.nullcontext,
    "no input needs a gradient": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_walks", [0, 1, 2, 3, 5])
def test_compiles_in_every_mode(backend: str, mode: str, num_walks: int) -> None:
    """One graph for each mode: Dynamo traces autograd Functions differently with and without gradients."""
    inputs = testing.make_inputs(2, 9, 4, 3, num_walks, node_bias=num_walks > 0).to(torch.float32)
    if mode != "no input needs a gradient":
        inputs.requires_grad_()

    def run(features, seed, mu, beta, bias):
        return cascaded_random_walk(
            features, seed, mu, beta, node_bias=bias, return_states=True, backend=backend
        )

    arguments = inputs.features, inputs.seed, inputs.mu, inputs.beta, inputs.node_bias
    torch._dynamo.reset()
    with MODES[mode]():
        found = torch.compile(run, fullgraph=True, backend="aot_eager")(*arguments)
        for x, y in zip(found, run(*arguments), strict=True):
            torch.testing.assert_close(x, y)
            assert x.requires_grad == y.requires_grad


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("num_walks", [0, 1, 2, 5])
def test_exports(backend: str, strict: bool, num_walks: int) -> None:
    class Cascade(torch.nn.Module):
        def forward(self, features, seed, mu, beta):
            return cascaded_random_walk(features, seed, mu, beta, backend=backend)

    inputs = testing.make_inputs(2, 9, 4, 3, num_walks).to(torch.float32)
    arguments = inputs.features, inputs.seed, inputs.mu, inputs.beta
    torch._dynamo.reset()
    program = torch.export.export(Cascade(), arguments, strict=strict)
    torch.testing.assert_close(program.module()(*arguments), Cascade()(*arguments))


@pytest.mark.parametrize("wanted", [("features[0]",), ("seed",), ("mu",), ("state", "node_bias")])
def test_operation_counts_are_those_of_the_reference(backend: str, wanted: tuple[str, ...]) -> None:
    inputs = testing.make_inputs(3, 10, 4, 7, 1, node_bias=True).to(torch.float32)
    names = dict(zip(inputs.names(), inputs.tensors(), strict=True))
    leaves = [names[name].requires_grad_() for name in wanted]

    def count(name):
        with FlopCounterMode(display=False) as counter:
            y = random_walk(
                inputs.features[0],
                inputs.state,
                inputs.seed,
                inputs.mu,
                inputs.beta,
                node_bias=inputs.node_bias[0],
                backend=name,
            )
            forward = counter.get_total_flops()
            torch.autograd.grad(y.sum(), leaves)
        return forward, counter.get_total_flops() - forward

    assert count("reference")[0] == 2 * 3 * 10 * 10 * (4 + 7)
    assert count(backend) == count("reference")
    expected = count("reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert count(backend) == count("reference") == expected


def test_meta_tensors(backend: str) -> None:
    if backend == "native":
        backend = None  # `native` does not support the device, so the default is another backend
    inputs = testing.make_inputs(2, 9, 4, 3, 2, node_bias=True).to(torch.float32)
    tensors = [x.to("meta").requires_grad_() for x in inputs.tensors()]
    y = walk_on_tensors(backend, 2)(*tensors)
    assert y.shape == inputs.seed.shape
    assert y.device.type == "meta"
    for x, g in zip(tensors, torch.autograd.grad(y.sum(), tensors), strict=True):
        assert g.shape == x.shape


@pytest.mark.parametrize("layout", STRIDES)
def test_operators_are_differentiable_once(backend: str, layout: str) -> None:
    """Compiled graphs consist of the operators. Gradients have the layout of their tensors."""
    inputs, (feature, state, seed, mu, beta) = one_walk(torch.float64)
    tensors = [*(LAYOUTS[layout](x) for x in (feature, state, seed)), mu, beta, inputs.node_bias[0]]
    leaves = [x.detach().requires_grad_() for x in tensors]
    y, z, lse = ops.walk_forward(backend)(*leaves, "highest")
    assert not z.requires_grad
    assert not lse.requires_grad
    truth = random_walk(*leaves[:5], node_bias=leaves[5], backend="reference")
    grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    for x, g, t in zip(leaves, grads, torch.autograd.grad(truth.square().sum(), leaves), strict=True):
        torch.testing.assert_close(g, t, rtol=1e-9, atol=1e-11)
        assert g.stride() == x.stride() or layout in ("part", "expanded")
    with pytest.raises(DoubleBackwardError, match='backend="reference"'):
        torch.autograd.grad(grads[1].sum(), leaves[2])


def test_exported_programs_can_be_trained(backend: str) -> None:
    inputs = testing.make_inputs(2, 9, 4, 3, 2)
    example = inputs.features[0], inputs.seed, inputs.mu, inputs.beta
    program = torch.export.export(Walks(backend), example).module()
    leaves = [x.clone().requires_grad_() for x in example]
    ours, truth = (
        torch.autograd.grad(f(*leaves).square().sum(), leaves) for f in (program, Walks("reference"))
    )
    for x, y in zip(ours, truth, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def test_compiles_once_for_all_sizes(backend: str) -> None:
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


def test_compiles_with_the_default_compiler(backend: str) -> None:
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


def test_exports_with_dynamic_sizes(backend: str) -> None:
    def arguments(batch, nodes):
        inputs = testing.make_inputs(batch, nodes, 8, 3, 2).to(torch.float32)
        return inputs.features[0], inputs.seed, inputs.mu, inputs.beta

    sizes = {0: torch.export.Dim("B"), 1: torch.export.Dim("N")}
    walks = Walks(backend)
    program = torch.export.export(walks, arguments(3, 17), dynamic_shapes=(sizes, sizes, None, None))
    for batch, nodes in ((2, 5), (4, 60)):
        example = arguments(batch, nodes)
        torch.testing.assert_close(program.module()(*example), walks(*example))


def test_transition_rows_compile(backend: str) -> None:
    _, (feature, *_) = one_walk()
    nodes = torch.tensor([0, 3])
    compiled = torch.compile(
        lambda f: transition_rows(f, nodes, backend=backend), fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(feature), transition_rows(feature, nodes, backend=backend))


def test_transition_rows_of_fake_tensors(backend: str) -> None:
    """Fake nodes have no values, so these are not checked."""
    with FakeTensorMode():
        rows = transition_rows(torch.empty(2, 7, 3), torch.zeros(4, dtype=torch.int64), backend=backend)
    assert rows.shape == (2, 4, 7)


def test_the_error_of_a_gradient_inside_of_a_graph_says_detach(backend: str) -> None:
    """If inputs of the graph require gradients, torch.compile differentiates the gradient too."""
    _, arguments = one_walk()

    def gradient(feature):
        return grad(lambda f: random_walk(f, *arguments[1:], backend=backend).square().sum())(feature)

    compiled = torch.compile(gradient, backend="aot_eager")
    torch.testing.assert_close(compiled(arguments[0].detach()), gradient(arguments[0].detach()))
    with pytest.raises(Exception, match="detach them"):
        compiled(arguments[0].detach().requires_grad_())


def test_autocast_does_not_change_the_bits(backend: str) -> None:
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
def test_modes_without_gradients(backend: str, mode: Callable[[], Any]) -> None:
    _, arguments = one_walk()
    leaf = arguments[0].clone().requires_grad_()
    with mode():
        y = random_walk(leaf, *arguments[1:], backend=backend)
    assert not y.requires_grad
    assert torch.equal(y, random_walk(*arguments, backend=backend))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_result_has_the_dtype_of_seed(backend: str, dtype: torch.dtype, seed_dtype: torch.dtype) -> None:
    inputs = testing.make_inputs(2, 20, 8, 3, 2).to(dtype, seed_dtype).requires_grad_()
    y, states = cascaded_random_walk(
        inputs.features, inputs.seed, inputs.mu, inputs.beta, return_states=True, backend=backend
    )
    assert y.dtype == states.dtype == seed_dtype
    grads = torch.autograd.grad(y.float().square().sum(), [*inputs.features, inputs.seed, inputs.mu])
    assert [g.dtype for g in grads] == [dtype, dtype, seed_dtype, seed_dtype]


class PlainSubclass(torch.Tensor):
    """A subclass that overrides nothing."""


def test_tensor_subclasses_give_the_same_values(backend: str) -> None:
    _, (feature, *rest) = one_walk()
    y = random_walk(feature.as_subclass(PlainSubclass), *rest, backend=backend)
    assert torch.equal(y.as_subclass(torch.Tensor), random_walk(feature, *rest, backend=backend))


@pytest.mark.parametrize("layout", ["nodes", "image"])
def test_compiled_second_derivatives_of_the_reference(layout: str) -> None:
    """A graph of the compiler "eager" is differentiated when it runs, any number of times."""
    inputs = testing.make_inputs(3, 12, 4, 2, 2)
    tensors = [*inputs.features, inputs.seed]
    if layout == "image":
        tensors = [as_image(x) for x in tensors]
    tensors = [*(x.requires_grad_() for x in tensors), inputs.mu, inputs.beta]

    def loss(*x):
        return cascaded_random_walk(x[:2], *x[2:], backend="reference").square().sum()

    def penalty(function):
        grads = torch.autograd.grad(function(*tensors), tensors[:3], create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in grads), tensors[:3])

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(penalty(compiled), penalty(loss))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("gradients", [False, True])
def test_jit_traces_can_be_saved_and_differentiated(backend: str, gradients: bool) -> None:
    inputs = testing.make_inputs(2, 9, 4, 3, 2).to(torch.float32)
    arguments = [x.requires_grad_(gradients) for x in (*inputs.features, inputs.seed, inputs.mu, inputs.beta)]

    def walks(first, second, seed, mu, beta):
        return cascaded_random_walk([first, second], seed, mu, beta, backend=backend)

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(walks, tuple(arguments)), file)
    traced = torch.jit.load(io.BytesIO(file.getvalue()))
    y, y_traced = walks(*arguments), traced(*arguments)
    torch.testing.assert_close(y_traced, y)
    if gradients:
        pairs = (torch.autograd.grad(x.square().sum(), arguments) for x in (y_traced, y))
        for ours, truth in zip(*pairs, strict=True):
            torch.testing.assert_close(ours, truth)
