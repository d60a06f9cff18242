"""The operator on a GPU: error budget, shapes, properties, determinism, graphs, memory."""

import time

import pytest
import torch

from difnet_kernels import backends, cascaded_random_walk, testing
from difnet_kernels.backends import choose


def on(device, inputs, dtype=torch.float64, value_dtype=None):
    moved = inputs.to(dtype, value_dtype)
    return moved._replace(
        features=[f.to(device) for f in moved.features],
        **{n: x if x is None else x.to(device) for n, x in zip(moved._fields[1:], moved[1:], strict=True)},
    )


def walk(inputs, backend="triton"):
    return cascaded_random_walk(
        inputs.features, inputs.seed, inputs.mu, inputs.beta,
        state=inputs.state, node_bias=inputs.node_bias, backend=backend,
    )  # fmt: skip


def run(inputs, backend="triton"):
    y = walk(inputs.requires_grad_(), backend)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, inputs.tensors(), weight)]


def assert_within(errors):
    broken = [error for error in errors if not error.within]
    assert not broken, "\n".join(map(str, broken))


def test_triton_is_the_default():
    (status,) = [s for s in backends() if s.name == "triton"]
    assert status.available, status.reason
    if torch.cuda.is_available():  # on the CPU another backend is the default
        assert choose(None, torch.device("cuda")) == "triton"


@pytest.mark.parametrize("sharpness", testing.SHARPNESS)
@pytest.mark.parametrize(
    ("dtype", "value_dtype", "precision"),
    [
        (torch.float32, None, "highest"),
        (torch.float32, None, "high"),
        (torch.float32, None, "medium"),
        (torch.bfloat16, None, "highest"),
        (torch.bfloat16, torch.float32, "highest"),
        (torch.float16, torch.float32, "highest"),
    ],
)
@pytest.mark.parametrize("batch", [1, 40])
def test_budget(device, rehearsal, sharpness, dtype, value_dtype, precision, batch):
    """The sweep of a single image is split over programs, that of forty images is not."""
    if rehearsal and (batch > 1 or sharpness in ("flat", "peaked")):
        pytest.skip("rehearsal: one image, two kinds of features")
    if rehearsal and precision == "medium":
        pytest.skip("rehearsal: PyTorch has no TF32 on the CPU to compare with")
    torch.set_float32_matmul_precision(precision)
    inputs = testing.make_inputs(
        batch, 140 if rehearsal else 1681, 64, 21, 1 if rehearsal else 2, sharpness,
        node_bias=sharpness == "mixed",
    )  # fmt: skip
    assert_within(testing.measure_errors(on(device, inputs), dtype, "triton", value_dtype))


@pytest.mark.parametrize("nodes", [1, 2, 63, 127, 128, 129, 1681])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ragged_nodes(device, rehearsal, nodes, dtype):
    if rehearsal and nodes > 129:
        pytest.skip("rehearsal: few nodes")
    inputs = testing.make_inputs(3, nodes, 64, 21, 1)
    assert_within(testing.measure_errors(on(device, inputs), dtype, "triton", torch.float32))


# Each pair compiles its own kernels. The pairs are those around widths that are padded or cut into chunks.
@pytest.mark.parametrize(
    ("width", "classes"),
    [(1, 1), (3, 11), (16, 2), (33, 32), (64, 31), (100, 21), (128, 60), (200, 65), (64, 130), (200, 130)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_width(device, rehearsal, width, classes, dtype):
    if rehearsal and width not in (3, 33):
        pytest.skip("rehearsal: two widths")
    inputs = testing.make_inputs(3, 140, width, classes, 1, node_bias=True)
    assert_within(testing.measure_errors(on(device, inputs), dtype, "triton", torch.float32))


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_scores(device, rehearsal, scale, dtype):
    if rehearsal and scale < 30:
        pytest.skip("rehearsal: the largest")
    inputs = testing.make_inputs(3, 200, 64, 5, 1)
    inputs = inputs._replace(features=[scale * inputs.features[0]])
    assert_within(testing.measure_errors(on(device, inputs), dtype, "triton", torch.float32))


def test_gradcheck(device):
    inputs = on(device, testing.make_inputs(2, 10, 4, 3, 2, "mixed", node_bias=True)).requires_grad_()

    def walks(first, second, *rest):
        seed, mu, beta, state, bias = rest
        return cascaded_random_walk(
            [first, second], seed, mu, beta, state=state, node_bias=bias, backend="triton"
        )

    assert torch.autograd.gradcheck(walks, inputs.tensors(), fast_mode=True, nondet_tol=0.0)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "offset"])
