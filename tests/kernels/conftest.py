from collections.abc import Iterator

import pytest
import torch
from cascades import BACKENDS

from difnet_kernels import blockwise


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that a few nodes need several of them, the last of which are not full."""
    monkeypatch.setitem(blockwise._TILE_EDGE, "cpu", 5)


@pytest.fixture
def two_threads():
    """For results that could depend on which thread comes first."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _poison_empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill uninitialised memory with NaN, so that results which a kernel does not write are noticed."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
