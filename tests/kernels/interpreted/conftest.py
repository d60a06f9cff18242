"""These tests are collected only with TRITON_INTERPRET=1, as tests/kernels/backends/test_triton.py runs them.

Triton reads the variable when it is imported, so they have a process of their own.
"""

import os

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(params=[1, 3], ids=["unsplit", "split"])
def splits(request, monkeypatch):
    """Programs among which the columns of a row block are divided."""
    from difnet_kernels.triton import launch

    used = []

    def fixed(programs, tile_count, resident, device):
        used.append(min(request.param, tile_count))
        return used[-1]

    monkeypatch.setattr(launch, "_splits", fixed)
    yield request.param
    assert request.param in used, "no sweep was split into this many programs"
