"""Trained networks: files, model cards, and loading by name."""

import json
import shutil

import pytest
import torch

import difnet
from difnet import train
from difnet.experiments import publish
from difnet.utils import weights_file
from difnet.utils.weights_file import TRAINED


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run on drawn scenes, with a record."""
    folder = tmp_path_factory.mktemp("publish") / "run"
    options = ("--max-steps", "1", "--model", "test_resnet", "--overlays", "0", "--workers", "0")
    assert train.main(["--out", str(folder), *options]) == 0
    record = {
        **{"experiment": "scenes-ablation", "variant": "tuned walks", "seed": 0, "run": "tuned-walks/seed-0"},
        **{"command": ["python", "-m", "difnet.train", "--seed", "0"], "steps": 1, "seconds": 1.0},
        "config": json.loads((folder / "config.json").read_text()),
        "environment": json.loads((folder / "environment.json").read_text()),
        **{"parameters": 1_234_567, "evaluation": {}, "curve": {}},
    }
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_published_weights_are_those_of_the_run_in_float16(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TRAINED, "difnet-scenes", tmp_path / "weights")
    assert publish.main([str(recorded), "difnet-scenes"]) == 0
    model, metadata = difnet.load_model("difnet-scenes")
    original, _ = difnet.load_model(recorded / "last.safetensors")
    assert metadata["classes"][0] == "sky"
    for name, tensor in model.state_dict().items():
        expected = original.state_dict()[name]
        assert tensor.dtype == expected.dtype
        torch.testing.assert_close(tensor, expected.half().to(expected.dtype), rtol=0, atol=0)
    card = (tmp_path / "weights/difnet-scenes.md").read_text()
    assert "Code and weights: BSD-3-Clause" in card
    assert "1.23 million parameters" in card
    assert "python -m difnet.train --seed 0" in card
    printed = capsys.readouterr().out
    assert "difnet-scenes.safetensors and its model card" in printed
    final = next(
        line for line in card.splitlines() if "mean IoU of the seed" not in line and "  mean IoU  " in line
    )
    assert final.strip().endswith("over 6 of 6 classes")


def test_a_file_or_folder_of_that_name_comes_first(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(recorded, tmp_path / "difnet-scenes")
    loaded, _ = difnet.load_model("difnet-scenes")
    best, _ = difnet.load_model(recorded)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in best.state_dict().items())


def test_weights_that_are_not_in_the_package_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TRAINED, "difnet-resnet10t-camvid", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="so this installation does not have these weights"):
        difnet.load_model("difnet-resnet10t-camvid")
    with pytest.raises(
        FileNotFoundError, match=r"nor the name of trained weights \(difnet-scenes, difnet-res"
    ):
        difnet.load_model("difnet-secnes")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("difnet-voc", "is not the name of a trained network; known are difnet-scenes"),
        (None, "whose terms its model card gives"),
    ],
)
def test_what_cannot_be_published_is_refused(recorded, tmp_path, capsys, change, words):
    shutil.copytree(recorded, tmp_path / "run")
    record = json.loads((recorded / "record.json").read_text())
    record["config"]["dataset"] = "folder"
    (tmp_path / "run/record.json").write_text(json.dumps(record))
    assert publish.main([str(tmp_path / "run"), change or "difnet-scenes"]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", TRAINED)
def test_shipped_weights_load_and_are_small(name):
    file = TRAINED[name] / f"{name}.safetensors"
    if name != "difnet-scenes" and not (TRAINED[name].parent / ".git").exists():
        pytest.skip(f"{name} is part of a clone, and this is none")
    assert file.stat().st_size < 25e6
    model, metadata = difnet.load_model(name)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert metadata["trained_network"] == name
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 64, 80)).shape == (1, len(metadata["classes"]), 64, 80)
    card = file.with_suffix(".md").read_text()
    assert ("not for commercial use" in card) == (metadata["dataset"] == "camvid")
    assert (
        weights_file.read_weights(file).tensors["mu_logit"].dtype == torch.float16
    )  # by its path: as stored
