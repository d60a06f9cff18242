import copy
import json
import re
import shutil

import accelerate
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.layers import ScaledStdConv2d
from timm.models.nfnet import GammaAct, NormFreeBlock
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from difnet import DifNet, SimDeepLab, create_model, init_from, load_model, save_model
from difnet.modeling.heads import Classifier

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


@pytest.mark.parametrize("change", [{"num_classes": 3}, {"walk_sources": [7]}, {"name": "difnet19"}])
def test_weights_that_do_not_fit_their_configuration_are_an_error(model, saved, tmp_path, change):
    path = tmp_path / "odd.safetensors"
    header = {"config": json.dumps(model.config | change), "metadata": "{}"}
    save_file(load_file(saved), path, metadata=header)
    with pytest.raises(ValueError, match=r"odd\.safetensors: its weights do not fit its configuration"):
        load_model(path)


@pytest.mark.parametrize("read", [load_model, lambda path: init_from(small(), path)], ids=["load", "init"])
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
def test_invalid_headers_are_refused_alike(source, tmp_path, read, key, value, words):
    path = tmp_path / "odd.safetensors"
    header = {"config": json.dumps(small().config), "metadata": "{}", key: json.dumps(value)}
    save_file(load_file(source[0]), path, metadata=header)
    with pytest.raises(ValueError, match=rf"odd\.safetensors: its header holds {words}"):
        read(path)


def test_header_with_the_old_key_of_walk_sources_is_read(source, tmp_path):
    """Earlier versions called walk_sources walks."""
    path = tmp_path / "old.safetensors"
    config = {"walks" if key == "walk_sources" else key: value for key, value in small().config.items()}
    save_file(load_file(source[0]), path, metadata={"config": json.dumps(config), "metadata": "{}"})
    network, _ = load_model(path)
    assert network.config == small().config
    assert network.walk_sources == (0, 2)
    assert all(torch.equal(value, source[1][name]) for name, value in network.state_dict().items())
    assert "nothing newly initialised" in init_from(small(), path)


def test_header_may_leave_out_defaults(source, tmp_path):
    path = tmp_path / "short.safetensors"
    network = small(aspp=True, walk_sources=(0, 1, 2, 3, 4))
    header = {"config": json.dumps({"name": "test_resnet", "num_classes": 3}), "metadata": "{}"}
    save_file(network.state_dict(), path, metadata=header)
    assert load_model(path)[0].config == network.config
    assert "nothing newly initialised" in init_from(copy.deepcopy(network), path)


@pytest.mark.parametrize("read", [load_model, lambda path: init_from(small(), path)], ids=["load", "init"])
def test_damage_within_the_file_is_found(source, tmp_path, read):
    path = tmp_path / "copy.safetensors"
    content = source[0].read_bytes()
    for cut in (1, 7, 4000, 100_000):
        path.write_bytes(content[:-cut] + bytes(cut))
        with pytest.raises(ValueError, match=r"copy\.safetensors: its weights are not those that were saved"):
            read(path)


def test_weights_changed_by_another_program_are_refused(source, tmp_path):
    path = tmp_path / "changed.safetensors"
    with safe_open(source[0], framework="pt") as file:
        header = file.metadata()
    half = {name: tensor.half() for name, tensor in load_file(source[0]).items()}
    save_file(half, path, metadata=header)
    with pytest.raises(ValueError, match=r"If another program changed them on purpose, read them with"):
        load_model(path)
    del header["checksum"]  # as in files of earlier versions
    save_file(half, path, metadata=header)
    assert load_model(path)[0].mu_logit.dtype == torch.float16


