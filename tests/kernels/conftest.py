import pytest
import torch

from difnet_kernels import backends, blockwise

# Every backend that can run here, but the one that defines what is right.
BACKENDS = [status.name for status in backends() if status.available and status.name != "reference"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that a handful of nodes make a ragged grid of them."""
    monkeypatch.setitem(blockwise._TILE_EDGE, "cpu", 5)


@pytest.fixture
def two_threads():
    """For results that could depend on which thread comes first."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _poison_empty(monkeypatch):
    """Uninitialised memory reads as NaN, so that a kernel that leaves a hole is seen."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
