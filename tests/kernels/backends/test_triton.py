"""The Triton backend where there is no GPU: in the interpreter, in its own process, and when it is off."""

import importlib.util
import os
import re
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


# What runs in the interpreter: the tests of the kernels, and a part of the operator's suite that is small
# enough: properties and extremes, the operators' contract (opcheck), strides, vmap, and one compiled walk.
INTERPRETED = (
    "tests/kernels/interpreted",
    "tests/kernels/mathematics/test_properties.py",
    "tests/kernels/pytorch/test_compile.py",
    "tests/kernels/pytorch/test_function_transforms.py",
)
SELECTED = (
    "interpreted"
    " or test_properties and triton and (inputs0 and not same_bits or extremes or subnormal)"
    " or test_compile and triton and (opcheck or strides and (image-part or expanded-nodes)"
    " or every_mode and 2-no_grad)"
    " or test_function_transforms and triton and (vmap_of_vmap or what_all_calls_share and mu)"
)
# A prime: each shard then has its share of every parametrized test, whatever the order of its parameters.
SHARDS = 11


def pytest_in_interpreter(*arguments: str) -> str:
    """What pytest prints in a process of its own with TRITON_INTERPRET=1, where it succeeds."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning",
         "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def shards() -> list[list[str]]:
    """The ids of the tests that run in the interpreter, each in one of the shards."""
    lines = pytest_in_interpreter("--collect-only", *INTERPRETED, "-k", SELECTED).splitlines()
    ids = [line for line in lines if "::" in line]
    assert re.match(rf"{len(ids)}/\d+ tests collected", lines[-1]), lines[-1]
    for word in {*re.findall(r"[\w-]{4,}", SELECTED)} - {"same_bits"}:
        assert any(word in name for name in ids), f"no test is selected by {word!r}"
    return [ids[first::SHARDS] for first in range(SHARDS)]


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_in_the_interpreter(shards: list[list[str]], shard: int):
    """Every test of the shard passes; none is skipped."""
    output = pytest_in_interpreter(*shards[shard])
    assert f"\n{len(shards[shard])} passed" in output, output


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
