import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from difnet import create_model, load_model, save_model

METADATA = {"classes": ["Himmel", "road"], "palette": [[1, 2, 3], [4, 5, 6]], "resolution": None}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model("difnet18", 2, aspp=False, walks=(4, 1))
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.normal_()
    return model.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_model(model, path, metadata=METADATA)
    return path


def test_round_trip_is_bitwise(model, saved):
    twin, metadata = load_model(saved)
    assert metadata == METADATA
    assert type(twin) is type(model)
    assert twin.config == model.config
    assert not twin.training
    matrices = [p for p in twin.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in matrices)
    expected, found = model.state_dict(), twin.state_dict()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_run_folder_prefers_best_to_last(model, saved, tmp_path):
    save_model(model, tmp_path / "last.safetensors", metadata={"which": "last"})
    assert load_model(tmp_path)[1] == {"which": "last"}
    save_model(model, tmp_path / "best.safetensors", metadata={"which": "best"})
    assert load_model(str(tmp_path))[1] == {"which": "best"}


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*no such file or run folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds neither best\.safetensors nor last\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 1000, -1])
def test_cut_file_is_an_error(saved, tmp_path, length):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a whole safetensors file"):
        load_model(path)


def test_pickle_is_not_read(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"model\.pth: not a whole safetensors file"):
        load_model(path)


def test_foreign_file_is_an_error(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"foreign\.safetensors: no configuration in its header"):
        load_model(path)


@pytest.mark.parametrize("change", [{"num_classes": 3}, {"colour": "red"}, {"name": "difnet19"}])
def test_weights_that_do_not_fit_their_configuration_are_an_error(model, saved, tmp_path, change):
    path = tmp_path / "odd.safetensors"
    header = {"config": json.dumps(model.config | change), "metadata": "{}"}
    save_file(load_file(saved), path, metadata=header)
    with pytest.raises(ValueError, match=r"odd\.safetensors: its weights do not fit its configuration"):
        load_model(path)


def test_metadata_that_json_cannot_hold_is_an_error(model, tmp_path):
    with pytest.raises(TypeError, match="metadata: expected what JSON can hold"):
        save_model(model, tmp_path / "model.safetensors", metadata={"palette": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_failed_save_keeps_the_old_file_and_leaves_nothing_behind(model, saved, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    shutil.copy(saved, path)
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        save_model(model, path, metadata={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        save_model(model, tmp_path / "no" / "model.safetensors", metadata={})
