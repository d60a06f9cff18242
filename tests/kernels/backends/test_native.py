"""The compiled kernels: instruction sets, ranges of the exponents, threads, memory, forks."""

import os
import platform
import tempfile

import pytest
import torch
from cascades import run_python, state_and_gradients

from difnet_kernels import backends, cascaded_random_walk, random_walk, testing
from difnet_kernels.backends import instruction_set, instruction_sets
from difnet_kernels.support.errors import BackendError

STATUS = {status.name: status for status in backends()}["native"]
pytestmark = pytest.mark.skipif(not STATUS.available, reason=f"native: {STATUS.reason}")

# amx-model runs the data flow of AMX on an emulator, on any machine.
ISAS = ("portable", "avx2", "avx512", "avx512_bf16", "amx", "amx-model")

ACCURACY = """
import sys, torch
from difnet_kernels import testing
failed = []
for sharpness in testing.SHARPNESS:
    for nodes, dtype in ((200, torch.float32), (97, torch.bfloat16)):
        inputs = testing.make_inputs(3, nodes, 20, 7, 2, sharpness, node_bias=True)
        errors = testing.measure_errors(inputs, dtype, "native")
        failed += [(sharpness, nodes, e) for e in errors if not e.within]
    inputs = testing.make_inputs(3, 130, 20, 7, 2, sharpness, node_bias=True)
    errors = testing.measure_errors(inputs, torch.float64, "native")
    failed += [(sharpness, e) for e in errors if e.ours > 1e-12]
print(failed)
sys.exit(bool(failed))
"""


def skip_unless_usable(isa, monkeypatch):
    """Skip sets that this machine lacks, and the emulator of AMX if the build has none."""
    monkeypatch.setenv("DIFNET_CPU_ISA", isa)
    if isa != "amx-model" and isa not in instruction_sets():
        pytest.skip(f"this machine cannot run {isa}")
    if isa == "amx-model" and os.environ.get("DIFNET_TEST_TARGETS") != "1":
        try:
            instruction_set()
        except BackendError as error:
            pytest.skip(f"{error}; amx-model is built with DIFNET_TEST_TARGETS=1")
    assert instruction_set() == isa


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa, monkeypatch):
    skip_unless_usable(isa, monkeypatch)
    result = run_python(ACCURACY, DIFNET_CPU_ISA=isa)
    assert result.returncode == 0, result.stdout + result.stderr


PRECISION = """
import sys, torch
from difnet_kernels import testing
reduction = {"high": 256, "medium": 1}[sys.argv[1]]
failed = []
for sharpness in testing.SHARPNESS:
    inputs = testing.make_inputs(3, 250, 64, 21, 2, sharpness, node_bias=True)
    torch.set_float32_matmul_precision("highest")
    exact = testing.measure_errors(inputs, torch.float32, "native")
    torch.set_float32_matmul_precision(sys.argv[1])
    rounded = testing.measure_errors(inputs, torch.float32, "native")
    eager = testing.measure_errors(inputs, torch.bfloat16, "native")
    for ours, in_bfloat16 in zip(rounded, eager):
        factor = testing.FORWARD_FACTOR if ours.name == "output" else testing.GRADIENT_FACTOR
        if not ours.ours <= factor * in_bfloat16.eager / reduction + ours.allowed:
            failed.append((sharpness, ours, in_bfloat16))
    if sharpness == "mixed" and rounded[0].ours < 3 * exact[0].ours:
        failed.append((sharpness, "products were in float32", rounded[0]))
print(failed)
sys.exit(bool(failed))
"""


@pytest.mark.parametrize(
    ("precision", "isa"), [("high", "amx-model"), ("medium", "amx-model"), ("medium", "avx512_bf16")]
)
def test_float32_in_bfloat16_terms(precision, isa, monkeypatch):
    """With one term, errors may be those of eager PyTorch in bfloat16; with two, 1 / 256 of them."""
    skip_unless_usable(isa, monkeypatch)
    result = run_python(PRECISION, precision, DIFNET_CPU_ISA=isa)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_best_instruction_set_is_the_default():
    sets = instruction_sets()
    assert sets[-1] == "portable"
    assert "amx-model" not in sets  # used only if it is asked for by name
    inputs = testing.make_inputs(1, 100, 64, 5, 1).to(torch.bfloat16)
    code = "import sys, torch\nfrom difnet_kernels import random_walk\nx, half = torch.load(sys.argv[1])\n"
    code += "torch.save(random_walk(x, x, x, half, half, backend='native'), sys.argv[1])"
    x, half = inputs.features[0], torch.tensor(0.5)
    with tempfile.NamedTemporaryFile() as file:
        torch.save((x, half), file.name)
        assert run_python(code, file.name, DIFNET_CPU_ISA=sets[0]).returncode == 0
        assert torch.equal(torch.load(file.name), random_walk(x, x, x, half, half, backend="native"))