def test_training_does_not_start_from_infinite_weights(tmp_path):
    network = small()
    with torch.no_grad():
        network.classifier.branches[0].bias[1] = torch.inf
    save_model(network, tmp_path / "inf.safetensors")
    fresh = small()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match=r"inf\.safetensors: classifier\.branches\.0\.bias holds values"):
        init_from(fresh, tmp_path / "inf.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_metadata_is_a_dict(tmp_path):
    for metadata in ([1], "classes", 3, [("classes", 3)]):
        with pytest.raises(TypeError, match="metadata: expected a dict"):
            save_model(small(), tmp_path / "model.safetensors", metadata=metadata)
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


def small(**options):
    torch.manual_seed(0)
    return create_model("test_resnet", 3, **{"aspp": False, "walk_sources": (0, 2), **options})


def assert_read_back(saved, network, folder):
    """Check that saving `saved` and loading it gives `network`, bit by bit."""
    save_model(saved, folder / "model.safetensors")
    twin, _ = load_model(folder / "model.safetensors")
    assert type(twin) is type(network)
    expected, found = network.state_dict(), twin.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def compiled_in_place(network):
    network.compile()
    return network


def unwrapped_by_accelerate(network):
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    return accelerator.unwrap_model(accelerator.prepare(network), keep_fp32_wrapper=False)


def with_frozen_batch_norms(network):
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer
    return network


def with_a_compiled_forward(network):
    network.forward = torch.compile(network.forward, backend="eager")
    return network


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        compiled_in_place,
        nn.DataParallel,
        AveragedModel,
        ModelEmaV3,
        lambda network: AveragedModel(torch.compile(network)),
        lambda network: torch.compile(nn.DataParallel(network)),
        lambda network: accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(network),
        unwrapped_by_accelerate,
        with_frozen_batch_norms,
        with_a_compiled_forward,
        copy.deepcopy,
        nn.SyncBatchNorm.convert_sync_batchnorm,
    ],
    ids=[
        *(
            "compiled",
            "in place",
            "DataParallel",
            "averaged",
            "timm",
            "averaged compiled",
            "compiled parallel",
        ),
        *("accelerate", "unwrapped", "frozen", "compiled forward", "copy", "synchronised"),
    ],
)
def test_wrapped_network_is_saved(wrap, tmp_path):
    network = small()
    assert_read_back(wrap(network), network, tmp_path)


def test_distributed_network_is_saved(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = small()
        parallel = nn.parallel.DistributedDataParallel(network)
        assert_read_back(parallel, network, tmp_path)
        assert_read_back(torch.compile(parallel), network, tmp_path)
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        sharded = torch.distributed.fsdp.fully_shard(small(), mesh=mesh)
        with pytest.raises(TypeError, match=r"got FSDPDifNet.*gather its weights"):
            save_model(sharded, tmp_path / "sharded.safetensors")
    finally:
        torch.distributed.destroy_process_group()
    assert not (tmp_path / "sharded.safetensors").exists()


def test_network_with_compiled_parts_is_saved(tmp_path):
    network = small()
    expected = copy.deepcopy(network)
    network.similarity_branch.network.layer1 = torch.compile(network.similarity_branch.network.layer1)
    network.similarity_branch = torch.compile(network.similarity_branch)
    network.classifier = torch.compile(network.classifier)
    assert_read_back(network, expected, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(dtype, tmp_path):
    network = small().to(dtype)
    assert_read_back(network, network, tmp_path)
    mixed = small()
    mixed.seed_branch.to(dtype)
    assert_read_back(mixed, mixed, tmp_path)


@pytest.mark.parametrize("build", [SimDeepLab, DifNet])
def test_network_built_by_its_class_is_read_back(build, tmp_path):
    network = build("test_resnet", 3)
    assert_read_back(network, network, tmp_path)


def replaced(part, value):
    def change(network):
        parent, _, name = part.rpartition(".")
        setattr(network.get_submodule(parent), name, value)
        return network

    return change


def tied(network):
    network.similarity_branch.network.layer1 = network.seed_branch.network.layer1
    return network


def overlapping(network):
    memory = torch.ones(3)
    network.mu_logit.data, network.beta_logit.data = memory[:2], memory[1:]
    return network


def hooked(register):
    def change(network):
        getattr(network.classifier, register)(lambda *arguments: None)
        return network

    return change


def shuffled(network):
    network.importance._modules["0"] = network.importance._modules.pop("0")
    return network


def own_class(network):
    network.__class__ = type("MyNet", (DifNet,), {})
    return copy.deepcopy(network)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda network: network.state_dict(), "got OrderedDict"),
        (lambda network: nn.Sequential(network), "got Sequential"),
        (lambda network: torch.compile(nn.Linear(2, 2)), "got Linear in OptimizedModule"),
        (own_class, "got MyNet"),
        (
            replaced("classifier", Classifier(96, 7, (1,))),
            "0 is built with out_channels 3 and now has 7",
        ),
        (replaced("seed_branch.network.act1", nn.GELU()), "act1 is of class GELU instead of ReLU"),
        (replaced("seed_branch.network.bn1.eps", 0.1), "bn1 is built with eps 1e-05 and now has 0.1"),
        (replaced("walk_sources", (2, 0)), r"built with walk_sources \(0, 2\) and now has \(2, 0\)"),
        (replaced("config", {"name": "test_resnet"}), "its configuration .* builds no network"),
        (tied, "is the same tensor as seed_branch.network.layer1"),
        (replaced("classifier.branches.0.weight", nn.Parameter(torch.ones(3, 96, 1, 1))), "is of shape"),
        (
            replaced("seed_branch.network.maxpool.ceil_mode", True),
            "built with ceil_mode False and now has True",
        ),
        (replaced("seed_branch.network.maxpool.ceil_mode", torch.ones(2)), "built with ceil_mode False and"),
        (
            lambda network: network.importance.append(nn.Tanh()) and network,
            "10 is a layer that the configuration does not build",
        ),
        (shuffled, "importance is built of 0, 1, 2, .* and now has the order 1, 2, "),
        (
            replaced("classifier.forward", lambda features: features),
            "classifier is given its own forward",
        ),
        (replaced("_score_map", lambda image: image), "the network is given its own _score_map"),
        (hooked("register_forward_hook"), "classifier is built with 0 forward_hooks and now has 1"),
        (hooked("register_forward_pre_hook"), "classifier is built with 0 forward_pre_hooks and now has 1"),
        (overlapping, "beta_logit is partly in the memory of mu_logit"),
        (lambda network: network.to("meta"), "on the meta device and holds no values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_network_that_could_not_be_loaded_is_not_saved(change, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        save_model(change(small()), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: layer.register_parameter("lora", nn.Parameter(torch.ones(2))),
    ],
    ids=["weight norm", "pruning", "lora"],
)
def test_network_with_changed_layers_is_not_saved(change, tmp_path):
    network = small()
    change(network.classifier.branches[0])
    with pytest.raises(TypeError, match=r"could not build it .*: classifier\.branches\.0"):
        save_model(network, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backbone", "kind", "setting", "value"),
    [
        ("darknet53", nn.LeakyReLU, "negative_slope", 0.5),
        ("nf_regnet_b0", ScaledStdConv2d, "scale", 3.0),
        ("nf_regnet_b0", NormFreeBlock, "beta", 0.1),
        ("dm_nfnet_f0", GammaAct, "gamma", 9.0),
        ("dm_nfnet_f0", GammaAct, "act_fn", nn.functional.relu),
    ],
)
def test_changed_setting_of_any_layer_is_refused(backbone, kind, setting, value, tmp_path):
    path = tmp_path / "model.safetensors"
    with torch.device("meta"):
        network = create_model(backbone, 3, walk_sources=None)
    network.to_empty(device="cpu")  # initialisation takes seconds
    save_model(network, path)
    path.unlink()
    layer = next(layer for layer in network.modules() if isinstance(layer, kind))
    setattr(layer, setting, value)
    with pytest.raises(TypeError, match=rf"built with {setting} .* and now has"):
        save_model(network, path)
    assert not path.exists()


