"""Wrong input: each error names the argument, what was expected and what was passed."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cascades import run_python
from torch import Tensor

import difnet_kernels
from difnet_kernels import BackendError, backends, cascaded_random_walk, random_walk, testing, transition_rows


@pytest.fixture
def arguments() -> dict[str, Any]:
    inputs = testing.make_inputs(2, 7, 4, 3, 2).to(torch.float32)
    return {"features": inputs.features, "seed": inputs.seed, "mu": inputs.mu, "beta": inputs.beta}


def zeros(*shape: int, **options: Any) -> Tensor:
    return torch.zeros(*shape, **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": zeros(2, 7, 4)}, ValueError, r"features: .*\(T, B, N, d\).*\(2, 7, 4\)"),
        ({"features": 3}, TypeError, "features: expected a list or tuple.*got int 3; for one walk pass"),
        ({"features": []}, ValueError, r"mu: expected \(T,\) for T = 0 walks.*in features, which is empty"),
        ({"features": [zeros(2, 7), zeros(2, 7, 4)]}, ValueError, r"features\[0\]: expected 3 axes"),
        (
            {"features": [zeros(2, 7, 4), zeros(2, 8, 4)]},
            ValueError,
            r"features\[1\] and seed: .* B and N, got .*\(2, 8, 4\) and seed .*\(2, 7, 3\)$",
        ),
        ({"features": [zeros(2, 7, 4), zeros(3, 7, 4)]}, ValueError, r"features\[1\].*\(3, 7, 4\)"),
        ({"features": [zeros(2, 7, 0), zeros(2, 7, 4)]}, ValueError, r"features\[0\]: axis d .* is empty"),
        ({"features": [zeros(2, 7, 4, dtype=torch.int64)] * 2}, TypeError, r"features\[0\].*torch.int64"),
        (
            {"features": [None, None]},
            TypeError,
            r"features\[0\]: expected a floating-point tensor.*NoneType$",
        ),
        (
            {"features": [zeros(2, 4, 1, 7)] * 2},
            ValueError,
            r"a map \(B, d, h, w\), pass features\[0\]\.permute\(0, 2, 3, 1\)\.flatten\(1, 2\)",
        ),
        (
            {"features": zeros(2, 4, 1, 7)},
            ValueError,
            r"one map \(B, d, h, w\), pass \[features\.permute\(0, 2, 3, 1\)",
        ),
        ({"features": zeros(2, 2, 4, 7)}, ValueError, r"if features is \(T, B, d, N\), pass features\.mT$"),
        (
            {"features": [zeros(2, 4, 7)] * 2},
            ValueError,
            r"if features\[0\] is \(B, d, N\), pass features\[0\]\.mT$",
        ),
        (
            {"seed": zeros(2, 3, 1, 7)},
            ValueError,
            r"a map \(B, k, h, w\), pass seed\.permute\(0, 2, 3, 1\)\.flatten\(1, 2\)$",
        ),
        (
            {"seed": np.zeros((2, 7, 3))},
            TypeError,
            r"got numpy\.ndarray of shape \(2, 7, 3\), float64; pass torch\.as_tensor\(seed\)$",
        ),
        ({"seed": zeros(2, 7)}, ValueError, "seed: expected 3 axes"),
        ({"seed": zeros(2, 0, 3)}, ValueError, "seed: axis N .* is empty"),
        (
            {"seed": zeros(2, 7, 3, dtype=torch.complex64)},
            TypeError,
            r"seed: .*complex64; .* seed\.real or seed\.abs\(\)",
        ),
        ({"seed": zeros(2, 7, 3, dtype=torch.bool)}, TypeError, "seed: .*bool"),
        ({"mu": zeros(3)}, ValueError, r"mu: expected \(T,\) for T = 2 walks.*\(3,\).*; give 2 numbers"),
        ({"mu": zeros(())}, ValueError, "mu: expected 1 axes"),
        ({"mu": 0.5}, TypeError, r"mu: .* got float 0\.5; pass torch\.full\(\(T,\), 0\.5\)$"),
        ({"mu": [0.5, 0.5]}, TypeError, r"mu: .* got list; pass torch\.as_tensor\(mu\)$"),
        ({"beta": zeros(2, dtype=torch.int32)}, TypeError, "beta: .*int32"),
        ({"beta": zeros(2, device="meta")}, ValueError, "beta: expected the device.*cpu.*meta"),
        (
            {"features": [zeros(2, 7, 4, device="meta")] * 2},
            ValueError,
            r"features\[0\]: expected the device",
        ),
        ({"state": zeros(2, 7, 4)}, ValueError, r"state: expected the shape of seed.*\(2, 7, 4\)"),
        ({"node_bias": zeros(2, 8)}, ValueError, r"node_bias: expected \(B, N\) = \(2, 7\)"),
        ({"node_bias": zeros(3, 2, 7)}, ValueError, r"node_bias: expected \(T, B, N\) = \(2, 2, 7\)"),
        ({"node_bias": zeros(7)}, ValueError, r"node_bias: expected 2 axes.*pass node_bias\.expand\(B, -1\)"),
        ({"node_bias": zeros(7, dtype=torch.bool)}, ValueError, "node_bias: expected 2 axes"),
        (
            {"node_bias": zeros(2, 7, dtype=torch.int64)},
            TypeError,
            r"node_bias: .*got torch.int64; .*node_bias\.float\(\), or node_bias\.bool\(\) if it is a mask",
        ),
        (
            {"seed": zeros(2, 7, 3).to_sparse()},
            TypeError,
            r"seed: expected a dense tensor.*torch.sparse_coo; pass seed.to_dense\(\)",
        ),
        (
            {"features": [zeros(2, 7, 4).to_mkldnn()] * 2},
            TypeError,
            r"features\[0\]: expected a dense tensor.*pass features\[0\].to_dense\(\)",
        ),
        ({"features": map(id, ())}, TypeError, r"features: .* got map; pass list\(features\)$"),
        ({"features": {}}, TypeError, r"features: .* got dict; pass list\(features\.values\(\)\)$"),
        ({"features": np.zeros((2, 2, 7, 4))}, TypeError, r"features: .*pass torch\.as_tensor\(features\)$"),
        ({"mu": [zeros(()), zeros(())]}, TypeError, r"mu: .* got list; pass torch\.stack\(list\(mu\)\)$"),
        ({"mu": np.float32(0.5)}, TypeError, r"mu: .*; pass torch\.full\(\(T,\), 0\.5\)$"),
        ({"mu": zeros(())}, ValueError, r"mu: expected 1 axes.*; pass mu\.expand\(T\)"),
        ({"seed": [zeros(7, 3)] * 2}, TypeError, r"seed: .* got list; pass torch\.stack\(list\(seed\)\)$"),
        ({"node_bias": zeros(2, 1, 1, 7)}, ValueError, r"\(B, 1, h, w\), pass node_bias\.flatten\(1\)$"),
        ({"backend": ["native"]}, BackendError, r"backend=\['native'\] is unknown"),
        ({"backend": "cuda"}, BackendError, "backend='cuda' is unknown; expected one of .*blockwise"),
    ],
)
def test_wrong_input(
    arguments: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cascaded_random_walk(**(arguments | change))


@pytest.mark.filterwarnings("ignore")
def test_quantized_input(arguments: dict[str, Any]) -> None:
    seed = torch.quantize_per_tensor(zeros(2, 7, 3), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"seed: .*qint8; convert it, e\.g\. seed\.dequantize\(\)$"):
        cascaded_random_walk(**arguments | {"seed": seed})


def test_wrong_input_of_a_single_walk(arguments: dict[str, Any]) -> None:
    feature, seed = arguments["features"][0], arguments["seed"]
    half = torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"mu: .* one element.*float 0\.5; pass torch\.full\(\(\), 0\.5\)"):
        random_walk(feature, seed, seed, 0.5, half)
    with pytest.raises(ValueError, match="feature: expected 3 axes"):
        random_walk(feature[0], seed, seed, half, half)
    with pytest.raises(
        ValueError, match=r"^feature and seed: .*; if feature is \(B, d, N\), pass feature\.mT$"
    ):
        random_walk(feature.mT, seed, seed, half, half)
    with pytest.raises(ValueError, match=r"^feature: expected the device"):
        random_walk(feature.to("meta"), seed, seed, half, half)
    with pytest.raises(ValueError, match="state: expected the shape of seed"):
        random_walk(feature, seed[:, 1:], seed, half, half)
    with pytest.raises(ValueError, match="node_bias: expected 2 axes"):
        random_walk(feature, seed, seed, half, half, node_bias=zeros(1, 2, 7))


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        (torch.tensor([0, 7]), IndexError, r"nodes: 7 is outside 0 \.\. 6"),
        (torch.tensor([-1]), IndexError, "nodes: -1 is outside"),
        (torch.tensor([0.0]), TypeError, "nodes: expected an int64 or int32 tensor"),
        (torch.tensor([0], dtype=torch.int16), TypeError, r"torch\.int16, on cpu; pass nodes\.long\(\)$"),
        (torch.ones(7) > 0, TypeError, r"pass nodes\.nonzero\(\)\.squeeze\(-1\) of a mask"),
        ([0], TypeError, r"got list; pass torch\.as_tensor\(nodes\)$"),
        ([0], TypeError, "nodes: expected an int64 or int32 tensor.*list"),
        (torch.zeros(3, 1, dtype=torch.int64), ValueError, r"nodes: expected \(n,\) or \(B, n\) with B = 2"),
        (torch.tensor(0), ValueError, "nodes: expected"),
    ],
)
def test_wrong_nodes(arguments: dict[str, Any], nodes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        transition_rows(arguments["features"][0], nodes)


def test_transition_rows_and_their_gradients(backend: str) -> None:
    inputs = testing.make_inputs(3, 40, 16, 3, 1, "pooled", node_bias=True).requires_grad_()
    feature, bias = inputs.features[0], inputs.node_bias[0]
    scores = feature @ feature.mT + bias[:, None]
    full = torch.softmax(scores, dim=-1)
    rows = transition_rows(feature, torch.tensor([0, 39, 7]), node_bias=bias, backend=backend)
    torch.testing.assert_close(rows, full[:, [0, 39, 7]], rtol=1e-10, atol=1e-14)
    nodes = torch.tensor([[1, 2], [3, 4], [5, 5]], dtype=torch.int32)
    rows = transition_rows(feature, nodes, node_bias=bias, backend=backend)
    truth = torch.stack([full[b, nodes[b]] for b in range(3)])
    torch.testing.assert_close(rows, truth, rtol=1e-10, atol=1e-14)
    grads = [torch.autograd.grad(x.square().sum(), (feature, bias), retain_graph=True) for x in (rows, truth)]
    for x, y in zip(*grads, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


WALK = """
import logging, torch
logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
from difnet_kernels import random_walk
x, half = torch.randn(1, 5, 2), torch.tensor(0.5)
for _ in range(3):
    random_walk(x, x, x, half, half)