def test_unknown_instruction_set_is_an_error():
    result = run_python(ACCURACY, DIFNET_CPU_ISA="vax")
    assert "DIFNET_CPU_ISA=vax cannot run here; expected one of" in result.stderr
    assert "portable" in result.stderr


def assert_same_bits(inputs, threads):
    """Return output and gradients, after a check that they are the same on all these numbers of threads."""
    before = torch.get_num_threads()
    try:
        results = []
        for number in threads:
            torch.set_num_threads(number)
            results.append(state_and_gradients(inputs, "native"))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))
    return results[0]


@pytest.mark.parametrize("nodes", [250, 288, 289, 500])
def test_bits_do_not_depend_on_the_number_of_threads(nodes):
    inputs = testing.make_inputs(3, nodes, 33, 5, 2, node_bias=True).to(torch.float32)
    assert_same_bits(inputs, (1, 2, 3, 7))


@pytest.mark.parametrize(("batch", "nodes"), [(1, 7_700), (1, 7_800), (7, 1_900), (10, 250)])
def test_groups_of_blocks(batch, nodes):
    """81 and 82 blocks form groups of 7 and 8, on 24 threads of 1; 10 images form batches of 4, 4 and 2."""
    inputs = testing.make_inputs(batch, nodes, 4, 2, 1, node_bias=True).to(torch.float32)
    found = assert_same_bits(inputs, (1, 2, 24))
    truth = state_and_gradients(inputs.to(torch.float64), "blockwise")
    for ours, true in zip(found, truth, strict=True):
        assert (ours - true).norm() < 2e-5 * true.norm()


