"""The network in 16 bits, compiled, exported, traced, on the meta device, sharded, and under torch.func."""

import copy
import io

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from difnet import DifNet, create_model

K = 4
# Sizes with every remainder modulo 8, and a square.
SIZES = [
    *[(65, 97), (64, 96), (72, 83), (100, 90), (33, 49), (128, 62)],
    *[(97, 69), (41, 43), (56, 56), (30, 61), (20, 88)],
]


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    """Drop compiled graphs: torch.compile keeps eight graphs of a function, and then stops compiling it."""
    torch._dynamo.reset()


def build(name="test_resnet", **options):
    """Build a network with small embeddings.

    At the start of training P is nearly the identity, which would hide errors.
    """
    torch.manual_seed(0)
    model = create_model(name, K, aspp=False, **options)
    if isinstance(model, DifNet):
        with torch.no_grad():
            for psi in model.embeddings:
                psi.norm.weight.fill_(0.3)
            model.mu_logit.copy_(torch.linspace(-1, 1, len(model.walk_sources)))
    return model


def images(batch=2, size=(65, 97)):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def loss_of(logits):
    return F.cross_entropy(logits, torch.arange(logits[:, 0].numel()).remainder(K).view_as(logits[:, 0]))


def outcome(model, image):
    """Compute logits, importance, and all gradients as one vector, in float64."""
    out = model(image, details=True)
    expected = torch.float64 if image.dtype == torch.float64 else torch.float32
    assert {value.dtype for value in out[:-1]} == {expected}
    loss_of(out.logits).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    return [x.detach().double() for x in (out.logits, out.importance, gradients)]


def distance(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("test_resnet", torch.bfloat16), ("test_resnet", torch.float16), ("convnext_atto", torch.bfloat16)],
)
@pytest.mark.parametrize("training", [True, False])
def test_network_in_16_bits_is_as_exact_as_autocast(name, dtype, training):
    low = build(name).train(training).to(dtype)
    exact, automatic = copy.deepcopy(low).double(), copy.deepcopy(low).float()
    image = images(size=(33, 41)).to(dtype)
    truth, ours = outcome(exact, image.double()), outcome(low, image.float())
    with torch.autocast("cpu", dtype):
        theirs = outcome(automatic, image.float())
    # The project's budget: twice the error of PyTorch at the same precision, three times for gradients.
    for factor, a, b, expected in zip((2, 2, 3), ours, theirs, truth, strict=True):
        assert distance(a, expected) <= factor * distance(b, expected)
    torch.optim.SGD(low.parameters(), 0.1).step()
    assert all(p.dtype == dtype and p.isfinite().all() for p in low.parameters())
    with torch.autocast("cpu", dtype):
        assert low(image).dtype == torch.float32


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_sharded_in_bfloat16_is_the_network_in_bfloat16(stored, one_process):
    """On CPUs, PyTorch's batch norm cannot combine the 16-bit weights of FSDP2 with float32 statistics."""
    model = build().to(stored)
    plain = copy.deepcopy(model)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for module in plain.modules():
        if not isinstance(module, _BatchNorm):
            for p in module.parameters(recurse=False):
                p.data = p.data.bfloat16()
    if stored == torch.float32:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                fully_shard(module, mesh=one_process)
    fully_shard(model, mesh=one_process, mp_policy=policy)
    logits = model(images())
    torch.testing.assert_close(logits, plain(images().bfloat16()), rtol=0, atol=0)
    loss_of(logits).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert all(p.dtype == stored and p.full_tensor().isfinite().all() for p in model.parameters())


def named(axis, least):
    return torch.export.Dim(axis, min=least)


def dynamic(axis, least):
    """Let PyTorch check at each call what it cannot prove about a size, as for pools that round up."""
    return torch.export.Dim.DYNAMIC


