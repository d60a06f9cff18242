"""What the mathematics promises, and the extremes: on every backend."""

import pytest
import torch

from difnet_kernels import cascaded_random_walk, random_walk, testing

EVERY_BACKEND = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def walk(backend, inputs, **changes):
    inputs = inputs._replace(**changes)
    return cascaded_random_walk(
        inputs.features,
        inputs.seed,
        inputs.mu,
        inputs.beta,
        state=inputs.state,
        node_bias=inputs.node_bias,
        backend=backend,
    )


@pytest.fixture(params=[torch.float32, torch.float64])
def inputs(request):
    return testing.make_inputs(3, 63, 64, 5, 3, "mixed", node_bias=True).to(request.param)


def test_constant_state_stays_constant(backend, inputs):
    constant = torch.full_like(inputs.seed, 0.7)
    y = walk(backend, inputs, seed=constant, state=constant)
    torch.testing.assert_close(y, constant, rtol=0, atol=4 * torch.finfo(y.dtype).eps)


def test_output_stays_in_the_range_of_state_and_seed(backend, inputs):
    y = walk(backend, inputs)
    both = torch.cat((inputs.seed, inputs.state), dim=1)
    slack = 4 * torch.finfo(y.dtype).eps
    assert (y >= both.amin(dim=1, keepdim=True) - slack).all()
    assert (y <= both.amax(dim=1, keepdim=True) + slack).all()


def test_permuting_nodes_permutes_the_output(backend, inputs):
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    permuted = walk(
        backend,
        inputs,
        features=[f[:, order] for f in inputs.features],
        seed=inputs.seed[:, order],
        state=inputs.state[:, order],
        node_bias=inputs.node_bias[:, :, order],
    )
    torch.testing.assert_close(
        permuted, walk(backend, inputs)[:, order], rtol=0, atol=100 * torch.finfo(permuted.dtype).eps
    )


def test_images_do_not_mix(backend, inputs):
    other = inputs._replace(
        features=[torch.cat((f[:1], 2 * f[1:])) for f in inputs.features],
        seed=torch.cat((inputs.seed[:1], 3 * inputs.seed[1:])),
    )
    torch.testing.assert_close(walk(backend, other)[0], walk(backend, inputs)[0])


def test_beta_zero_returns_the_state(backend, inputs):
    assert torch.equal(walk(backend, inputs, beta=torch.zeros_like(inputs.beta)), inputs.state)


def test_mu_zero_ignores_the_features(backend, inputs):
    zero, one = torch.zeros_like(inputs.mu), torch.ones_like(inputs.beta)
    assert torch.equal(walk(backend, inputs, mu=zero, beta=one), inputs.seed)


def test_mu_and_beta_one_is_the_transition(backend, inputs):
    one = torch.ones_like(inputs.mu)
    y = walk(backend, inputs, mu=one, beta=one)
    truth = walk("reference", inputs.to(torch.float64), mu=one.double(), beta=one.double())
    torch.testing.assert_close(y.double(), truth, rtol=0, atol=50 * torch.finfo(y.dtype).eps)


def test_mu_and_beta_may_be_any_numbers(backend, inputs):
    mu, beta = torch.full_like(inputs.mu, 1.5), torch.full_like(inputs.beta, -0.25)
    y = walk(backend, inputs, mu=mu, beta=beta)
    truth = walk("reference", inputs.to(torch.float64), mu=mu.double(), beta=beta.double())
    torch.testing.assert_close(y.double(), truth, rtol=0, atol=100 * torch.finfo(y.dtype).eps)


def test_removed_nodes_are_as_if_never_there(backend, inputs):
    kept = torch.arange(63) % 4 != 1
    bias = inputs.node_bias.masked_fill(~kept, -torch.inf).requires_grad_()
    features = [f.clone().requires_grad_() for f in inputs.features]
    # What a removed node holds must not matter to the others.
    loud = inputs.state.masked_fill(~kept[:, None], 1e6)
    y = walk(backend, inputs, node_bias=bias, features=features, state=loud)
    without = walk(
        backend,
        inputs,
        features=[f[:, kept] for f in inputs.features],
        seed=inputs.seed[:, kept],
        state=inputs.state[:, kept],
        node_bias=inputs.node_bias[:, :, kept],
    )
    torch.testing.assert_close(y[:, kept], without, rtol=0, atol=50 * torch.finfo(y.dtype).eps)
    grad_bias, *grad_features = torch.autograd.grad(y[:, kept].square().sum(), (bias, *features))
    assert not grad_bias[:, :, ~kept].any(), "a removed node has no gradient of its bias"
    assert all(torch.isfinite(g).all() and not g[:, ~kept].any() for g in grad_features)


def test_all_nodes_removed_is_not_a_number(backend, inputs):
    bias = inputs.node_bias.clone()
    bias[:, 1] = -torch.inf
    y = walk(backend, inputs, node_bias=bias)
    assert y[1].isnan().all()
    assert torch.isfinite(y[[0, 2]]).all()


