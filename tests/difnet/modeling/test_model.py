import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

import difnet
from difnet import Details, DifNet, SimDeepLab, create_model
from difnet.modeling.heads import Classifier, ImportanceHead
from difnet_kernels import backends

K = 5


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 65, 97, generator=torch.Generator().manual_seed(0))


def build(name="difnet18", **options):
    torch.manual_seed(0)
    return create_model(name, K, **options)


def softened(model):
    """Shrink the embeddings: at the start of training P is nearly the identity, which would hide errors."""
    with torch.no_grad():
        for psi in model.embeddings:
            psi.norm.weight.fill_(0.3)
        model.mu_logit.copy_(torch.linspace(-1, 1, len(model.walk_sources)))
        model.beta_logit.copy_(torch.linspace(1, -0.5, len(model.walk_sources)))
    return model


@pytest.mark.parametrize("name", ["difnet18", "simdeeplab18"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 9), (65, 97), (64, 96)])
def test_logits_have_the_size_of_the_image(name, size):
    model = build(name).eval()
    with torch.no_grad():
        out = model(torch.rand(2, 3, *size), details=True)
    h, w = (-(-n // 8) for n in size)
    num_walks = 5 if name == "difnet18" else 0
    assert isinstance(out, Details)
    assert out.logits.shape == (2, K, *size)
    assert out.score_map.shape == out.seed.shape == (2, K, h, w)
    assert out.importance.shape == (2, 1, h, w)
    assert out.states.shape == (num_walks, 2, K, h, w)
    assert out.mu.shape == out.beta.shape == (num_walks,)
    assert all(value.isfinite().all() for value in out[:-1])
    assert all(features.isfinite().all() for features, _ in out.transitions)


def test_details_follow_the_equations(image):
    model = softened(
        build(walk_sources=(0, 1, 2, 3, 4))
    ).double()  # in training, so that batch norm spreads the embeddings
    with torch.no_grad():
        image = image.double()
        out = model(image, details=True)
        embeddings = [features for features, _ in out.transitions]
        state = seed = (out.importance * out.score_map).flatten(2).transpose(1, 2)
        for t, psi in enumerate(embeddings):
            assert psi.shape == (2, 9 * 13, 64)
            transition = (psi @ psi.transpose(1, 2)).softmax(-1)
            assert transition.diagonal(dim1=1, dim2=2).mean() < 0.98
            assert (transition - 1 / psi.shape[1]).abs().sum(-1).mean() > 0.1  # nor uniform
            diffused = out.mu[t] * transition @ state + (1 - out.mu[t]) * seed
            state = out.beta[t] * diffused + (1 - out.beta[t]) * state
            torch.testing.assert_close(out.states[t].flatten(2).transpose(1, 2), state)
        assert not torch.allclose(out.states[-1], out.seed, rtol=0.01)
        torch.testing.assert_close(out.seed, out.importance * out.score_map)
        last = F.interpolate(out.states[-1], image.shape[-2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(out.logits, last)
        torch.testing.assert_close(model(image), out.logits)


def test_walk_sources_are_used_in_order(image):
    model = build(walk_sources=(3, 0, 0)).eval()
    seen = []
    for psi in model.embeddings:
        psi.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    blocks = []
    model.similarity_branch.register_forward_hook(lambda module, args, output: blocks.extend(output))
    with torch.no_grad():
        model(image)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert seen[0] is blocks[2]
    for source in seen[1:]:
        torch.testing.assert_close(source, (image - mean) / std)
    assert len(blocks) == 3  # the fourth is not computed
    assert not any(
        name.startswith("similarity_branch.network.layer4") for name, _ in model.named_parameters()
    )


def test_without_walk_sources_the_seed_is_upsampled(image):
    model = build(walk_sources=()).eval()
    with torch.no_grad():
        out = model(image, details=True)
        assert torch.equal(out.logits, model.upsample(out.seed, (65, 97)))
    assert out.states.shape[0] == 0
    assert model.similarity_branch is None


def test_mu_and_beta_are_one_half_at_the_start(image):
    with torch.no_grad():
        out = build().eval()(image, details=True)
    assert out.mu.tolist() == out.beta.tolist() == [0.5] * 5


@pytest.mark.parametrize("name", ["difnet18", "simdeeplab18"])
@pytest.mark.parametrize("aspp", [True, False])
def test_gradient_reaches_every_parameter(name, aspp, image):
    model = build(name, aspp=aspp)
    if isinstance(model, DifNet):
        softened(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(
                module.weight
            )  # timm starts each residual branch at zero, which stops the gradient
    labels = torch.randint(K, (2, 65, 97), generator=torch.Generator().manual_seed(1))
    F.cross_entropy(model(image), labels).backward()
    untouched = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Batch norm removes the bias before it, whose gradient is rounding noise or exactly zero.
    assert [key for key in untouched if not key.endswith("project.bias")] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_gradients_are_bitwise_reproducible(image):
    def gradients():
        model = build("test_resnet")
        F.cross_entropy(model(image), torch.zeros(2, 65, 97, dtype=torch.long)).backward()
        return [p.grad for p in model.parameters()]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def contiguous_copies():
    """Hooks that copy saved tensors to another layout, as offloading or compression may do."""
    return torch.autograd.graph.saved_tensors_hooks(
        lambda x: x.clone(memory_format=torch.contiguous_format), lambda x: x
    )


@pytest.mark.parametrize("backend", ["native", "blockwise", "reference"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("hooks", [contextlib.nullcontext, contiguous_copies])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_one_image_equal_those_of_two_copies(
    training, hooks, channels_last, backend, image, monkeypatch
):
    """The memory layout of a single image is ambiguous, and batch norm may mistake it."""
    if not {status.name: status.available for status in backends()}[backend]:
        pytest.skip(f"{backend} cannot run here")
    monkeypatch.setenv("DIFNET_BACKEND", backend)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    gradients = []
    for count in (1, 2):
        model = softened(build("test_resnet")).double().to(memory_format=layout).train(training)
        images = image[:1].double().repeat(count, 1, 1, 1).to(memory_format=layout)
        with hooks() if count == 1 else contextlib.nullcontext():
            loss = model(images).square().mean()
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert (one - two).norm() <= 1e-8 * two.norm() + 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_network_in_16_bits(image, dtype):
    model = create_model("test_resnet", 3, walk_sources=(0, 2)).eval()
    with torch.no_grad():
        expected = model(image).softmax(1)
        logits = model.to(dtype)(image.to(dtype))
    assert logits.dtype == torch.float32
    assert (logits.softmax(1) - expected).abs().max() < 0.02


def test_autocast_keeps_seed_and_logits_in_float32(image):
    model = softened(build("test_resnet"))
    embedding_types = []
    for psi in model.embeddings:
        psi.register_forward_hook(lambda module, args, output: embedding_types.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(image, details=True)
    assert embedding_types == [torch.bfloat16] * 5
    assert {value.dtype for value in out[:-1]} == {torch.float32}
    assert [features.dtype for features, _ in out.transitions] == [torch.bfloat16] * 5
    F.cross_entropy(out.logits, torch.zeros(2, 65, 97, dtype=torch.long)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_training_uses_batch_statistics_and_evaluation_does_not(image):
    model = build()
    before = model.embeddings[0].norm.running_mean.clone()
    model.eval()
    with torch.no_grad():
        alone, together = model(image[:1]), model(image)
    torch.testing.assert_close(alone, together[:1], rtol=1e-3, atol=1e-4)
    assert torch.equal(model.embeddings[0].norm.running_mean, before)
    model.train()(image)
    assert not torch.equal(model.embeddings[0].norm.running_mean, before)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_resnet"])
def test_any_timm_backbone_by_name(name, image):
    model = build(name).eval()
    assert isinstance(model, DifNet)
    with torch.no_grad():
        out = model(image, details=True)
    assert out.logits.shape == (2, K, 65, 97)
    assert out.states.shape == (5, 2, K, 9, 13)


def test_normalisation_belongs_to_the_weights_of_the_backbone():
    model = build("test_resnet", walk_sources=())
    expected = timm.get_pretrained_cfg("test_resnet")
    assert model.normalize.mean.flatten().tolist() == pytest.approx(expected.mean)
    assert model.normalize.std.flatten().tolist() == pytest.approx(expected.std)
    assert {"normalize.mean", "normalize.std"} <= model.state_dict().keys()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vgg11", "densenet121", "hrnet_w18_small"])
def test_backbone_that_cannot_be_dilated_is_named(name):
    with pytest.raises(ValueError, match=f"'{name}'.*stride 8.*ResNet"):
        build(name)


@pytest.mark.parametrize(("name", "near"), [("difnet55", "difnet50"), ("resnet5o", "resnet50")])
def test_unknown_name_suggests_near_ones(name, near):
    with pytest.raises(ValueError, match=f"'{name}'; did you mean .*{near}"):
        build(name)


def test_name_without_pretrained_weights_is_an_error():
    with pytest.raises(ValueError, match="no pretrained weights for 'resnetblur18'"):
        build("resnetblur18", pretrained=True)


@pytest.mark.parametrize("sources", [(5,), (-1,), (0, 1.5), (True,), "01"])
def test_walk_sources_out_of_range_are_an_error(sources):
    with pytest.raises(ValueError, match="walk_sources: expected numbers from 0"):
        build(walk_sources=sources)


@pytest.mark.parametrize("sources", [3, None])
def test_walk_sources_that_are_not_a_sequence_are_an_error(sources):
    with pytest.raises(TypeError, match=f"walk_sources: expected a sequence of numbers .*, got {sources}"):
        DifNet("test_resnet", 2, walk_sources=sources)


@pytest.mark.parametrize(
    "sources",
    [(source for source in (2, 0)), map(int, "20"), np.array([2, 0]), torch.tensor([2, 0]), range(2, -1, -2)],
)
def test_walk_sources_come_from_any_sequence(sources):
    model = build("test_resnet", walk_sources=sources)
    assert model.walk_sources == (2, 0)
    assert len(model.embeddings) == 2
    assert json.loads(json.dumps(model.config))["walk_sources"] == [2, 0]


@pytest.mark.parametrize("integer", [np.int64, torch.tensor])
def test_counts_are_integers_of_any_library(integer):
    model = create_model(
        "test_resnet", integer(3), walk_sources=(0,), aspp=np.bool_(True), in_chans=integer(2)
    )
    assert json.loads(json.dumps(model.config)) == model.config
    assert (model.config["num_classes"], model.config["in_chans"]) == (3, 2)
    for count in (2.5, "21", True, None, 3.0):
        with pytest.raises(TypeError, match=f"num_classes: expected an integer, got {count!r}"):
            create_model("test_resnet", count)
        with pytest.raises(TypeError, match=f"in_chans: expected an integer, got {count!r}"):
            create_model("test_resnet", 2, in_chans=count)


def test_name_that_is_not_a_string_is_an_error():
    with pytest.raises(TypeError, match="name: expected the name of a network, got None"):
        create_model(None, 2)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError])
def test_errors_with_other_reasons_than_the_size_stay_unchanged(kind):
    model = build("test_resnet").eval()

    def fail(*_):
        raise kind("a hook failed")

    model.seed_branch.network.register_forward_hook(fail)
    with pytest.raises(kind, match="a hook failed") as caught:
        model(torch.rand(1, 3, 40, 41))
    assert "does not take images" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"fails for images of 40 x 41 pixels as for other sizes: .*a hook failed"
    ):
        model.check_size((40, 41))


def test_bad_images_are_errors():
    model = build("simdeeplab18").eval()
    with pytest.raises(TypeError, match=r"image: expected floating point.*uint8"):
        model(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"image: expected a tensor .*, got ndarray"):
        model(np.zeros((1, 3, 8, 8)))
    for shape in [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8)]:
        with pytest.raises(ValueError, match="image: expected shape"):
            model(torch.zeros(shape))


def test_num_classes_below_one_is_an_error():
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        create_model("difnet18", 0)


@pytest.mark.parametrize("name", ["difnet18", "simdeeplab18", "test_resnet"])
def test_config_builds_the_same_network(name):
    model = build(name, aspp=False, walk_sources=(2, 1))
    twin = create_model(**model.config)
    assert type(twin) is type(model)
    assert twin.config == model.config
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in twin.state_dict().items()} == shapes


def test_simdeeplab_is_backbone_and_classifier(image):
    model = build("simdeeplab18").eval()
    assert isinstance(model, SimDeepLab)
    with torch.no_grad():
        out = model(image, details=True)
        score_map = model.classifier(model.seed_branch(model.normalize(image))[-1])
    torch.testing.assert_close(out.score_map, score_map)
    assert torch.equal(out.seed, out.score_map)
    assert (out.importance == 1).all()
    assert torch.equal(out.logits, model.upsample(out.seed, (65, 97)))


def test_classifier_is_the_sum_of_its_dilated_convolutions():
    classifier = Classifier(4, K).double()
    features = torch.randn(1, 4, 30, 31, dtype=torch.float64)
    expected = 0
    for branch, dilation in zip(classifier.branches, (6, 12, 18, 24), strict=True):
        torch.nn.init.normal_(branch.bias)
        expected += F.conv2d(features, branch.weight, branch.bias, padding=dilation, dilation=dilation)
    torch.testing.assert_close(classifier(features), expected)


def test_importance_head_has_the_layers_of_the_paper():
    head = ImportanceHead(K)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["BatchNorm2d", "ReLU", "Conv2d"] * 3 + ["Sigmoid"]
    assert [tuple(p.shape) for key, p in head.named_parameters() if p.ndim == 4] == [
        (8, K, 5, 5),
        (4, 8, 5, 5),
        (1, 4, 5, 5),
    ]
    assert all(layer.bias is None for layer in head if isinstance(layer, torch.nn.Conv2d))


def test_parameter_groups_hold_every_parameter_once():
    model = build()
    backbone, gates, head = model.parameter_groups(0.1, head_lr_multiplier=10, gate_lr_multiplier=30)
    assert (backbone["lr"], gates["lr"], head["lr"]) == (0.1, 0.1 * 30, 1.0)
    grouped = [id(p) for group in (backbone, gates, head) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert [id(p) for p in gates["params"]] == [id(model.mu_logit), id(model.beta_logit)]
    branches = [*model.seed_branch.parameters(), *model.similarity_branch.parameters()]
    assert {id(p) for p in backbone["params"]} == {id(p) for p in branches}


def test_decay_pulls_the_gates_alike_at_any_rate():
    """The step of decay is rate times decay, which for the gates is that of the network's rate."""
    for multiplier in (1.0, 30.0):
        groups = build().parameter_groups(0.1, weight_decay=0.02, gate_lr_multiplier=multiplier)
        assert [group["lr"] * group["weight_decay"] for group in groups] == pytest.approx([0.002] * 3)


def test_model_names_are_the_documented_ones():
    expected = tuple(f"{kind}{n}" for kind in ("difnet", "simdeeplab") for n in (18, 34, 50, 101))
    assert expected == difnet.MODEL_NAMES


@pytest.mark.parametrize("package", ["timm", "safetensors"])
def test_missing_extra_is_named(package):
    code = f"import sys; sys.modules[{package!r}] = None; import difnet"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"difnet needs the package '{package}'" in last
    assert "pip install 'difnet-kernels[train]'" in last


def test_no_graph_break():
    image, labels = torch.rand(2, 3, 33, 49), torch.zeros(2, 33, 49, dtype=torch.long)
    model = softened(build("test_resnet"))
    twin = create_model(**model.config)
    twin.load_state_dict(model.state_dict())
    F.cross_entropy(model(image), labels).backward()
    # "eager" runs the captured graph unchanged: the capture is tested, not the code generation.
    F.cross_entropy(torch.compile(twin, fullgraph=True, backend="eager")(image), labels).backward()
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    ("name", "grid"), [("test_resnet", (21, 13)), ("convnext_atto", (20, 12)), ("mobilevitv2_050", (22, 14))]
)
def test_size_of_the_score_map_is_that_of_the_backbone(name, grid):
    model = build(name, aspp=False, walk_sources=(1, 4)).eval()
    assert model.check_size((161, 97)) == grid
    with torch.no_grad():
        out = model(torch.rand(1, 3, 161, 97), details=True)
    assert tuple(out.seed.shape[-2:]) == grid
    assert out.states.shape[-2:] == out.seed.shape[-2:]
    assert out.logits.shape[-2:] == (161, 97)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("halonet26t", (65, 130), r"65 x 130 pixels \(height x width\); it takes 64 x 128 and 128 x 192"),
        ("halonet26t", (64, 70), r"64 x 70 pixels .*; it takes 64 x 64 and 64 x 128"),
        ("resnetaa34d", (100, 61), r"100 x 61 pixels .*; it takes 96 x 56 and 104 x 64"),
        ("haloregnetz_b", (128, 128), r"128 x 128 pixels .*; it takes 112 x 112 and 168 x 168"),
        ("botnet26t_256", (64, 64), r"64 x 64 pixels \(height x width\); it takes 256 x 256"),
        ("lambda_resnet26rpt_256", (64, 64), r"64 x 64 pixels .*Expected size .*; it takes 256 x 256"),
        ("convnext_atto", (5, 40), r"5 x 40 pixels .*Kernel size can't be greater.*; it takes 8 x 40"),
    ],
)
def test_error_of_unsupported_size_names_supported_ones(name, size, words):
    model = build(name, aspp=False, walk_sources=()).eval()
    with torch.no_grad():
        for run in (model.check_size, lambda size: model(torch.rand(1, 3, *size))):
            with pytest.raises(
                ValueError, match=f"backbone '{name}' does not take images of {words}"
            ) as error:
                run(size)
    taken = [
        tuple(map(int, pair.split(" x "))) for pair in str(error.value).split("it takes ")[1].split(" and ")
    ]
    for height, width in taken:
        assert model.check_size((height, width)) == (height // 8, width // 8)


def test_error_of_a_wrong_dtype_stays_unchanged():
    model = build("test_resnet", aspp=False).eval()
    with pytest.raises(RuntimeError, match=r"same dtype|should be the same|scalar type"):
        model.seed_branch(torch.rand(1, 3, 32, 32, dtype=torch.complex64))


def test_error_of_a_batch_of_one_names_the_remedy():
    model = build("rexnet_100", aspp=False, walk_sources=())
    image, words = torch.rand(1, 3, 40, 40), "backbone 'rexnet_100' cannot be trained on one image of 40 x 40"
    with pytest.raises(ValueError, match=words):
        model(image)
    with pytest.raises(ValueError, match=words):
        model.check_size((40, 40))
    assert model.check_size((40, 40), batch=2) == (5, 5)
    assert model.eval().check_size((40, 40)) == (5, 5)
    model(image)


def test_one_node_cannot_train_the_importance_head():
    model = build("convnext_atto", aspp=False, walk_sources=())
    with pytest.raises(ValueError, match="one image of 8 x 8 pixels has one node"):
        model.check_size((8, 8))
    assert model.check_size((8, 8), batch=2) == (1, 1)
    assert model.check_size((16, 8)) == (2, 1)
    assert model.eval().check_size((8, 8)) == (1, 1)


def test_check_size_changes_nothing():
    model = build("test_resnet")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    model.check_size((64, 64))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("name", ["test_resnet", "simdeeplab18"])
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels(name, channels):
    model = build(name, aspp=False, in_chans=channels)
    assert model.config["in_chans"] == channels
    image = torch.rand(2, channels, 40, 56, generator=torch.Generator().manual_seed(0))
    logits = model(image)
    assert logits.shape == (2, K, 40, 56)
    logits.square().mean().backward()
    with pytest.raises(ValueError, match=rf"expected shape \(B, {channels}, H, W\).*got \(2, 3, 8, 8\)"):
        model(torch.rand(2, 3, 8, 8))
    means = timm.get_pretrained_cfg("test_resnet").mean if name == "test_resnet" else (0.485, 0.456, 0.406)
    assert model.normalize.mean.shape == (channels, 1, 1)
    assert model.normalize.mean.flatten().tolist() == pytest.approx([sum(means) / 3] * channels)
    twin = create_model(**model.config)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin.eval()(image), model.eval()(image))


def test_walk_0_sees_all_channels_of_the_image():
    model = build("test_resnet", aspp=False, walk_sources=(0,), in_chans=4)
    assert model.embeddings[0].project.weight.shape == (64, 4, 1, 1)
    details = model(torch.rand(2, 4, 40, 56), details=True)
    assert details.transitions[0][0].shape == (2, 35, 64)


def test_pretrained_weights_are_adapted_to_the_channels(monkeypatch):
    """For grey images, timm adds the weights of the three colours."""
    weights = timm.create_model("test_resnet").state_dict()
    original = timm.create_model

    def offline(*arguments, **options):
        return original(*arguments, **options, pretrained_cfg_overlay={"state_dict": dict(weights)})

    monkeypatch.setattr("difnet.modeling.backbones.timm.create_model", offline)
    model = build("test_resnet", walk_sources=(), pretrained=True, in_chans=1)
    found = model.state_dict()["seed_branch.network.conv1.0.weight"]
    torch.testing.assert_close(found, weights["conv1.0.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize("channels", [0, -1])
def test_channels_below_one_are_an_error(channels):
    with pytest.raises(ValueError, match=f"in_chans: expected at least 1, got {channels}"):
        build(in_chans=channels)


def test_walk_sources_none_gives_the_baseline():
    model = build("test_resnet", walk_sources=None)
    assert isinstance(model, SimDeepLab)
    assert isinstance(create_model(**model.config), SimDeepLab)