def test_strides(device, layout):
    lay = {
        "transposed": lambda x: x.mT.contiguous().mT,
        "expanded": lambda x: x[:1].expand(x.shape),
        "offset": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 0))[:, 3:, 1:-2],
    }[layout]
    inputs = on(device, testing.make_inputs(3, 140, 20, 5, 1), torch.bfloat16, torch.float32)
    laid = inputs._replace(features=[lay(inputs.features[0])], seed=lay(inputs.seed), state=lay(inputs.state))
    plain = laid._replace(
        features=[laid.features[0].contiguous()], seed=laid.seed.contiguous(), state=laid.state.contiguous()
    )
    for x, y in zip(run(laid), run(plain), strict=True):
        assert torch.equal(x, y)


def test_nan_and_masked_nodes_stay_in_their_image(device):
    inputs = on(device, testing.make_inputs(3, 150, 16, 3, 1, node_bias=True), torch.bfloat16, torch.float32)
    clean = walk(inputs)
    inputs.features[0][0, 5, 2] = float("nan")
    inputs.node_bias[0, 1, 7] = -float("inf")
    inputs.node_bias[0, 2] = -float("inf")
    y = walk(inputs)
    assert y[0].isnan().all()
    assert torch.isfinite(y[1]).all()
    assert not torch.equal(y[1], clean[1])
    assert y[2].isnan().all()


def test_bitwise_repeatable(device, rehearsal):
    """500 repetitions give the same bits, so there is no race either."""
    for batch, nodes in ((1, 300 if rehearsal else 4096), (2, 130 if rehearsal else 1681)):
        inputs = on(
            device, testing.make_inputs(batch, nodes, 64, 21, 1, "pooled"), torch.bfloat16, torch.float32
        )
        first = run(inputs)
        for _ in range(2 if rehearsal else 500):
            assert all(torch.equal(x, y) for x, y in zip(first, run(inputs), strict=True))


def test_no_recompilation_for_sizes(device, rehearsal):
    """No size compiles a kernel again, not even one image or a number of nodes that is a multiple of 16."""
    if rehearsal:
        pytest.skip("rehearsal: nothing is compiled")
    from difnet_kernels.triton import launch

    kernels = (
        launch.pack_forward_kernel, launch.walk_forward_kernel,
        launch.pack_backward_kernel, launch.walk_backward_kernel, launch.seed_mu_beta_gradients_kernel,
    )  # fmt: skip

    def compiled():
        return [len(kernel.device_caches[torch.cuda.current_device()][0]) for kernel in kernels]

    def at(batch, nodes):
        run(on(device, testing.make_inputs(batch, nodes, 16, 5, 1), torch.bfloat16, torch.float32))

    at(400, 130)
    before = compiled()
    for batch, nodes in ((400, 1), (401, 128), (512, 144), (400, 257)):
        at(batch, nodes)
    assert compiled() == before


