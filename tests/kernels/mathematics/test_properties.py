"""Properties that follow from the mathematics, and extreme inputs, on every backend."""

import pytest
import torch
from cascades import assert_within, state_and_gradients, walk

from difnet_kernels import random_walk, testing


@pytest.fixture(params=[torch.float32, torch.float64])
def inputs(request: pytest.FixtureRequest) -> testing.Inputs:
    return testing.make_inputs(3, 63, 64, 5, 3, "mixed", node_bias=True).to(request.param)


def test_constant_state_stays_constant(backend: str, inputs: testing.Inputs) -> None:
    constant = torch.full_like(inputs.seed, 0.7)
    y = walk(inputs, backend, seed=constant, state=constant)
    torch.testing.assert_close(y, constant, rtol=0, atol=4 * torch.finfo(y.dtype).eps)


def test_output_stays_in_the_range_of_state_and_seed(backend: str, inputs: testing.Inputs) -> None:
    y = walk(inputs, backend)
    both = torch.cat((inputs.seed, inputs.state), dim=1)
    slack = 4 * torch.finfo(y.dtype).eps
    assert (y >= both.amin(dim=1, keepdim=True) - slack).all()
    assert (y <= both.amax(dim=1, keepdim=True) + slack).all()


def test_permuting_nodes_permutes_the_output(backend: str, inputs: testing.Inputs) -> None:
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    permuted = walk(
        inputs,
        backend,
        features=[f[:, order] for f in inputs.features],
        seed=inputs.seed[:, order],
        state=inputs.state[:, order],
        node_bias=inputs.node_bias[:, :, order],
    )
    torch.testing.assert_close(
        permuted, walk(inputs, backend)[:, order], rtol=0, atol=100 * torch.finfo(permuted.dtype).eps
    )


def test_images_do_not_mix(backend: str, inputs: testing.Inputs) -> None:
    other = inputs._replace(
        features=[torch.cat((f[:1], 2 * f[1:])) for f in inputs.features],
        seed=torch.cat((inputs.seed[:1], 3 * inputs.seed[1:])),
    )
    torch.testing.assert_close(walk(other, backend)[0], walk(inputs, backend)[0])


def test_beta_zero_returns_the_state(backend: str, inputs: testing.Inputs) -> None:
    assert torch.equal(walk(inputs, backend, beta=torch.zeros_like(inputs.beta)), inputs.state)


def test_mu_zero_ignores_the_features(backend: str, inputs: testing.Inputs) -> None:
    zero, one = torch.zeros_like(inputs.mu), torch.ones_like(inputs.beta)
    assert torch.equal(walk(inputs, backend, mu=zero, beta=one), inputs.seed)


def test_mu_and_beta_one_give_the_mean_of_states(backend: str, inputs: testing.Inputs) -> None:
    one = torch.ones_like(inputs.mu)
    y = walk(inputs, backend, mu=one, beta=one)
    truth = walk(inputs.to(torch.float64), "reference", mu=one.double(), beta=one.double())
    torch.testing.assert_close(y.double(), truth, rtol=0, atol=50 * torch.finfo(y.dtype).eps)


def test_mu_and_beta_may_be_any_numbers(backend: str, inputs: testing.Inputs) -> None:
    mu, beta = torch.full_like(inputs.mu, 1.5), torch.full_like(inputs.beta, -0.25)
    y = walk(inputs, backend, mu=mu, beta=beta)
    truth = walk(inputs.to(torch.float64), "reference", mu=mu.double(), beta=beta.double())
    torch.testing.assert_close(y.double(), truth, rtol=0, atol=100 * torch.finfo(y.dtype).eps)


def test_masked_nodes_do_not_influence_the_others(backend: str, inputs: testing.Inputs) -> None:
    kept = torch.arange(63) % 4 != 1
    bias = inputs.node_bias.masked_fill(~kept, -torch.inf).requires_grad_()
    features = [f.clone().requires_grad_() for f in inputs.features]
    large_where_masked = inputs.state.masked_fill(~kept[:, None], 1e6)
    y = walk(inputs, backend, node_bias=bias, features=features, state=large_where_masked)
    without = walk(
        inputs,
        backend,
        features=[f[:, kept] for f in inputs.features],
        seed=inputs.seed[:, kept],
        state=inputs.state[:, kept],
        node_bias=inputs.node_bias[:, :, kept],
    )
    torch.testing.assert_close(y[:, kept], without, rtol=0, atol=50 * torch.finfo(y.dtype).eps)
    grad_bias, *grad_features = torch.autograd.grad(y[:, kept].square().sum(), (bias, *features))
    assert not grad_bias[:, :, ~kept].any(), "the bias of a masked node has a gradient"
    assert all(torch.isfinite(g).all() and not g[:, ~kept].any() for g in grad_features)


def test_an_image_of_masked_nodes_is_nan(backend: str, inputs: testing.Inputs) -> None:
    bias = inputs.node_bias.clone()
    bias[:, 1] = -torch.inf
    y = walk(inputs, backend, node_bias=bias)
    assert y[1].isnan().all()
    assert torch.isfinite(y[[0, 2]]).all()


def test_gaussian_affinity(backend: str, inputs: testing.Inputs) -> None:
    feature = inputs.features[0]
    bias = -feature.square().sum(dim=-1) / 2
    one = torch.ones((), dtype=feature.dtype)
    y = random_walk(feature, inputs.state, inputs.seed, one, one, node_bias=bias, backend=backend)
    weights = torch.softmax(-torch.cdist(feature.double(), feature.double()).square() / 2, dim=-1)
    torch.testing.assert_close(
        y.double(), weights @ inputs.state.double(), rtol=0, atol=100 * torch.finfo(y.dtype).eps
    )


