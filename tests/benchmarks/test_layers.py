"""The packages of benchmarks/ import each other in one direction: reporting -> harness -> machine."""

import ast
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("package", "forbidden"), [("machine", {"harness", "reporting"}), ("harness", {"reporting"})]
)
def test_package_does_not_import_upwards(package, forbidden):
    for path in (BENCHMARKS / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not forbidden & {name.split(".")[0] for name in names}, path