def test_training_settings_may_change(tmp_path):
    network = small()
    network.train()(torch.rand(2, 3, 32, 48)).sum().backward()
    network.eval()(torch.rand(1, 3, 57, 40))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.01
        if isinstance(layer, nn.ReLU):
            layer.inplace = not layer.inplace
    network.note = "mine"
    pruned = network.classifier.branches[0]
    prune.remove(prune.l1_unstructured(pruned, "weight", 0.5), "weight")
    assert_read_back(network, network, tmp_path)


def test_weights_in_one_vector_are_saved(tmp_path):
    network = small()
    vector = torch.cat([torch.zeros(1), nn.utils.parameters_to_vector(network.parameters())])
    nn.utils.vector_to_parameters(vector[1:], network.parameters())
    assert_read_back(network, network, tmp_path)


def test_saving_keeps_the_random_state(tmp_path):
    network, state = small(), torch.get_rng_state()
    save_model(network, tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """File and weights of a network with the classes a, b and c."""
    path = tmp_path_factory.mktemp("source") / "model.safetensors"
    network = small()
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.normal_()
    save_model(network, path, metadata={"classes": ["a", "b", "c"]})
    return path, network.state_dict()


HEADS = {"classifier", "importance"}
WALKS = {"embeddings", "mu_logit", "beta_logit"}


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
def test_fitting_weights_are_loaded(source, options, classes, fresh, words):
    path, weights = source
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


def test_deeper_similarity_branch_is_loaded_in_part(source):
    network = small(walk_sources=(0, 2, 3))
    before = network.similarity_branch.network.layer3[0].conv1.weight.clone()
    assert "similarity_branch in part" in init_from(network, source[0])
    for layer, expected in (
        ("layer2", source[1]["similarity_branch.network.layer2.0.conv1.weight"]),
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
def test_weights_of_another_backbone_are_refused(source, name, options, words):
    network = create_model(name, 3, **options)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=words):
        init_from(network, source[0])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_compiled_network_loads_fitting_weights(source):
    network = small()
    init_from(torch.compile(network), source[0])
    assert all(torch.equal(value, source[1][name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("classes", [["a", "b"], 7, None])
def test_invalid_class_names_in_metadata(source, tmp_path, classes):
    save_model(small(), tmp_path / "odd.safetensors", metadata={"classes": classes})
    line = init_from(small(), tmp_path / "odd.safetensors", classes=["a", "b", "c"])
    assert ("class 2 is None there and c here" in line) == (classes == ["a", "b"])
