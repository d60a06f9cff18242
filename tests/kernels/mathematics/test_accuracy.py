"""The error budget: a small multiple of PyTorch's own error at the same precision, against float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difnet_kernels import cascaded_random_walk, testing

DTYPES = [
    (torch.float32, None),
    (torch.bfloat16, None),
    (torch.bfloat16, torch.float32),
    (torch.float16, None),
]


def assert_within(errors):
    broken = [error for error in errors if not error.within]
    assert not broken, "\n".join(map(str, broken))


@pytest.mark.parametrize("sharpness", testing.SHARPNESS)
@pytest.mark.parametrize(("dtype", "value_dtype"), DTYPES)
def test_budget(backend, sharpness, dtype, value_dtype):
    inputs = testing.make_inputs(3, 300, 64, 21, 2, sharpness, node_bias=sharpness == "mixed")
    assert_within(testing.measure_errors(inputs, dtype, backend, value_dtype))


@pytest.mark.parametrize("nodes", [1, 2, 63, 1681])
def test_ragged_nodes(backend, nodes):
    inputs = testing.make_inputs(3, nodes, 64, 21, 1)
    assert_within(testing.measure_errors(inputs, torch.float32, backend))


@pytest.mark.parametrize("classes", [1, 2, 3, 11, 21, 60, 65])
@pytest.mark.parametrize("width", [1, 3, 16, 33, 64, 100, 128])
def test_any_width(backend, classes, width):
    inputs = testing.make_inputs(3, 70, width, classes, 1)
    assert_within(testing.measure_errors(inputs, torch.float32, backend))


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0, 30.0])
def test_large_scores(backend, scale):
    inputs = testing.make_inputs(3, 200, 64, 5, 1)
    inputs = inputs._replace(features=[scale * inputs.features[0]])
    errors = testing.measure_errors(inputs, torch.float32, backend)
    assert all(error.ours < float("inf") for error in errors)
    assert_within(errors)


def test_budget_catches_a_wrong_gradient(backend):
    def wrong(features, *args, **options):
        features = [1.001 * f.detach() + f - f.detach() for f in features]
        return cascaded_random_walk(features, *args, **options)

    inputs = testing.make_inputs(3, 100, 64, 5, 1)
    errors = testing.measure_errors(inputs, torch.float32, backend, cascade=wrong)
    assert not all(error.within for error in errors)


def test_recorded_activations(backend):
    """Features and seeds of a network trained on drawn scenes (tools/record_activations.py)."""
    load_file = pytest.importorskip(
        "safetensors.torch", reason="the [train] extra is not installed"
    ).load_file
    recorded = load_file(Path(__file__).parents[2] / "data" / "activations.safetensors")
    features = [x.double() for x in recorded["features"]]
    assert features[0].shape[0] >= 3
    walks = len(features)
    inputs = testing.Inputs(
        features,
        recorded["seed"].double(),
        recorded["mu"].double(),
        recorded["beta"].double(),
        recorded["seed"].double(),
        torch.zeros(walks, *features[0].shape[:2], dtype=torch.float64),
    )
    for dtype in (torch.float32, torch.bfloat16):
        assert_within(testing.measure_errors(inputs, dtype, backend))


LAYOUTS = ("contiguous", "transposed", "expanded", "offset")


def lay_out(tensor, layout):
    """The same values with other strides."""
    if layout == "transposed":
        return tensor.mT.contiguous().mT
    if layout == "expanded":
        return tensor[:1].expand(tensor.shape)
    if layout == "offset":
        return torch.nn.functional.pad(tensor, (1, 2, 3, 0))[:, 3:, 1:-2]
    return tensor


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_layout_and_dtype(backend, data):
    draw = data.draw
    batch, nodes = draw(st.integers(1, 4), label="B"), draw(st.integers(1, 70), label="N")
    width, classes = draw(st.integers(1, 20), label="d"), draw(st.integers(1, 25), label="k")
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    inputs = testing.make_inputs(batch, nodes, width, classes, 1, "mixed", node_bias=draw(st.booleans()))
    laid = inputs._replace(
        features=[lay_out(inputs.features[0].to(dtype), draw(st.sampled_from(LAYOUTS)))],
        seed=lay_out(inputs.seed, draw(st.sampled_from(LAYOUTS))),
        state=lay_out(inputs.state, draw(st.sampled_from(LAYOUTS))),
    )
    value_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    laid = laid._replace(
        **{
            name: None if getattr(laid, name) is None else getattr(laid, name).to(value_dtype)
            for name in laid._fields[1:]
        }
    )
    results = []
    for name in (backend, "reference"):
        copy = laid if name == backend else laid.to(torch.float64)
        copy.requires_grad_()
        y = cascaded_random_walk(
            copy.features,
            copy.seed,
            copy.mu,
            copy.beta,
            state=copy.state,
            node_bias=copy.node_bias,
            backend=name,
        )
        results.append([y, *torch.autograd.grad(y.square().sum(), copy.tensors())])
    # Gradients come back in the dtype of their input, rounded once.
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    if dtype == torch.bfloat16 and backend == "native":  # whose products may be of bfloat16 states
        tolerance = 2 * torch.finfo(dtype).eps
    exact = laid.to(torch.float64)
    for name, ours, truth in zip(["output", *laid.names()], *results, strict=True):
        size = max(truth.abs().max().item(), testing.term_size(name, exact, 2 * results[1][0].detach()))
        bound = size * (tolerance + (torch.finfo(ours.dtype).eps if name.startswith("features") else 0))
        torch.testing.assert_close(
            ours.double(), truth.double(), rtol=0, atol=bound, msg=f"{name}: {ours} {truth}"
        )
