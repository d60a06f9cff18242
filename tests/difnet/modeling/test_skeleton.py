"""Which networks are saved, and which are refused because they could not be loaded."""

import copy

import accelerate
import pytest
import torch
from small_runs import small_network
from timm.layers import ScaledStdConv2d
from timm.models.nfnet import GammaAct, NormFreeBlock
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from difnet import DifNet, SimDeepLab, create_model, load_model, save_model
from difnet.modeling.heads import Classifier


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
    network = small_network()
    assert_read_back(wrap(network), network, tmp_path)


def test_distributed_network_is_saved(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = small_network()
        parallel = nn.parallel.DistributedDataParallel(network)
        assert_read_back(parallel, network, tmp_path)
        assert_read_back(torch.compile(parallel), network, tmp_path)
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        sharded = torch.distributed.fsdp.fully_shard(small_network(), mesh=mesh)
        with pytest.raises(TypeError, match=r"got FSDPDifNet.*gather its weights"):
            save_model(sharded, tmp_path / "sharded.safetensors")
    finally:
        torch.distributed.destroy_process_group()
    assert not (tmp_path / "sharded.safetensors").exists()


def test_network_with_compiled_parts_is_saved(tmp_path):
    network = small_network()
    expected = copy.deepcopy(network)
    network.similarity_branch.network.layer1 = torch.compile(network.similarity_branch.network.layer1)
    network.similarity_branch = torch.compile(network.similarity_branch)
    network.classifier = torch.compile(network.classifier)
    assert_read_back(network, expected, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(dtype, tmp_path):
    network = small_network().to(dtype)
    assert_read_back(network, network, tmp_path)
    mixed = small_network()
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
        (shuffled, "importance is built with the layers 0, 1, 2, .* and now has the order 1, 2, "),
        (
            replaced("classifier.forward", lambda features: features),
            "classifier is a Classifier whose method forward was replaced",
        ),
        (replaced("_score_map", lambda image: image), "the network is a DifNet whose method _score_map"),
        (hooked("register_forward_hook"), "classifier is built with 0 forward_hooks and now has 1"),
        (hooked("register_forward_pre_hook"), "classifier is built with 0 forward_pre_hooks and now has 1"),
        (overlapping, "beta_logit is partly in the memory of mu_logit"),
        (lambda network: network.to("meta"), "on the meta device and holds no values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_network_that_could_not_be_loaded_is_not_saved(change, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        save_model(change(small_network()), tmp_path / "model.safetensors")
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
    network = small_network()
    change(network.classifier.branches[0])
    with pytest.raises(TypeError, match=r"does not build the same network: classifier\.branches\.0"):
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
    network = small_network()
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
    network = small_network()
    vector = torch.cat([torch.zeros(1), nn.utils.parameters_to_vector(network.parameters())])
    nn.utils.vector_to_parameters(vector[1:], network.parameters())
    assert_read_back(network, network, tmp_path)


def test_saving_keeps_the_random_state(tmp_path):
    network, state = small_network(), torch.get_rng_state()
    save_model(network, tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