def test_no_synchronisation(device, rehearsal):
    if rehearsal:
        pytest.skip("rehearsal: no device to wait for")
    inputs = on(device, testing.make_inputs(1, 500, 64, 21, 3), torch.bfloat16, torch.float32)
    run(inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graph_capture(device, rehearsal):
    if rehearsal:
        pytest.skip("rehearsal: no graphs")
    inputs = on(device, testing.make_inputs(2, 700, 64, 21, 5), torch.bfloat16, torch.float32)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            truth = run(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(inputs)
    for scale in (1.0, 0.5):
        with torch.no_grad():
            inputs.state.mul_(scale)
        truth = run(inputs)
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(x, y) for x, y in zip(truth, captured, strict=True))


def test_compiled_model(device, rehearsal):
    if rehearsal:
        pytest.skip("rehearsal: nothing is compiled")
    inputs = on(device, testing.make_inputs(2, 200, 16, 5, 2), torch.bfloat16, torch.float32)
    compiled = torch.compile(walk, fullgraph=True)
    assert torch.equal(compiled(inputs), walk(inputs))


def test_training_twin(device, rehearsal):
    """Training with the kernels ends where training with the reference in float64 ends, within the budget."""

    def train(backend, dtype):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

        pixels, labels = normal(3, 150, 6), torch.randint(5, (3, 150), generator=generator).to(device)
        embedding, classifier = (0.8 * normal(6, 16)).requires_grad_(), normal(6, 5).requires_grad_()
        raw_shares = torch.zeros(2, 1, dtype=dtype, device=device, requires_grad=True)
        parameters = [embedding, classifier, raw_shares]
        optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
        losses = []
        for _ in range(3 if rehearsal else 50):
            mu, beta = raw_shares.sigmoid()
            logits = cascaded_random_walk(
                [torch.tanh(pixels @ embedding)], pixels @ classifier, mu, beta, backend=backend
            )
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses), *(p.detach() for p in parameters)

    truth, eager, ours = (
        train(*x)
        for x in (("reference", torch.float64), ("reference", torch.float32), ("triton", torch.float32))
    )
    for name, our_result, eager_result, true in zip(
        ("losses", "embedding", "classifier", "mu and beta"), ours, eager, truth, strict=True
    ):
        error = testing.budget(name, our_result, eager_result, true, testing.GRADIENT_FACTOR)
        assert error.within, error
    assert rehearsal or truth[0][-1] < 0.9 * truth[0][0]


def test_full_resolution(device, rehearsal):
    """505 x 505 nodes, 65e9 pairs, forward and backward: sampled rows, identities, and memory linear in N."""
    nodes = 300 if rehearsal else 255_025
    generator = torch.Generator(device).manual_seed(0)
    feature = 0.35 * torch.randn(1, nodes, 64, device=device, generator=generator)
    feature = feature.to(torch.bfloat16).requires_grad_()
    state = torch.randn(1, nodes, 21, device=device, generator=generator).requires_grad_()
    one = torch.ones(1, device=device)  # as mu and beta: the output is z = P y, and dy is P^T grad
    if not rehearsal:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    y = cascaded_random_walk([feature], state, one, one, backend="triton")
    grad = 1 + torch.randn(y.shape, device=device, generator=generator)
    grad_feature, grad_state = torch.autograd.grad(y, (feature, state), grad)
    if not rehearsal:
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        seconds = time.perf_counter() - start
        print(f"{nodes} nodes: peak {peak / 2**20:.0f} MiB above the inputs, {seconds:.2f} s with compiling")
        # Thirteen copies of features, states and gradients; P would take 242 GiB.
        assert peak < 13 * nodes * (64 + 2 * 21) * 4

    with torch.no_grad():
        rows = torch.arange(0, nodes, max(1, nodes // 64), device=device)[:64]
        f, s = feature[0].double(), state[0].double()
        z = torch.softmax(f[rows] @ f.T, dim=-1) @ s
        torch.testing.assert_close(y[0, rows].double(), z, rtol=0, atol=1e-2 * z.abs().max().item())
        # Rows of P sum to one, so the columns of P^T a have the sums of those of a, here about N.
        total = grad_state.double().sum(dim=1)
        torch.testing.assert_close(total, grad.double().sum(dim=1), rtol=1e-2, atol=0)
        # The loss does not change when all features are rotated, so dF^T F is symmetric.
        product = grad_feature[0].double().T @ f
        assert grad_feature.abs().max() > 0
        torch.testing.assert_close(product, product.T, rtol=0, atol=2e-2 * product.abs().max().item())
