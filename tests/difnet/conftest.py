"""A small folder data set made on the fly, and a network small enough to train in seconds."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from small_runs import make_folder, small_network, tiny

from difnet import save_model, train
from difnet.data.checks import workers

torch.set_num_threads(1)  # for networks so small, a second thread costs more time than it saves


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what checks find in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note which items are read, in one process."""
    found: list[int] = []
    original = workers._examine
    monkeypatch.setattr(
        workers, "_examine", lambda dataset, index: found.append(index) or original(dataset, index)
    )
    monkeypatch.setattr(workers, "cores", lambda: 1)
    return found


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and a finished run on it."""
    folder = tmp_path_factory.mktemp("trained")
    root = make_folder(folder / "data")
    assert train.main(tiny(root, folder / "run", "--max-steps", "3")) == 0
    return root, folder / "run"


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory):
    """Two finished runs of two steps, one with each optimizer."""
    folder = tmp_path_factory.mktemp("runs")
    root = make_folder(folder / "data")
    for name, rate in (("sgd", "0.05"), ("adamw", "0.001")):
        AcceleratorState._reset_state(reset_partial_state=True)
        options = ("--max-steps", "2", "--overlays", "0", "--optimizer", name, "--lr", rate)
        assert train.main(tiny(root, folder / name, *options)) == 0
    return folder


@pytest.fixture(scope="module")
def saved_network(tmp_path_factory):
    """File and weights of a network with the classes a, b and c."""
    path = tmp_path_factory.mktemp("source") / "model.safetensors"
    network = small_network()
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.normal_()
    save_model(network, path, metadata={"classes": ["a", "b", "c"]})
    return path, network.state_dict()


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset the process-wide singletons in which Accelerate keeps its settings."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
