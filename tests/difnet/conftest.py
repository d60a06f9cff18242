"""A small folder data set made on the fly, and a network small enough to train in seconds."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from small_runs import make_folder, tiny

from difnet import train

torch.set_num_threads(1)  # for networks so small, a second thread costs more time than it saves


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
def stopped(tmp_path_factory):
    """Two finished runs of two steps, one with each optimizer."""
    folder = tmp_path_factory.mktemp("stopped")
    root = make_folder(folder / "data")
    for name, rate in (("sgd", "0.05"), ("adamw", "0.001")):
        AcceleratorState._reset_state(reset_partial_state=True)
        options = ("--max-steps", "2", "--overlays", "0", "--optimizer", name, "--lr", rate)
        assert train.main(tiny(root, folder / name, *options)) == 0
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset the process-wide singletons in which Accelerate keeps its settings."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