def test_bits_of_an_image_do_not_depend_on_the_other_images():
    """2, 3, 4 and 6 threads take whole images, 5 share the blocks of each."""
    inputs = testing.make_inputs(12, 130, 33, 5, 1, node_bias=True).to(torch.float32)
    _, _, mu, beta, _, _ = inputs
    y, *gradients = assert_same_bits(inputs, (1, 2, 3, 4, 5, 6))
    names = inputs.names()
    for b in range(12):
        image = slice(b, b + 1)
        alone = testing.Inputs(
            [inputs.features[0][image]],
            *(inputs.seed[image], mu, beta, inputs.state[image], inputs.node_bias[:, image]),
        )
        y_alone, *gradients_alone = state_and_gradients(alone, "native")
        assert torch.equal(y_alone, y[image])
        for name, one, all_images in zip(names, gradients_alone, gradients, strict=True):
            if name not in ("mu", "beta"):  # sums over the images
                own = all_images[:, image] if name == "node_bias" else all_images[image]
                assert torch.equal(one, own), name


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_numbers_remain_in_other_computations(threads):
    """The kernels set flags of the CPU on each thread that they use, and must restore them."""
    inputs = testing.make_inputs(4, 300, 16, 3, 1).to(torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        state_and_gradients(inputs, "native")
        small = torch.full((1_000_000,), 2.0**-126)
        assert (small / 2 == 2.0**-127).all()
    finally:
        torch.set_num_threads(before)


def test_numbers_far_below_the_largest_count_as_zero():
    """A node takes only from one that has 2^-100 of its weight, so its gradient consists of such products."""
    features = torch.tensor([[[10.0, 0.0], [3.07, 0.0], [0.0, 12.0], [0.0, 0.0]]])
    state = torch.tensor([[[1.0], [-1.0], [0.5], [0.0]]])
    bias = torch.tensor([[0.0, 0.0, 0.0, -200.0]])
    grad = torch.tensor([[[2.0**34], [0.0], [2.0**60], [0.0]]])

    def grad_state(backend, dtype):
        y = state.to(dtype).requires_grad_()
        one = torch.ones((), dtype=dtype)
        out = random_walk(features.to(dtype), y, y, one, one, node_bias=bias.to(dtype), backend=backend)
        return torch.autograd.grad(out, y, grad.to(dtype))[0]

    truth = grad_state("reference", torch.float64)
    assert 0 < truth[0, 1] < 2.0**-120 * truth.max()
    found = grad_state("native", torch.float32)
    torch.testing.assert_close(found[0, [0, 2]].double(), truth[0, [0, 2]], rtol=1e-6, atol=0)
    if platform.machine() == "x86_64":
        assert found[0, 1] == 0
    else:  # Other CPUs compute with subnormal numbers.
        assert abs(found[0, 1] - truth[0, 1]) < 2.0**-100 * truth.max()


def test_medium_precision_if_rounding_changes_norms():
    """If norms were not those of the rounded features, a node's weight for itself would overflow."""
    features = torch.full((1, 200, 64), 16.07)
    features[:, ::2] *= -1
    state, half = torch.randn(1, 200, 3), torch.tensor(0.5)
    truth = random_walk(features.double(), state.double(), state.double(), half, half, backend="reference")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        ours = random_walk(features, state, state, half, half, backend="native")
    finally:
        torch.set_float32_matmul_precision(before)
    assert (ours - truth).abs().max() < 0.02


@pytest.mark.parametrize("score", [3e2, 1e3, 1e4, 1e5])
def test_a_large_prior_of_a_node_without_weight(score):
    """Exponents are rounded at the size of the scores that have weight, not at that of the largest prior."""
    features = 1 + torch.rand(1, 200, 1, generator=torch.Generator().manual_seed(0))
    features[0, 0], prior = -score, torch.zeros(1, 200)
    prior[0, 0] = 0.9 * score
    state, half = torch.randn(1, 200, 3), torch.tensor(0.5)
    ours, truth = (
        random_walk(
            *(x.to(dtype) for x in (features, state, state)),
            half,
            half,
            node_bias=prior.to(dtype),
            backend=name,
        )
        for dtype, name in ((torch.float32, "native"), (torch.float64, "reference"))
    )
    assert (ours - truth).abs().max() < 1e-6


def inputs_of_range(exponents, rng_seed=0):
    """One walk on three images, whose row maxima are found in one of the ways of csrc/passes/row_max.h.

    Where they are searched, four nodes each have the same features, so that P is not the identity.
    """
    torch.manual_seed(rng_seed)
    inputs = testing.make_inputs(3, 252, 64, 5, 1, "mixed", node_bias=True)
    spread = {
        "shared": 10,
        "shared, at the limit": 99,  # csrc/passes/shared_range.h allows 100.5 for so many nodes
        "bounded by the node": 115,
        "bounded by the largest bias": 500,
        "searched": 80,
    }[exponents]
    if exponents == "searched":
        inputs = inputs._replace(features=[7 * inputs.features[0][:, ::4].repeat_interleave(4, 1)])
    return inputs._replace(node_bias=spread * torch.rand_like(inputs.node_bias))


RANGES = (
    "shared",
    "shared, at the limit",
    "bounded by the node",
    "bounded by the largest bias",
    "searched",
)


@pytest.mark.parametrize(
    "rng_seed", [0, 21, 27]
)  # with 21 and 27, one node has nearly all the weight of an image
@pytest.mark.parametrize("exponents", RANGES)
def test_all_ranges_of_exponents(exponents, rng_seed):
    errors = testing.measure_errors(inputs_of_range(exponents, rng_seed), torch.float32, "native")
    assert all(error.within for error in errors), "\n".join(map(str, errors))


@pytest.mark.parametrize("size", [1e-15, 1e-9, 1e9, 1e12])
@pytest.mark.parametrize("exponents", RANGES)
def test_states_of_any_size(exponents, size):
    """No product of exponentials, row sums and states overflows or underflows in float32."""
    inputs = inputs_of_range(exponents)
    inputs = inputs._replace(seed=size * inputs.seed, state=size * inputs.state)
    errors = testing.measure_errors(inputs, torch.float32, "native")
    assert all(error.within for error in errors), "\n".join(map(str, errors))


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**-30, 2.0**40, 2.0**90])
@pytest.mark.parametrize("exponents", RANGES)
def test_gradients_of_any_size(exponents, factor):
    """The gradients of a loss that is multiplied by a power of two are multiplied by it, bit for bit."""
    inputs = inputs_of_range(exponents).to(torch.float32).requires_grad_()
    y = cascaded_random_walk(*inputs[:4], state=inputs.state, node_bias=inputs.node_bias, backend="native")
    weight = torch.randn_like(y)
    plain = torch.autograd.grad(y, inputs.tensors(), weight, retain_graph=True)
    scaled = torch.autograd.grad(y, inputs.tensors(), factor * weight)
    for name, one, other in zip(inputs.names(), plain, scaled, strict=True):
        normal = one.abs() * min(factor, 1) > 1e3 * torch.finfo(torch.float32).tiny
        assert normal.any()
        assert torch.equal(other[normal], (factor * one)[normal]), name


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**-40, 1.0, 2.0**60])
@pytest.mark.parametrize("spread", [10, 95])
def test_gradients_of_nodes_with_small_weights(spread, factor):
    """Each node has nearly all weight of its own row, so the gradient of the lightest node is not small."""
    generator = torch.Generator().manual_seed(0)
    inputs = testing.make_inputs(3, 252, 64, 5, 1, "peaked", node_bias=True)
    features = [10 * inputs.features[0]]
    bias = spread * torch.rand(1, 3, 252, generator=generator, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    inputs = inputs._replace(features=features, node_bias=bias, mu=one, beta=one)
    weight = factor * torch.randn(inputs.seed.shape, generator=generator, dtype=torch.float64)
    ours, truth = [], []
    for dtype, backend, found in ((torch.float32, "native", ours), (torch.float64, "reference", truth)):
        x = inputs.to(torch.float32).to(dtype).requires_grad_()
        y = cascaded_random_walk(*x[:4], state=x.state, node_bias=x.node_bias, backend=backend)
        found += torch.autograd.grad(y, [x.state], weight.to(dtype))
    rows = (ours[0] - truth[0]).norm(dim=-1) / truth[0].norm(dim=-1)
    assert rows.max() < 1e-3  # the exponents of such long features are rounded at 2^-14


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("large", [1e6, 3e38])
def test_states_of_masked_nodes_do_not_reach_gradients(dtype, large):
    inputs = testing.make_inputs(2, 130, 16, 3, 1, node_bias=True)
    masked = torch.arange(130) % 7 == 3
    bias = inputs.node_bias.masked_fill(masked, -torch.inf)
    found = []
    for value in (0.0, large):
        state = (0.1 * inputs.state).masked_fill(masked[:, None], value)
        x = inputs._replace(node_bias=bias, state=state).to(dtype, torch.promote_types(dtype, torch.float32))
        x = x.requires_grad_()
        y = cascaded_random_walk(*x[:4], state=x.state, node_bias=x.node_bias, backend="native")
        found.append(torch.autograd.grad(y.sum(), [x.features[0], x.seed, x.state, x.node_bias]))
    for one, other in zip(*found, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("size", [1e-36, 1e-27, 1e-15, 1e18, 1e36])
@pytest.mark.parametrize(
    ("feature", "prior"),
    [
        ([[0.0], [0.0]], [0.0, 99.0]),  # exponentials of 1 and e^99
        (
            [[20.0, 0.0], [-20.0, 0.0], [0.0, 6.0], [0.0, -6.0]],
            None,
        ),  # bounds of the row maxima are far apart
        ([[3.0], [-8.0], [7.5]], None),  # shared exponentials, weights from 1 down to e^-27
    ],
)
def test_states_of_any_size_beside_small_and_large_exponentials(feature, prior, size):
    feature = torch.tensor([feature])
    prior = None if prior is None else torch.tensor([prior])
    state = torch.tensor([[1.0], [-0.5], [0.75], [0.25]])[None, : feature.shape[1]] * torch.tensor(
        [size, 1e-30]
    )
    one = torch.tensor(1.0)
    ours, truth = (
        random_walk(*(x.to(dtype) for x in (feature, state, state, one, one)), node_bias=prior, backend=name)
        for dtype, name in ((torch.float32, "native"), (torch.float64, "reference"))
    )
    errors = (ours - truth).abs().amax(1) / state.abs().amax(1)
    assert errors.max() < 3e-6


@pytest.mark.parametrize("size", [1e36, 3e38])
def test_sums_of_large_states_do_not_overflow(size):
    """All exponentials are 1: before the division by the row sum, a sum over nodes is 1000 times a state."""
    feature, state = torch.zeros(1, 1000, 2), torch.full((1, 1000, 1), size)
    one = torch.tensor(1.0)
    y = random_walk(feature, state, state, one, one, backend="native")
    torch.testing.assert_close(y, state, rtol=1e-5, atol=0)


@pytest.mark.parametrize("nodes", [40, 300])
@pytest.mark.parametrize("mask", [-70.0, -90.0, -1e3, -1e4, -torch.inf])
def test_a_masked_node_costs_no_digits(mask, nodes):
    """The maximum of its own row, in which it has no weight, is bounded by the score with another node."""
    torch.manual_seed(0)
    inputs = testing.make_inputs(12, nodes, 64, 21, 1, "flat", node_bias=True)
    inputs = inputs._replace(
        features=[0.05 * torch.randn_like(inputs.features[0])],
        mu=torch.ones_like(inputs.mu),
        beta=torch.ones_like(inputs.beta),
        node_bias=torch.zeros_like(inputs.node_bias),
    )
    inputs.node_bias[..., 3] = mask
    errors = testing.measure_errors(inputs, torch.float32, "native")
    assert all(error.within for error in errors), "\n".join(map(str, errors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_of_masked_nodes_do_not_matter(dtype):
    feature = torch.zeros(1, 3, 2, dtype=dtype)
    state = torch.tensor([1e-6, 2e-6, 1e38])[None, :, None]
    one, bias = torch.tensor(1.0), torch.tensor([[0.0, 0.0, -torch.inf]])
    y = random_walk(feature, state, state, one, one, node_bias=bias, backend="native")
    torch.testing.assert_close(
        y, torch.full_like(y, 1.5e-6), rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [-1e10, -1e20, -1e30, 1e10])
def test_finite_masks(bias, dtype):
    """Biases that float32 rounds by more than 1, which no weight can correct."""
    inputs = testing.make_inputs(2, 130, 16, 3, 1, node_bias=True)
    inputs.node_bias[:, :, 7] = bias
    inputs = inputs.to(dtype, torch.float32)
    for ours, truth in zip(
        state_and_gradients(inputs, "native"), state_and_gradients(inputs, "reference"), strict=True
    ):
        assert ours.isfinite().all()
        size = max(truth.abs().max().item(), 1.0)
        assert (ours - truth).abs().max() <= size * (1e-4 if dtype == torch.float32 else 0.05)


def test_an_infinite_feature_changes_only_rows_with_weight_for_it():
    feature = torch.randn(1, 200, 1, generator=torch.Generator().manual_seed(0)).abs()
    feature[0, :100] *= -1
    feature[0, 150] = float("inf")  # whose scores with negative features are -inf
    state, half = torch.randn(1, 200, 3), torch.tensor(0.5)
    ours, truth = (random_walk(feature, state, state, half, half, backend=b) for b in ("native", "reference"))
    assert truth[0, :100].isfinite().all()
    assert truth[0, 100:].isnan().all()
    torch.testing.assert_close(ours, truth, equal_nan=True)


def test_the_operator_checks_types_and_shapes():
    from difnet_kernels import ops

    walk, half = ops.walk_forward("native"), torch.tensor(0.5)
    feature, state = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    for wrong in (
        (feature, state.bfloat16(), state.bfloat16(), half, half, None),
        (feature.bfloat16(), state.double(), state.double(), half.double(), half.double(), None),
        (feature, state, state[:, :4], half, half, None),
        (feature, state, state, half.bfloat16(), half, None),
        (feature[:, :0], state[:, :0], state[:, :0], half, half, None),
        (feature, state, state, half, half, torch.zeros(2, 4)),
    ):
        with pytest.raises(ValueError, match="the walk's compiled kernels: expected"):
            walk(*wrong, "highest")


def test_images_of_all_ranges_in_one_batch():
    several = [inputs_of_range(exponents) for exponents in RANGES]
    features = [torch.cat([inputs.features[0] for inputs in several])]
    one, bias = several[0], torch.cat([inputs.node_bias for inputs in several], 1)
    seed, state = (torch.cat([x[i] for x in several]) for i in (1, 4))
    inputs = testing.Inputs(features, seed, one.mu, one.beta, state, bias)
    for ours, truth in zip(
        state_and_gradients(inputs, "native"), state_and_gradients(inputs, "reference"), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


def test_out_of_memory_is_an_exception():
    code = """
import resource, torch
from difnet_kernels import random_walk
x, half = torch.randn(1, 400_000, 64), torch.tensor(0.5)
y = torch.randn(1, 400_000, 2)
random_walk(x[:, :200], y[:, :200], y[:, :200], half, half, backend="native")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
try:
    random_walk(x, y, y, half, half, backend="native")
except (RuntimeError, MemoryError) as error:
    print("raised", type(error).__name__)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "raised" in result.stdout


def test_after_a_fork():
    code = """
import os, torch
from difnet_kernels import random_walk
torch.set_num_threads(2)  # the parent has a pool of threads, which the child does not get
x, half = torch.randn(1, 300, 8), torch.tensor(0.5)
first = random_walk(x, x, x, half, half, backend="native")
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    same = torch.equal(random_walk(x, x, x, half, half, backend="native"), first)
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    assert run_python(code).returncode == 0
