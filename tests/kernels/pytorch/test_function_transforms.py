"""Function transforms give the reference's derivative or raise an error of their own, never a silent zero."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cascades import ALL_BACKENDS, as_image, walk_on_tensors
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from difnet_kernels import (
    DoubleBackwardError,
    ForwardModeError,
    ops,
    testing,
    transition_rows,
)

NAMES = ("features[0]", "seed", "mu", "beta", "state", "node_bias")


def make(num_walks: int = 2, batch: int = 2, nodes: int = 9) -> testing.Inputs:
    return testing.make_inputs(batch, nodes, 4, 3, num_walks, node_bias=True)


def walk(inputs: testing.Inputs, backend: str, **changes: Any) -> Any:
    """The cascade with other tensors in place of some, by the names of `inputs.names()`."""
    tensors = dict(zip(inputs.names(), inputs.tensors(), strict=True)) | changes
    return walk_on_tensors(backend, len(inputs.features))(*tensors.values())


def loss(inputs: testing.Inputs, backend: str, name: str) -> Callable[[Tensor], Tensor]:
    """|y|^2 as a function of the input with that name."""
    return lambda x: walk(inputs, backend, **{name: x}).square().sum()


def value(inputs: testing.Inputs, name: str) -> Tensor:
    return dict(zip(inputs.names(), inputs.tensors(), strict=True))[name]


@pytest.mark.parametrize("num_walks", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_each_call(backend: str, name: str, num_walks: int) -> None:
    """vmap(grad) gives one gradient a call; those of mu and beta are sums over the images of the call."""
    inputs = make(num_walks)
    calls = torch.stack([value(inputs, name), 0.5 * value(inputs, name)])
    ours, truth = (vmap(grad(loss(inputs, b, name)))(calls) for b in (backend, "reference"))
    assert truth.abs().min(dim=0).values.max() > 0
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_what_all_calls_share(backend: str, name: str) -> None:
    inputs = make()
    seeds = torch.stack([inputs.seed, 2 * inputs.seed, -inputs.seed])

    def per_call(b):
        def gradient(seed, x):
            return grad(lambda x: walk(inputs, b, **({"seed": seed} | {name: x})).square().sum())(x)

        return vmap(gradient, in_dims=(0, None))(seeds, value(inputs, name))

    torch.testing.assert_close(per_call(backend), per_call("reference"), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_vmap_over_any_axis_and_its_gradient(backend: str, axis: int) -> None:
    inputs = make()
    calls = torch.stack([inputs.seed, 2 * inputs.seed, -inputs.seed]).movedim(0, axis)

    def run(b):
        x = calls.clone().requires_grad_()
        y = vmap(lambda seed: walk(inputs, b, seed=seed), in_dims=axis)(x)
        return y, *torch.autograd.grad(y.square().sum(), x)

    for x, y in zip(run(backend), run("reference"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def test_vmap_of_vmap(backend: str) -> None:
    inputs = make()
    calls = torch.randn(2, 3, *inputs.seed.shape, dtype=torch.float64)
    ours, truth = (
        vmap(vmap(lambda seed, b=b: walk(inputs, b, seed=seed)))(calls) for b in (backend, "reference")
    )
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_jacobian(backend: str, name: str) -> None:
    inputs = make(batch=1, nodes=5)
    ours, truth = (
        jacrev(lambda x, b=b: walk(inputs, b, **{name: x}))(value(inputs, name))
        for b in (backend, "reference")
    )
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


def test_gradients_of_several_weights_at_once(backend: str) -> None:
    inputs = make().requires_grad_()
    weights = torch.randn(4, *inputs.seed.shape, dtype=torch.float64)
    ours, truth = (
        torch.autograd.grad(walk(inputs, b), inputs.tensors(), weights, is_grads_batched=True)
        for b in (backend, "reference")
    )
    for x, y in zip(ours, truth, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def dual(function: Callable[..., Any], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, x.clone()))).tangent


def dual_without_gradients(function: Callable[..., Any], x: Tensor) -> Tensor:
    with torch.no_grad():
        return dual(function, x)


FORWARD_MODE = {
    "dual": dual,
    "dual, no_grad": dual_without_gradients,
    "jvp": lambda f, x: jvp(f, (x,), (x,))[1],
    "vmap(jvp)": lambda f, x: vmap(lambda v: jvp(f, (x,), (v,))[1])(torch.stack([x, 2 * x])),
    "jvp(vmap)": lambda f, x: jvp(vmap(f), (torch.stack([x, 2 * x]),), (torch.stack([x, x]),))[1],
    "jvp(grad)": lambda f, x: jvp(grad(f), (x,), (x,))[1],
    "grad(jvp)": lambda f, x: grad(lambda y: jvp(f, (y,), (x,))[1])(x),
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "hessian": lambda f, x: hessian(f)(x),
    "linearize": lambda f, x: linearize(f, x)[1](x),
    "jacobian, forward-mode": lambda f, x: torch.autograd.functional.jacobian(
        f, x, vectorize=True, strategy="forward-mode"
    ),
    "compiled jvp": lambda f, x: torch.compile(lambda y: jvp(f, (y,), (x,))[1], backend="aot_eager")(x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transform", FORWARD_MODE)
@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_raises_forward_mode_error(backend: str, transform: str, name: str) -> None:
    inputs = make(batch=1, nodes=4)
    with pytest.raises(ForwardModeError, match='backend="reference"'):
        FORWARD_MODE[transform](loss(inputs, backend, name), value(inputs, name))


# Not "compiled jvp": AOTAutograd of PyTorch 2.14 drops the tangent of an operator with its own forward-mode
# derivative, fails, and leaves its level of forward mode active for the rest of the process.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transform", [name for name in FORWARD_MODE if name != "compiled jvp"])
def test_the_reference_has_every_derivative(transform: str) -> None:
    inputs = make(batch=1, nodes=4)
    for name in NAMES:
        found = FORWARD_MODE[transform](loss(inputs, "reference", name), value(inputs, name))
        assert found.isfinite().all()
        assert found.abs().max() > 0


def test_forward_mode_of_the_operators_raises_forward_mode_error(backend: str) -> None:
    """Without a check in the operator itself, the tangent would be dropped without an error."""
    inputs = make()

    def run(seed):
        arguments = (inputs.features[0], seed, seed, inputs.mu[0], inputs.beta[0], None, "highest")
        return ops.walk_forward(backend)(*arguments)[0].sum()

    with pytest.raises(ForwardModeError, match='backend="reference"'):
        dual(run, inputs.seed)


def test_a_tangent_of_the_output_gradient_raises_forward_mode_error(backend: str) -> None:
    seed = make().seed.requires_grad_()
    y = loss(make(), backend, "seed")(seed)
    with forward_ad.dual_level(), pytest.raises(ForwardModeError, match='backend="reference"'):
        torch.autograd.grad(y, seed, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


def test_second_derivatives_raise_double_backward_error(backend: str) -> None:
    inputs = make()
    first = grad(loss(inputs, backend, "seed"))
    with pytest.raises(DoubleBackwardError, match='backend="reference"'):
        grad(lambda seed: first(seed).sum())(inputs.seed)


def gradient_outside(function: Callable[..., Any], x: Tensor) -> Tensor:
    """The gradient of a compiled vmap, taken outside of the compiled part."""
    calls = torch.stack([x, x / 2]).requires_grad_()
    return torch.autograd.grad(function(calls).sum(), calls)[0]


# The transform of a function that is compiled, and how the compiled function is called.
COMPILED = {
    "grad": (grad, lambda f, x: f(x)),
    "vmap(grad)": (lambda f: vmap(grad(f)), lambda f, x: f(torch.stack([x, x / 2]))),
    "grad(vmap)": (lambda f: grad(lambda x: vmap(f)(x).sum()), lambda f, x: f(torch.stack([x, x / 2]))),
    "jacrev": (jacrev, lambda f, x: f(x)),
    "vmap, in training": (vmap, gradient_outside),
}


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("name", ["features[0]", "mu"])
@pytest.mark.parametrize("transform", COMPILED)
def test_compiled_transform(backend: str, name: str, transform: str) -> None:
    inputs = make(num_walks=1, nodes=5).to(torch.float32)
    make_transform, call = COMPILED[transform]
    function = make_transform(loss(inputs, backend, name))
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: function(x), backend="aot_eager", fullgraph=True)
    truth = make_transform(loss(inputs, "reference", name))
    x = value(inputs, name)
    torch.testing.assert_close(call(compiled, x), call(truth, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["seed", "mu"])
def test_compiled_second_derivative(backend: str, name: str) -> None:
    """It raises, although Dynamo does not record the backward of a Function, which would give zero."""
    inputs = make(num_walks=1, batch=1, nodes=5)

    def second(b):
        first = grad(loss(inputs, b, name))
        return grad(lambda x: first(x).square().sum())

    x = value(inputs, name) if name == "mu" else as_image(value(inputs, name))
    torch._dynamo.reset()
    with pytest.raises(DoubleBackwardError, match='backend="reference"'):
        torch.compile(second(backend), backend="aot_eager")(x)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Observed exception"):
        torch.compile(second(backend), backend="aot_eager", fullgraph=True)(x)
    torch._dynamo.reset()
    compiled = torch.compile(second("reference"), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), second("reference")(x))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_forward_mode_derivative_of_a_pullback(backend: str) -> None:
    """The pullback is linear, so its derivative along a tangent is the pullback of the tangent."""
    inputs = make()
    tangent = torch.randn_like(inputs.seed)
    _, pullback = vjp(lambda seed: walk(inputs, backend, seed=seed), inputs.seed)

    def derivative_of_pullback():
        return jvp(lambda x: pullback(x)[0], (inputs.state,), (tangent,))[1]

    if backend == "reference":
        torch.testing.assert_close(derivative_of_pullback(), pullback(tangent)[0])
    else:
        with pytest.raises(ForwardModeError, match='backend="reference"'):
            derivative_of_pullback()


@pytest.mark.parametrize("transform", ["jvp", "jacfwd", "hessian", "vmap(jvp)"])
def test_transition_rows_have_every_derivative(backend: str, transform: str) -> None:
    feature, nodes = make().features[0], torch.tensor([0, 3])
    ours, truth = (
        FORWARD_MODE[transform](lambda f, b=b: transition_rows(f, nodes, backend=b).square().sum(), feature)
        for b in (backend, "reference")
    )
    assert truth.abs().max() > 0
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)
