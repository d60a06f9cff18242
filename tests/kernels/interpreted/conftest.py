"""Collected only with TRITON_INTERPRET=1, which Triton reads once; ../test_triton.py sees to that."""

import os

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(params=[1, 3], ids=["unsplit", "split"])
def splits(request, monkeypatch):
    """Programs among which the columns of a row block are divided."""
    from difnet_kernels.triton import launch

    seen = []

    def fixed(programs, tile_count, resident, device):
        seen.append(min(request.param, tile_count))
        return seen[-1]

    monkeypatch.setattr(launch, "_splits", fixed)
    yield request.param
    assert request.param in seen, "nothing was split as asked"