def test_gaussian_affinity(backend, inputs):
    feature = inputs.features[0]
    bias = -feature.square().sum(dim=-1) / 2
    one = torch.ones((), dtype=feature.dtype)
    y = random_walk(feature, inputs.state, inputs.seed, one, one, node_bias=bias, backend=backend)
    weights = torch.softmax(-torch.cdist(feature.double(), feature.double()).square() / 2, dim=-1)
    torch.testing.assert_close(
        y.double(), weights @ inputs.state.double(), rtol=0, atol=100 * torch.finfo(y.dtype).eps
    )


def test_bias_for_all_walks_or_for_each(backend, inputs):
    shared = inputs.node_bias[0]
    each = shared.expand(3, -1, -1).clone()
    assert torch.equal(walk(backend, inputs, node_bias=shared), walk(backend, inputs, node_bias=each))


def test_features_as_one_tensor(backend, inputs):
    stacked = torch.stack(inputs.features)
    assert torch.equal(walk(backend, inputs, features=stacked), walk(backend, inputs))


@pytest.mark.usefixtures("two_threads")
def test_bitwise_repeatable(backend, inputs):
    def run():
        copy = inputs.to(inputs.seed.dtype).requires_grad_()
        y = walk(backend, copy)
        return [y, *torch.autograd.grad(y.square().sum(), copy.tensors())]

    first = run()
    for _ in range(20):
        assert all(torch.equal(x, y) for x, y in zip(first, run(), strict=True))


@pytest.mark.parametrize(
    "case", ["zero rows", "identical rows", "one huge row", "negative zero", "subnormal"]
)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 40, 64, 5)])
def test_extremes(backend, case, shape):
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
    errors = testing.measure_errors(inputs, torch.float32, backend)
    assert all(error.within for error in errors), "\n".join(map(str, errors))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["features", "seed", "state", "mu", "beta", "node_bias"])
@pytest.mark.parametrize("mixed_in", ["small", "many tiles"])
def test_bad_numbers_reach_what_they_influence(backend, bad, where, mixed_in):
    inputs = testing.make_inputs(3, 17 if mixed_in == "small" else 1100, 16, 3, 1, "mixed", node_bias=True)
    inputs = inputs.to(torch.float32)
    clean = walk(backend, inputs)
    target = inputs.features[0] if where == "features" else getattr(inputs, where)
    if where in ("mu", "beta"):
        target[0] = bad
    elif where == "node_bias":
        target[0, 0, 5] = bad
    else:
        target[0, 5, 2] = bad
    y = walk(backend, inputs)
    truth = walk("reference", inputs.to(torch.float64))
    # Where the specification is not finite neither is the result; the other images keep their bits.
    lost = ~torch.isfinite(truth) & torch.isfinite(y)
    assert not lost.any()
    if where not in ("mu", "beta"):
        assert torch.equal(y[1:], clean[1:])
    if not (where == "node_bias" and bad == -float("inf")):
        assert not torch.isfinite(y[0]).all()


def test_subnormal_weights_are_zero_not_small(backend):
    """Scores far below the row's largest give a weight of exactly 0, also after an infinite state."""
    feature = torch.tensor([[[20.0], [-20.0]]])
    state = torch.tensor([[[1.0], [torch.finfo(torch.float32).max]]])
    one = torch.ones(())
    y = random_walk(feature, state, state, one, one, backend=backend)
    assert torch.equal(y, state)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_lie_in_memory_as_their_tensors_do(backend, channels_last):
    """Or batch norm's backward, on CPUs and for a single image, is wrong (difnet_kernels.autograd)."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = 0.2 * torch.randn(1, 16, 6, 7, dtype=torch.float64).to(memory_format=layout)
    weight, bias = (torch.rand(16, dtype=torch.float64).requires_grad_() for _ in range(2))
    seed, half = torch.randn(1, 42, 3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    image.requires_grad_()

    def by_hand(x):
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

    truth = gradients(by_hand(image), "reference")
    for name in (backend, "reference"):
        ours = gradients(torch.nn.functional.batch_norm(image, None, None, weight, bias, True), name)
        for mine, true in zip(ours, truth, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)


def test_the_reference_takes_transforms_of_functions():
    """Of a view of an image, whose gradient is laid out anew."""
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


def test_jacobians_of_several_outputs_at_once(backend):
    torch.manual_seed(0)
    image = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    seed, half = torch.randn(1, 4, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def state(image, backend=backend):
        return random_walk(image.flatten(2).mT, seed, seed, half, half, backend=backend)

    found = torch.autograd.functional.jacobian(state, image, vectorize=True)
    truth = torch.autograd.functional.jacobian(lambda image: state(image, "reference"), image)
    torch.testing.assert_close(found, truth)
