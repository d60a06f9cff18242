"""Run by `make bare` in an environment without the extras: the operator needs torch and numpy alone.

Not a pytest module: pytest is not there.
"""

import subprocess
import sys
import tempfile
from importlib import metadata, util

WALK = """
import sys
if {blocked}:
    sys.modules["triton"] = None
import torch
from difnet_kernels import backends, cascaded_random_walk
x = torch.randn(2, 50, 8, requires_grad=True)
half = torch.full((2,), 0.5)
cascaded_random_walk([x, x], x, half, half).sum().backward()
assert torch.isfinite(x.grad).all()
assert any(status.available for status in backends())
"""


def main() -> None:
    """Walk from outside the checkout, with and without Triton; the network says what it misses."""
    for extra in ("timm", "accelerate", "tyro", "safetensors"):
        assert util.find_spec(extra) is None, f"{extra} is installed, so this environment proves nothing"
    with tempfile.TemporaryDirectory() as elsewhere:
        for blocked in (False, True):
            subprocess.run([sys.executable, "-c", WALK.format(blocked=blocked)], cwd=elsewhere, check=True)
        subprocess.run([sys.executable, "-m", "difnet_kernels.info"], cwd=elsewhere, check=True)
        network = subprocess.run(
            [sys.executable, "-c", "import difnet"],
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
    assert network.returncode != 0
    assert "difnet-kernels[train]" in network.stderr, network.stderr
    print(f"difnet-kernels {metadata.version('difnet-kernels')} works with torch and numpy alone")


if __name__ == "__main__":
    main()