@pytest.mark.parametrize(
    ("name", "dimension", "strict", "training", "details"),
    [
        ("difnet18", named, False, False, True),
        ("simdeeplab18", named, True, True, False),
        ("convnext_atto", dynamic, False, False, False),
        ("test_resnet", dynamic, True, False, False),
    ],
)
def test_exports_one_program_for_all_sizes(name, dimension, strict, training, details):
    model = build(name).train(training)
    program = torch.export.export(
        copy.deepcopy(model),
        (images(),),
        {"details": details},
        dynamic_shapes={
            "image": {0: dimension("b", 1), 2: dimension("h", 16), 3: dimension("w", 16)},
            "details": None,
        },
        strict=strict,
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    module = torch.export.load(file).module()
    for n, size in ((2, (65, 97)), (1, (16, 20)), (3, (64, 64)), (2, (47, 38))):
        image = images(n, size)
        expected, actual = model(image, details=details), module(image, details=details)
        torch.testing.assert_close(list(actual), list(expected), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "training"),
    [("test_resnet", True), ("test_resnet", False), ("simdeeplab18", True), ("convnext_atto", False)],
)
def test_eleven_sizes_compile_to_three_graphs_at_most(name, training):
    model = build(name).train(training)
    twin = copy.deepcopy(model)
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(twin, backend=count)
    for size in SIZES:
        logits, expected = compiled(images(2, size)), model(images(2, size))
        torch.testing.assert_close(logits, expected)
        loss_of(logits).backward()
        loss_of(expected).backward()
    assert 1 <= len(graphs) <= 3
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-4 * p.grad.norm() + 1e-5, key


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_compiles_without_gradients(mode):
    model = build(walk_sources=(0, 2)).eval().requires_grad_(mode is torch.inference_mode)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with mode():
        torch.testing.assert_close(compiled(images()), model(images()))


def test_jit_trace_records_all_sizes_and_can_be_saved():
    model = build().eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, images()), file)
    traced = torch.jit.load(io.BytesIO(file.getvalue()))
    for n, size in ((2, (65, 97)), (3, (40, 41))):
        torch.testing.assert_close(traced(images(n, size)), model(images(n, size)))


@pytest.mark.parametrize("name", ["test_resnet", "simdeeplab18"])
def test_meta_device_gives_shapes(name):
    model = build(name).to("meta")
    out = model(images().to("meta"), details=True)
    assert out.logits.shape == (2, K, 65, 97)
    assert {value.device.type for value in out[:-1]} == {"meta"}
    loss = out.logits.sum()
    loss.backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_functional_call_gives_the_gradients_of_backward():
    model, plain = build().eval(), build().eval()
    parameters = dict(model.named_parameters())
    found = grad(lambda p: loss_of(functional_call(model, p, (images(),))))(parameters)
    loss_of(plain(images())).backward()
    for key, p in plain.named_parameters():
        torch.testing.assert_close(found[key], p.grad)


def test_gradients_of_each_image_and_of_an_ensemble():
    models = [build().double().eval() for _ in range(2)]
    torch.nn.init.normal_(models[1].mu_logit)
    parameters, buffers = stack_module_state(models)

    def loss(p, b, image):
        return loss_of(functional_call(models[0], (p, b), (image[None],)))

    image = images().double()
    found = vmap(vmap(grad(loss), (None, None, 0)), (0, 0, None))(parameters, buffers, image)
    for m, model in enumerate(models):
        for n in range(2):
            model.zero_grad()
            loss_of(model(image[n : n + 1])).backward()
            for key, p in model.named_parameters():
                torch.testing.assert_close(found[key][m, n], p.grad)


def test_forward_mode_with_the_reference(monkeypatch):
    monkeypatch.setenv("DIFNET_BACKEND", "reference")
    model = build().double().eval()
    image = images(1, (33, 41)).double().requires_grad_()
    direction = torch.randn_like(image)
    _, tangent = jvp(lambda x: loss_of(model(x)), (image.detach(),), (direction,))
    (gradient,) = torch.autograd.grad(loss_of(model(image)), image)
    torch.testing.assert_close(tangent, (gradient * direction).sum())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant):
    plain, saving = build(), build()
    loss_of(plain(images())).backward()
    loss_of(checkpoint(saving, images().requires_grad_(), use_reentrant=reentrant)).backward()
    for p, q in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)