"""


def test_the_choice_of_a_backend_is_logged_once() -> None:
    log = run_python(WALK, DIFNET_BACKEND="").stderr
    assert log.count("difnet_kernels random walks on cpu use backend") == 1


def test_the_environment_variable_names_the_default() -> None:
    assert run_python(WALK, DIFNET_BACKEND="reference").returncode == 0
    result = run_python(WALK, DIFNET_BACKEND="nonsense")
    assert result.returncode != 0
    assert "DIFNET_BACKEND='nonsense' is unknown; expected one of" in result.stderr


def test_an_unavailable_backend_says_why(monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    from difnet_kernels.backends import _BACKENDS, Backend

    monkeypatch.setitem(_BACKENDS, "broken", Backend("", None, lambda: "it was not built; build it"))
    monkeypatch.setitem(_BACKENDS, "elsewhere", Backend("", ("cuda",), lambda: None))
    with pytest.raises(BackendError, match="backend='broken' cannot run here: it was not built; build it"):
        cascaded_random_walk(**arguments, backend="broken")
    with pytest.raises(BackendError, match="it takes tensors on cuda, these are on cpu"):
        cascaded_random_walk(**arguments, backend="elsewhere")
    status = {s.name: s for s in backends()}["broken"]
    assert not status.available
    assert status.reason == "it was not built; build it"


def test_info_lists_every_backend() -> None:
    output = subprocess.run(
        [sys.executable, "-m", "difnet_kernels.info"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    for status in backends():
        assert status.name in output
        assert status.reason in output
    # A source folder on the path may hide the installed package, so the report names the folder in use.
    assert f"in {Path(difnet_kernels.__file__).parent}" in output
    for subject in ("torch:", "triton:", "compiler:", "CUDA", "CPU:"):
        assert subject in output


def test_the_logger_is_silent_by_default(arguments: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cascaded_random_walk(**arguments)
    assert not caplog.records


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_can_be_padded_as_the_error_says(
    arguments: dict[str, Any], layout: torch.layout
) -> None:
    """With the padding and the mask that the message names, each image has the result that it has alone."""
    counts = (5, 7)
    parts = [
        [x[b, :count].clone() for b, count in enumerate(counts)]
        for x in (*arguments["features"], arguments["seed"])
    ]
    *features, seed = (torch.nested.nested_tensor(part, layout=layout) for part in parts)
    for change in ({"features": features}, {"features": features, "seed": seed}, {"features": features[0]}):
        with pytest.raises(TypeError, match=r"nested tensor.*to_padded_tensor.*boolean node_bias"):
            cascaded_random_walk(**arguments | change)
    for padding, dtype in (("False", torch.bool), (r'float\("-inf"\)', torch.float32)):
        bias = torch.nested.nested_tensor([torch.ones(n, dtype=dtype) for n in counts], layout=layout)
        with pytest.raises(TypeError, match=rf"to_padded_tensor\(node_bias, {padding}\)"):
            cascaded_random_walk(**arguments | {"node_bias": bias})
    nodes = torch.nested.nested_tensor([torch.arange(n) for n in counts], layout=layout)
    with pytest.raises(TypeError, match=r"nodes: expected a dense tensor.*one image at a time"):
        transition_rows(arguments["features"][0], nodes)

    mask = torch.arange(7) < torch.tensor(counts)[:, None]
    padded = [torch.nested.to_padded_tensor(x, 0.0) for x in (*features, seed)]
    y = cascaded_random_walk(padded[:-1], padded[-1], arguments["mu"], arguments["beta"], node_bias=mask)
    for b, count in enumerate(counts):
        alone = [part[b][None] for part in parts]
        truth = cascaded_random_walk(alone[:-1], alone[-1], arguments["mu"], arguments["beta"])
        torch.testing.assert_close(y[b : b + 1, :count], truth)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("per_walk", [False, True])
def test_a_boolean_mask_is_a_bias_of_zero_and_minus_infinity(
    backend: str, dtype: torch.dtype, per_walk: bool
) -> None:
    inputs = testing.make_inputs(3, 20, 8, 3, 2).to(dtype).requires_grad_()
    shape = (2, 3, 20) if per_walk else (3, 20)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.6

    def run(node_bias):
        y = cascaded_random_walk(
            inputs.features, inputs.seed, inputs.mu, inputs.beta, node_bias=node_bias, backend=backend
        )
        return y, *torch.autograd.grad(y.float().square().sum(), inputs.tensors()[:-1])

    prior = torch.zeros(shape).masked_fill(~mask, -torch.inf)
    for masked, biased in zip(run(mask), run(prior), strict=True):
        assert torch.equal(masked, biased)
    assert not torch.equal(run(mask)[0], run(torch.zeros(shape))[0])


def test_masked_columns_of_transition_rows_are_zero(backend: str) -> None:
    feature = testing.make_inputs(2, 9, 8, 3, 1).features[0]
    mask = torch.tensor([True, False] * 4 + [True]).expand(2, 9)
    rows = transition_rows(feature, torch.tensor([0, 1]), node_bias=mask, backend=backend)
    assert not rows[..., ~mask[0]].any()
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    one, half = torch.ones(2, 9, 1, dtype=torch.float64), torch.tensor(0.5)
    walked = random_walk(feature, mask[..., None] * one, one, half, half, node_bias=mask, backend=backend)
    torch.testing.assert_close(walked[:, mask[0]], one[:, mask[0]])
