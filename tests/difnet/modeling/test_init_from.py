"""A network that starts from the weights of another one."""

import copy
import re

import pytest
import torch
from small_runs import small_network

from difnet import create_model, init_from, save_model

HEADS = {"classifier", "importance"}


def test_training_does_not_start_from_infinite_weights(tmp_path):
    network = small_network()
    with torch.no_grad():
        network.classifier.branches[0].bias[1] = torch.inf
    save_model(network, tmp_path / "inf.safetensors")
    fresh = small_network()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match=r"inf\.safetensors: classifier\.branches\.0\.bias holds values"):
        init_from(fresh, tmp_path / "inf.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("options", "classes", "fresh", "words"),
    [
        ({}, ["a", "b", "c"], set(), "nothing newly initialised"),
        ({}, None, set(), "nothing newly initialised"),
        ({}, ["a", "c", "b"], HEADS, "class 1 is b there and c here"),
        ({"num_classes": 5}, None, HEADS, "3 classes there, 5 here"),
        ({"aspp": True}, None, {"classifier"}, "aspp False there, True here"),
        (
            {"walk_sources": (2, 0)},
            None,
            {"embeddings", "mu_logit", "beta_logit"},
            r"walk_sources \[0, 2\] there, \[2, 0\] here",
        ),
        ({"walk_sources": None}, None, set(), "nothing newly initialised"),
    ],
)
def test_fitting_weights_are_loaded(saved_network, options, classes, fresh, words):
    path, weights = saved_network
    settings = {"num_classes": 3, "aspp": False, "walk_sources": (0, 2), **options}
    torch.manual_seed(1)
    network = create_model("test_resnet", **settings)
    before = copy.deepcopy(network.state_dict())
    line = init_from(network, path, classes=classes)
    assert line.startswith(f"weights from {path}: loaded ")
    assert re.search(words, line)
    for name, value in network.state_dict().items():
        part = name.partition(".")[0]
        assert torch.equal(value, (before if part in fresh else weights)[name]), name
        assert (part in line.partition("newly initialised: ")[2]) == (part in fresh)


def test_deeper_similarity_branch_is_loaded_in_part(saved_network):
    network = small_network(walk_sources=(0, 2, 3))
    before = network.similarity_branch.network.layer3[0].conv1.weight.clone()
    assert "similarity_branch in part" in init_from(network, saved_network[0])
    for layer, expected in (
        ("layer2", saved_network[1]["similarity_branch.network.layer2.0.conv1.weight"]),
        ("layer3", before),
    ):
        assert torch.equal(
            network.similarity_branch.network.get_submodule(f"{layer}.0.conv1").weight, expected
        )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("difnet18", {}, "its backbone is test_resnet, that of the network to be trained is resnet18"),
        ("test_resnet", {"in_chans": 4}, "its in_chans is 3, that of the network to be trained is 4"),
    ],
)
def test_weights_of_another_backbone_are_refused(saved_network, name, options, words):
    network = create_model(name, 3, **options)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=words):
        init_from(network, saved_network[0])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_compiled_network_loads_fitting_weights(saved_network):
    network = small_network()
    init_from(torch.compile(network), saved_network[0])
    assert all(torch.equal(value, saved_network[1][name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("classes", [["a", "b"], 7, None])
def test_invalid_class_names_in_metadata(saved_network, tmp_path, classes):
    save_model(small_network(), tmp_path / "odd.safetensors", metadata={"classes": classes})
    line = init_from(small_network(), tmp_path / "odd.safetensors", classes=["a", "b", "c"])
    assert ("class 2 is None there and c here" in line) == (classes == ["a", "b"])
