"""Peak memory, measured in a process of its own. P alone would take 16 GiB forward and 4 GiB backward."""

import subprocess
import sys

import pytest

from difnet_kernels import backends

MEASURE = """
import resource, sys, torch
from difnet_kernels import cascaded_random_walk

backend, batch, N, width, classes, backward = sys.argv[1], *map(int, sys.argv[2:])
torch.manual_seed(0)
feature = 0.3 * torch.randn(batch, N, width)
seed = torch.randn(batch, N, classes)
half = torch.tensor([0.5])
small = (feature[:, :600].requires_grad_(bool(backward)), seed[:, :600])
def run(feature, seed):
    y = cascaded_random_walk([feature], seed, half, half, backend=backend)
    if backward:
        y.sum().backward()
run(*small)  # so that the baseline includes the libraries' own buffers
baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(feature.detach().requires_grad_(bool(backward)), seed)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline) / 1024)
"""


def peak_mebibytes(*arguments: object) -> float:
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)


@pytest.mark.slow
def test_forward_stays_under_a_gibibyte(backend: str) -> None:
    assert peak_mebibytes(backend, 1, 65_536, 64, 21, 0) < 1024


@pytest.mark.slow
def test_backward_memory_is_linear(backend: str) -> None:
    """Forward and backward need tiles and a few copies of inputs and results, (d + k) N floats each."""
    copy = 32_768 * (64 + 21) * 4 / 2**20
    peak = peak_mebibytes(backend, 1, 32_768, 64, 21, 1)
    assert peak < 12 * copy + 32


@pytest.mark.slow
def test_scratch_memory_does_not_grow_with_the_number_of_images() -> None:
    """`native` computes few images at a time. What it saves and returns remains, (d + 5 k) N for each."""
    if not next(status.available for status in backends() if status.name == "native"):
        pytest.skip("native was not built")
    image = 2_000 * (64 + 5 * 21) * 4 / 2**20
    assert peak_mebibytes("native", 40, 2_000, 64, 21, 1) < 40 * image + 40
