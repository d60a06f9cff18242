"""The Triton backend where there is no GPU: in the interpreter, in its own process, and when it is off."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from difnet_kernels import BackendError, backends, cascaded_random_walk

ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def pytest_in_interpreter(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning",
         "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )  # fmt: skip


@needs_triton
@pytest.mark.slow
def test_kernels_in_the_interpreter():
    result = pytest_in_interpreter("tests/kernels/interpreted")
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert " skipped" not in result.stdout


@needs_triton
@pytest.mark.slow
def test_properties_in_the_interpreter():
    """The part of the operator suite that is small enough."""
    result = pytest_in_interpreter(
        "tests/kernels/mathematics/test_properties.py",
        "-k",
        "triton and inputs0 or triton and extremes or subnormal",
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@needs_triton
@pytest.mark.slow
def test_operator_contract_in_the_interpreter():
    """Fakes, strides and aliases of the results; vmap; one walk compiled without gradients."""
    result = pytest_in_interpreter(
        "tests/kernels/pytorch/test_compile.py",
        "tests/kernels/pytorch/test_function_transforms.py",
        "-k",
        "triton and (opcheck or strides and image-part or strides and expanded-nodes or vmap_of_vmap "
        "or what_all_calls_share and mu or every_mode and 2-no_grad)",
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs on the CPU")
def test_reason_is_given_without_a_gpu():
    (status,) = [s for s in backends() if s.name == "triton"]
    assert not status.available
    assert "torch.cuda.is_available() is False" in status.reason
    x, one = torch.zeros(1, 2, 3), torch.ones(1)
    with pytest.raises(BackendError, match=r"cannot run here: torch\.cuda\.is_available"):
        cascaded_random_walk([x], x, one, one, backend="triton")


@pytest.mark.parametrize("broken", ["raise ImportError('not here')", "raise RuntimeError('a stub')"])
def test_other_backends_run_with_a_broken_triton(tmp_path, broken):
    (tmp_path / "triton.py").write_text(broken)
    code = (
        "import torch\n"
        "from difnet_kernels import backends, cascaded_random_walk\n"
        "x, one = torch.randn(1, 9, 4), torch.ones(1)\n"
        "cascaded_random_walk([x], x, one, one)\n"
        "print([s.reason for s in backends() if s.name == 'triton'][0])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Triton cannot be imported" in result.stdout
