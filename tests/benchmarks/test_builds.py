"""The operator of an earlier commit beside that of the working tree."""

import os
import subprocess
import sys

import pytest
import torch
from harness import builds
from harness.providers import list_providers
from harness.rows import ROOT

CPU = torch.device("cpu")

in_a_clone = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git clone of the project")


def test_unknown_commit_is_named():
    reason = builds.reason_missing("0123456789")
    assert reason.startswith("no commit 0123456789: ")


def test_provider_of_unknown_commit_has_the_reason():
    provider = next(p for p in list_providers(CPU, before="0123456789") if p.before)
    assert provider.name == "difnet native before (0123456789)"
    assert "no commit 0123456789: " in provider.unavailable


@in_a_clone
def test_both_operators_run_in_one_process(tmp_path):
    """The kernels are not compiled here, so that both run `blockwise`."""
    script = f"""
from pathlib import Path
from harness import builds
builds.ROOT = Path({str(tmp_path)!r})
run = builds._run
def without_compiler(command, *args, **options):
    if command[0] == "git":
        return run([*command[:2], {str(ROOT)!r}, *command[3:]], *args, **options)
    return b""
builds._run = without_compiler
import difnet_kernels
before = builds.load("HEAD")
assert before.__name__ == "difnet_kernels_before" and before.__file__.startswith({str(tmp_path)!r})
assert before.cascaded_random_walk is not difnet_kernels.cascaded_random_walk
from difnet_kernels.testing import make_inputs
x = make_inputs()
results = [
    package.cascaded_random_walk(x.features, x.seed, x.mu, x.beta, backend="blockwise")
    for package in (before, difnet_kernels)
]
assert results[0].equal(results[1])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env=environment)
