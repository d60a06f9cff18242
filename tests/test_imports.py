"""The operator does not import the network, and needs no package but torch and numpy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCK = """
import importlib.machinery
find_spec = importlib.machinery.PathFinder.find_spec

def without_blocked(name, *arguments):
    return None if name.split(".")[0] in {blocked!r} else find_spec(name, *arguments)

importlib.machinery.PathFinder.find_spec = without_blocked
"""

WALK = """
import torch
from difnet_kernels import cascaded_random_walk
x = torch.randn(1, 9, 4, requires_grad=True)
half = torch.full((2,), 0.5)
cascaded_random_walk([x, x], x, half, half).sum().backward()
assert torch.isfinite(x.grad).all()
"""


def run_in_repository(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_the_operator_does_not_import_the_network() -> None:
    for path in (ROOT / "difnet_kernels").rglob("*.py"):
        assert "difnet" not in set(imported_packages(path)), path


@pytest.mark.parametrize(
    "blocked",
    [
        ("triton",),
        (
            *("triton", "timm", "accelerate", "torchvision", "torchmetrics", "tyro", "safetensors"),
            *("scipy", "tensorboard"),
        ),
    ],
)
def test_the_operator_runs_with_torch_and_numpy_alone(blocked: tuple[str, ...]) -> None:
    result = run_in_repository(BLOCK.format(blocked=blocked) + WALK)
    assert result.returncode == 0, result.stderr


def test_importing_the_operator_imports_no_large_package() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import difnet_kernels;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(new & {'triton', 'sympy', 'PIL', 'timm'})"
    )
    result = run_in_repository(code)
    assert result.stdout.strip() == "set()", result.stderr


COUNT = """
import torch
from difnet_kernels import cascaded_random_walk
from torch.utils.flop_counter import FlopCounterMode
x, half = torch.randn(1, 9, 4), torch.full((2,), 0.5)
with FlopCounterMode(display=False) as counter:
    cascaded_random_walk([x, x], x, half, half)
assert counter.get_total_flops() == 2 * 2 * 9 * 9 * (4 + 4), counter.get_total_flops()
"""


@pytest.mark.parametrize(
    "first",
    [
        "import difnet_kernels",
        "import torch.utils.flop_counter",
        # find_spec finds the counter without importing it.
        "import difnet_kernels, importlib.util; importlib.util.find_spec('torch.utils.flop_counter')",
    ],
)
def test_operations_are_counted_whatever_is_imported_first(first: str) -> None:
    result = run_in_repository(f"{first}\n{COUNT}")
    assert result.returncode == 0, result.stderr
