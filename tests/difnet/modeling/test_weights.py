"""Saving and loading a network: round trips, headers, damaged files."""

import copy
import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import small_network

from difnet import create_model, init_from, load_model, save_model

METADATA = {"classes": ["Himmel", "road"], "palette": [[1, 2, 3], [4, 5, 6]], "resolution": None}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model("difnet18", 2, aspp=False, walk_sources=(4, 1))
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
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a complete safetensors file"):
        load_model(path)


def test_pickle_is_not_read(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"model\.pth: not a complete safetensors file"):
        load_model(path)


def test_foreign_file_is_an_error(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"foreign\.safetensors: no configuration in its header"):
        load_model(path)


@pytest.mark.parametrize("change", [{"num_classes": 3}, {"walk_sources": [7]}, {"name": "difnet19"}])
def test_weights_that_do_not_fit_their_configuration_are_an_error(model, saved, tmp_path, change):
    path = tmp_path / "odd.safetensors"
    header = {"config": json.dumps(model.config | change), "metadata": "{}"}
    save_file(load_file(saved), path, metadata=header)
    with pytest.raises(ValueError, match=r"odd\.safetensors: its weights do not fit its configuration"):
        load_model(path)


@pytest.mark.parametrize(
    "read", [load_model, lambda path: init_from(small_network(), path)], ids=["load", "init"]
)
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *(("config", value, "config = .*expected a JSON object") for value in ([1], None, "difnet18", 3)),
        *(("metadata", value, "metadata = .*expected a JSON object") for value in ([1], None, "x")),
        ("config", {}, r"config\.name = None, expected the name of a network"),
        ("config", {"name": 3, "num_classes": 3}, r"config\.name = 3, expected the name of a network"),
        ("config", {"name": "test_resnet"}, r"config\.num_classes = None, expected a whole number"),
        (
            "config",
            {"name": "test_resnet", "num_classes": "3"},
            r"config\.num_classes = '3', expected a whole",
        ),
        (
            "config",
            {"name": "x", "num_classes": 3, "walk_sources": 2},
            r"config\.walk_sources = 2, expected a list",
        ),
        ("config", {"name": "x", "num_classes": 3, "aspp": None}, r"config\.aspp = None, expected true or"),
        ("config", {"name": "x", "num_classes": 3, "colour": 1}, r"config\.colour = 1, expected no such key"),
        ("config", {"name": "x", "num_classes": 3, "pretrained": True}, r"config\.pretrained = True"),
    ],
)
def test_invalid_headers_are_refused_alike(saved_network, tmp_path, read, key, value, words):
    path = tmp_path / "odd.safetensors"
    header = {"config": json.dumps(small_network().config), "metadata": "{}", key: json.dumps(value)}
    save_file(load_file(saved_network[0]), path, metadata=header)
    with pytest.raises(ValueError, match=rf"odd\.safetensors: its header holds {words}"):
        read(path)


def test_header_with_the_old_key_of_walk_sources_is_read(saved_network, tmp_path):
    """Earlier versions called walk_sources walks."""
    path = tmp_path / "old.safetensors"
    config = {
        "walks" if key == "walk_sources" else key: value for key, value in small_network().config.items()
    }
    save_file(load_file(saved_network[0]), path, metadata={"config": json.dumps(config), "metadata": "{}"})
    network, _ = load_model(path)
    assert network.config == small_network().config
    assert network.walk_sources == (0, 2)
    assert all(torch.equal(value, saved_network[1][name]) for name, value in network.state_dict().items())
    assert "nothing newly initialised" in init_from(small_network(), path)


def test_header_may_leave_out_defaults(saved_network, tmp_path):
    path = tmp_path / "short.safetensors"
    network = small_network(aspp=True, walk_sources=(0, 1, 2, 3, 4))
    header = {"config": json.dumps({"name": "test_resnet", "num_classes": 3}), "metadata": "{}"}
    save_file(network.state_dict(), path, metadata=header)
    assert load_model(path)[0].config == network.config
    assert "nothing newly initialised" in init_from(copy.deepcopy(network), path)


@pytest.mark.parametrize(
    "read", [load_model, lambda path: init_from(small_network(), path)], ids=["load", "init"]
)
def test_damage_within_the_file_is_found(saved_network, tmp_path, read):
    path = tmp_path / "copy.safetensors"
    content = saved_network[0].read_bytes()
    for cut in (1, 7, 4000, 100_000):
        path.write_bytes(content[:-cut] + bytes(cut))
        with pytest.raises(ValueError, match=r"copy\.safetensors: its weights are not those that were saved"):
            read(path)


def test_weights_changed_by_another_program_are_refused(saved_network, tmp_path):
    path = tmp_path / "changed.safetensors"
    with safe_open(saved_network[0], framework="pt") as file:
        header = file.metadata()
    half = {name: tensor.half() for name, tensor in load_file(saved_network[0]).items()}
    save_file(half, path, metadata=header)
    with pytest.raises(ValueError, match=r"If another program changed them on purpose, read them with"):
        load_model(path)
    del header["checksum"]  # as in files of earlier versions
    save_file(half, path, metadata=header)
    assert load_model(path)[0].mu_logit.dtype == torch.float16


def test_metadata_is_a_dict(tmp_path):
    for metadata in ([1], "classes", 3, [("classes", 3)]):
        with pytest.raises(TypeError, match="metadata: expected a dict"):
            save_model(small_network(), tmp_path / "model.safetensors", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_json_cannot_hold_is_an_error(model, tmp_path):
    with pytest.raises(TypeError, match="metadata: expected values that JSON can hold"):
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
