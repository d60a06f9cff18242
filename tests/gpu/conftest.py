"""Tests on a GPU. DIFNET_REHEARSE=1 with TRITON_INTERPRET=1 runs small ones on the CPU, in the interpreter.

They need only torch, triton, numpy and pytest. DIFNET_SHARD=1/4 runs the second of four parts (from 0).
"""

import os

import pytest
import torch

REHEARSAL = os.environ.get("DIFNET_REHEARSE") == "1" and os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if item.path.parent.name == "gpu"]
    shard, shards = map(int, os.environ.get("DIFNET_SHARD", "0/1").split("/"))
    config.hook.pytest_deselected(items=[item for n, item in enumerate(here) if n % shards != shard])
    items[:] = [x for x in items if x not in here] + here[shard::shards]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available() and not REHEARSAL:
            item.add_marker(pytest.mark.skip(reason="no GPU: torch.cuda.is_available() is False"))


@pytest.fixture
def rehearsal():
    return REHEARSAL


@pytest.fixture
def device():
    return torch.device("cpu" if REHEARSAL else "cuda")


@pytest.fixture(autouse=True)
def _poison_empty(monkeypatch):
    """Fill uninitialised memory with NaN, so that a number that a kernel does not write is noticed."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(before)
