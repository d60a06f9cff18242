"""The error budget: a small multiple of PyTorch's own error at the same precision, against float64."""

from pathlib import Path

import pytest
import torch
from cascades import ALL_BACKENDS, LAYOUTS, assert_within, walk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difnet_kernels import cascaded_random_walk, testing

DTYPES = [
    (torch.float32, None),
    (torch.bfloat16, None),
    (torch.bfloat16, torch.float32),
    (torch.float16, None),
]


@pytest.mark.parametrize("sharpness", testing.SHARPNESS)
@pytest.mark.parametrize(("dtype", "value_dtype"), DTYPES)
def test_budget(backend: str, sharpness: str, dtype: torch.dtype, value_dtype: torch.dtype | None) -> None:
    inputs = testing.make_inputs(3, 300, 64, 21, 2, sharpness, node_bias=sharpness == "mixed")
    assert_within(testing.measure_errors(inputs, dtype, backend, value_dtype))


@pytest.mark.parametrize("nodes", [1, 2, 63, 1681])
def test_ragged_nodes(backend: str, nodes: int) -> None:
    inputs = testing.make_inputs(3, nodes, 64, 21, 1)
    assert_within(testing.measure_errors(inputs, torch.float32, backend))


@pytest.mark.parametrize("classes", [1, 2, 3, 11, 21, 60, 65])
@pytest.mark.parametrize("width", [1, 3, 16, 33, 64, 100, 128])
def test_any_width(backend: str, classes: int, width: int) -> None:
    inputs = testing.make_inputs(3, 70, width, classes, 1)
    assert_within(testing.measure_errors(inputs, torch.float32, backend))


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0, 30.0])
def test_large_scores(backend: str, scale: float) -> None:
    inputs = testing.make_inputs(3, 200, 64, 5, 1)
    inputs = inputs._replace(features=[scale * inputs.features[0]])
    errors = testing.measure_errors(inputs, torch.float32, backend)
    assert all(error.ours < float("inf") for error in errors)
    assert_within(errors)


def test_budget_catches_a_wrong_gradient(backend: str) -> None:
    def with_wrong_gradient(features, *args, **options):
        """The gradient is that of features which are longer by 0.1 %, with respect to the given ones."""
        features = [1.001 * f.detach() + f - f.detach() for f in features]
        return cascaded_random_walk(features, *args, **options)

    inputs = testing.make_inputs(3, 100, 64, 5, 1)
    errors = testing.measure_errors(inputs, torch.float32, backend, cascade=with_wrong_gradient)
    assert not all(error.within for error in errors)


def test_the_command_prints_a_row_for_every_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--nodes", "40", "--walks", "1", "--dtypes", "float32"]
    monkeypatch.setattr("sys.argv", ["difnet_kernels.testing", *options])
    assert testing.main() == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("backend")
    assert [row.split()[0] for row in rows] == ALL_BACKENDS * len(testing.SHARPNESS)


@pytest.fixture
def recorded() -> dict[str, torch.Tensor]:
    """Features and seeds of a network trained on drawn scenes (tools/record_activations.py)."""
    safetensors = pytest.importorskip("safetensors.torch", reason="the [train] extra is not installed")
    return safetensors.load_file(Path(__file__).parents[2] / "data" / "activations.safetensors")


def test_bounds_of_row_maxima_are_loose(recorded: dict[str, torch.Tensor]) -> None:
    """A softmax that subtracts the bound (18) underflows in float16, whose smallest number is e^-16.6."""
    excess = []
    for feature in recorded["features"].double():
        centre = feature.mean(dim=1, keepdim=True)
        g = feature - centre
        half_norm, bias = g.square().sum(-1) / 2, (g * centre).sum(-1)
        maximum = (g @ g.mT + bias[:, None]).amax(-1)
        longest = g.norm(dim=-1).amax(-1, keepdim=True)
        bound = torch.minimum(
            half_norm + (half_norm + bias).amax(-1, keepdim=True), feature.norm(dim=-1) * longest
        )
        assert (bound >= maximum - 1e-9).all()
        excess.append((bound - maximum).amax(-1))
    assert (torch.stack(excess).amax(0) > 17).all()  # in every image


def test_recorded_activations(backend: str, recorded: dict[str, torch.Tensor]) -> None:
    features = [x.double() for x in recorded["features"]]
    seed, mu, beta = (recorded[name].double() for name in ("seed", "mu", "beta"))
    assert features[0].shape[0] >= 3
    node_bias = torch.zeros(len(features), *features[0].shape[:2], dtype=torch.float64)
    inputs = testing.Inputs(features, seed, mu, beta, seed, node_bias)
    for dtype in (torch.float32, torch.bfloat16):
        assert_within(testing.measure_errors(inputs, dtype, backend))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_layout_and_dtype(backend: str, data: st.DataObject) -> None:
    draw = data.draw
    batch, nodes = draw(st.integers(1, 4), label="B"), draw(st.integers(1, 70), label="N")
    width, classes = draw(st.integers(1, 20), label="d"), draw(st.integers(1, 25), label="k")
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    inputs = testing.make_inputs(batch, nodes, width, classes, 1, "mixed", node_bias=draw(st.booleans()))
    layouts = st.sampled_from([LAYOUTS[name] for name in ("nodes", "image", "expanded", "offset")])
    with_strides = inputs._replace(
        features=[draw(layouts)(inputs.features[0].to(dtype))],
        seed=draw(layouts)(inputs.seed),
        state=draw(layouts)(inputs.state),
    )
    value_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    values = [None if x is None else x.to(value_dtype) for x in with_strides[1:]]
    with_strides = testing.Inputs(with_strides.features, *values)
    results = []
    for name in (backend, "reference"):
        copy = with_strides if name == backend else with_strides.to(torch.float64)
        copy.requires_grad_()
        y = walk(copy, name)
        results.append([y, *torch.autograd.grad(y.square().sum(), copy.tensors())])
    # Gradients are rounded once, to the dtype of their input.
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    if dtype == torch.bfloat16 and backend == "native":  # it may round states to bfloat16 too
        tolerance = 2 * torch.finfo(dtype).eps
    exact = with_strides.to(torch.float64)
    for name, ours, truth in zip(["output", *with_strides.names()], *results, strict=True):
        size = max(truth.abs().max().item(), testing.term_size(name, exact, 2 * results[1][0].detach()))
        bound = size * (tolerance + (torch.finfo(ours.dtype).eps if name.startswith("features") else 0))
        torch.testing.assert_close(
            ours.double(), truth.double(), rtol=0, atol=bound, msg=f"{name}: {ours} {truth}"
        )