def test_one_bias_for_all_walks(backend: str, inputs: testing.Inputs) -> None:
    shared = inputs.node_bias[0]
    each = shared.expand(3, -1, -1).clone()
    assert torch.equal(walk(inputs, backend, node_bias=shared), walk(inputs, backend, node_bias=each))


def test_features_of_all_walks_in_one_tensor(backend: str, inputs: testing.Inputs) -> None:
    stacked = torch.stack(inputs.features)
    assert torch.equal(walk(inputs, backend, features=stacked), walk(inputs, backend))


@pytest.mark.usefixtures("two_threads")
def test_the_same_inputs_give_the_same_bits(backend: str, inputs: testing.Inputs) -> None:
    first = state_and_gradients(inputs, backend)
    for _ in range(20):
        again = state_and_gradients(inputs, backend)
        assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "case", ["zero rows", "identical rows", "one huge row", "negative zero", "subnormal"]
)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 40, 64, 5)])
def test_extremes(backend: str, case: str, shape: tuple[int, ...]) -> None:
    batch, nodes, width, classes = shape
    inputs = testing.make_inputs(batch, nodes, width, classes, 1, "mixed")
    feature = inputs.features[0]
    if case == "zero rows":
        feature = feature * (torch.arange(nodes)[:, None] % 2)
    elif case == "identical rows":
        feature = feature[:, :1].expand(-1, nodes, -1) * 3
    elif case == "one huge row":
        feature = feature.clone()
        feature[:, 0] *= 1e4 / feature[:, 0].norm(dim=-1, keepdim=True)
    elif case == "negative zero":
        feature = -torch.zeros_like(feature)
    else:
        feature = feature * 1e-40
    inputs = inputs._replace(features=[feature])
    assert_within(testing.measure_errors(inputs, torch.float32, backend))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["features", "seed", "state", "mu", "beta", "node_bias"])
@pytest.mark.parametrize("nodes", [17, 1100], ids=["one tile", "many tiles"])
def test_nan_and_infinity_reach_every_result_they_influence(
    backend: str, bad: float, where: str, nodes: int
) -> None:
    inputs = testing.make_inputs(3, nodes, 16, 3, 1, "mixed", node_bias=True)
    inputs = inputs.to(torch.float32)
    clean = walk(inputs, backend)
    target = inputs.features[0] if where == "features" else getattr(inputs, where)
    if where in ("mu", "beta"):
        target[0] = bad
    elif where == "node_bias":
        target[0, 0, 5] = bad
    else:
        target[0, 5, 2] = bad
    y = walk(inputs, backend)
    truth = walk(inputs.to(torch.float64), "reference")
    # Where the reference is not finite, the result is not. The other images keep their bits.
    lost = ~torch.isfinite(truth) & torch.isfinite(y)
    assert not lost.any()
    if where not in ("mu", "beta"):
        assert torch.equal(y[1:], clean[1:])
    if not (where == "node_bias" and bad == -float("inf")):
        assert not torch.isfinite(y[0]).all()


def test_subnormal_weights_are_zero(backend: str) -> None:
    """A score far below the row maximum gives a weight of exactly 0, even beside the largest finite state."""
    feature = torch.tensor([[[20.0], [-20.0]]])
    state = torch.tensor([[[1.0], [torch.finfo(torch.float32).max]]])
    one = torch.ones(())
    y = random_walk(feature, state, state, one, one, backend=backend)
    assert torch.equal(y, state)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_have_the_layout_of_their_tensors(backend: str, channels_last: bool) -> None:
    """Otherwise batch norm's backward is wrong on CPUs for a single image (support/layout.py)."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = 0.2 * torch.randn(1, 16, 6, 7, dtype=torch.float64).to(memory_format=layout)
    weight, bias = (torch.rand(16, dtype=torch.float64).requires_grad_() for _ in range(2))
    seed, half = torch.randn(1, 42, 3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    image.requires_grad_()

    def batch_norm_by_hand(x):
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * weight[:, None, None] + bias[:, None, None]

    def gradients(normalized, backend):
        nodes = normalized.flatten(2).mT
        nodes.retain_grad()
        y = random_walk(nodes, seed, seed, half, half, backend=backend)
        found = torch.autograd.grad(y.square().sum(), (image, weight, bias, nodes))
        assert nodes.is_contiguous() or found[-1].stride() == nodes.stride()
        return found

    truth = gradients(batch_norm_by_hand(image), "reference")
    for name in (backend, "reference"):
        ours = gradients(torch.nn.functional.batch_norm(image, None, None, weight, bias, True), name)
        for mine, true in zip(ours, truth, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)


def test_function_transforms_of_the_reference() -> None:
    """The nodes are a view of an image, so that their gradient is copied into the image's layout."""
    torch.manual_seed(0)
    image = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    seed, half = torch.randn(1, 4, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def loss(image):
        nodes = image.flatten(2).mT
        return random_walk(nodes, seed, seed, half, half, backend="reference").square().sum()

    truth = torch.autograd.functional.hessian(loss, image)
    torch.testing.assert_close(torch.func.hessian(loss)(image), truth)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(image), truth)
    gradient = torch.func.grad(loss)(image)
    value, slope = torch.func.jvp(loss, (image,), (image,))
    torch.testing.assert_close(slope, (gradient * image).sum())
    assert value == loss(image)


def test_vectorized_jacobian(backend: str) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    seed, half = torch.randn(1, 4, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def state(image, backend=backend):
        return random_walk(image.flatten(2).mT, seed, seed, half, half, backend=backend)

    found = torch.autograd.functional.jacobian(state, image, vectorize=True)
    truth = torch.autograd.functional.jacobian(lambda image: state(image, "reference"), image)
    torch.testing.assert_close(found, truth)
