import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jvp, vmap

from difnet.modeling.resampling import adaptive_max_pool2d, bilinear_matrix, upsample_bilinear

# Divisible, not divisible in one axis or both, identity, one node, more windows than pixels.
POOL_SIZES = [
    ((16, 24), (8, 8)),
    ((17, 25), (9, 13)),
    ((33, 24), (9, 12)),
    ((9, 13), (9, 13)),
    ((5, 7), (1, 1)),
    ((1, 1), (1, 1)),
    ((3, 2), (7, 5)),
]
UPSAMPLE_SIZES = [
    ((9, 13), (65, 97)),
    ((8, 8), (64, 64)),
    ((1, 1), (5, 3)),
    ((41, 2), (321, 9)),
    ((9, 13), (9, 13)),
    ((9, 13), (4, 31)),
]


@pytest.mark.parametrize(("input_size", "size"), POOL_SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adaptive_max_pool_equals_torch(input_size, size, dtype):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *input_size).to(dtype)
    image.requires_grad_()
    exact = image.detach().double().requires_grad_()
    pooled, expected = adaptive_max_pool2d(image, size), F.adaptive_max_pool2d(exact, size)
    assert torch.equal(pooled, F.adaptive_max_pool2d(image, size))

    # Up to nine windows share a pixel here (3, 2 -> 7, 5): at most eight roundings of their sum.
    grad = torch.randn_like(pooled)
    (ours,) = torch.autograd.grad(pooled, image, grad)
    (truth,) = torch.autograd.grad(expected, exact, grad.double(), retain_graph=True)
    (magnitude,) = torch.autograd.grad(expected, exact, grad.double().abs())
    assert ours.dtype == dtype
    assert ((ours - truth).abs() <= 8 * torch.finfo(dtype).eps / 2 * magnitude).all()


def test_adaptive_max_pool_shared_maximum_collects_every_window():
    image = torch.zeros(1, 1, 3, 3, requires_grad=True)
    with torch.no_grad():
        image[0, 0, 1, 1] = 1
    adaptive_max_pool2d(image, (2, 2)).backward(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))
    expected = torch.zeros(3, 3)
    expected[1, 1] = 1111
    assert torch.equal(image.grad[0, 0], expected)


def test_adaptive_max_pool_gradient_is_exact_to_second_order():
    image = torch.randn(2, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: adaptive_max_pool2d(x, (3, 4)), image)
    torch.autograd.gradgradcheck(lambda x: adaptive_max_pool2d(x, (3, 4)), image)


@pytest.mark.parametrize(("input_size", "size"), [((5, 7), (3, 4)), ((8, 6), (4, 3))])
def test_adaptive_max_pool_under_transforms(input_size, size):
    torch.manual_seed(0)
    image, weight = torch.randn(2, 3, 2, *input_size).double(), torch.randn(3, 2, *size).double()

    def ours(x):
        return (adaptive_max_pool2d(x, size) ** 3 * weight).sum()

    def theirs(x):
        return (F.adaptive_max_pool2d(x, size) ** 3 * weight).sum()

    for transform in (
        lambda f: vmap(grad(f))(image),
        lambda f: hessian(f)(image[0]),
        lambda f: jvp(vmap(f), (image,), (image.cos(),))[1],
        lambda f: torch.autograd.functional.hessian(f, image[0]),
    ):
        torch.testing.assert_close(transform(ours), transform(theirs))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operators_pass_opcheck(layout):
    image = torch.randn(2, 3, 9, 11).to(memory_format=layout)
    _, places = torch.ops.difnet.adaptive_max_pool2d(image, (4, 5))
    torch.library.opcheck(torch.ops.difnet.adaptive_max_pool2d, (image, (4, 5)))
    grad = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    torch.library.opcheck(torch.ops.difnet.adaptive_max_pool2d_backward, (grad, places, (9, 11)))


def test_resampling_of_all_sizes_compiles_to_one_graph():
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    def step(x):
        size = (x.shape[-2] // 8 + 1, x.shape[-1] // 8 + 1)
        return upsample_bilinear(adaptive_max_pool2d(x, size), (x.shape[-2], x.shape[-1]))

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=count)
    for size in ((17, 25), (16, 40), (9, 31), (100, 23)):
        image = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
        for a, b in zip(
            *((y := f(image), torch.autograd.grad(y.square().sum(), image)[0]) for f in (compiled, step)),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
    assert len(graphs) == 1


def test_adaptive_max_pool_keeps_nan():
    image = torch.randn(1, 1, 8, 8)
    image[0, 0, 0, 0] = float("nan")
    pooled = adaptive_max_pool2d(image, (3, 3))
    assert pooled[0, 0, 0, 0].isnan()
    assert pooled.isnan().sum() == 1


@pytest.mark.parametrize(("input_size", "size"), UPSAMPLE_SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_upsample_equals_torch(input_size, size, dtype):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *input_size, dtype=dtype)
    ours, theirs = image.clone().requires_grad_(), image.clone().double().requires_grad_()
    expected = F.interpolate(theirs, size, mode="bilinear", align_corners=False)
    result = upsample_bilinear(ours, size)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected.to(dtype))

    grad = torch.randn_like(expected)
    result.backward(grad.to(dtype))
    expected.backward(grad.to(dtype).double())
    torch.testing.assert_close(ours.grad, theirs.grad.to(dtype))


@pytest.mark.parametrize("autocast", [False, True])
def test_upsample_bfloat16_is_rounded_once(autocast):
    image = torch.randn(1, 2, 9, 13).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = upsample_bilinear(image, (65, 97))
        exact = upsample_bilinear(image.double(), (65, 97))
        single = upsample_bilinear(image.float(), (65, 97))
    assert result.dtype == torch.bfloat16
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, exact.float())
    assert torch.equal(result, single.bfloat16())


@pytest.mark.parametrize(("input_size", "output_size"), [(1, 7), (41, 321), (9, 9), (13, 5)])
def test_bilinear_matrix_rows_are_weights(input_size, output_size):
    matrix = bilinear_matrix(input_size, output_size, dtype=torch.float64, device=torch.device("cpu"))
    assert matrix.shape == (output_size, input_size)
    assert (matrix >= 0).all()
    assert ((matrix > 0).sum(1) <= 2).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(output_size, dtype=torch.float64))


@pytest.mark.parametrize("compiler", [None, "eager", "aot_eager"])
def test_upsampling_under_autocast_has_the_gradient_of_float32(compiler):
    """torch.compile runs a backward under the autocast of the forward."""
    torch.manual_seed(0)
    image, weights = torch.randn(2, 3, 9, 13, requires_grad=True), torch.randn(2, 3, 33, 49)

    def gradient(function):
        return torch.autograd.grad((function(image) * weights).sum(), image)

    def upsampled(x):
        return upsample_bilinear(x, (33, 49))

    expected = gradient(upsampled)
    torch._dynamo.reset()
    compiled = upsampled if compiler is None else torch.compile(upsampled, backend=compiler, fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gradient(compiled), expected, rtol=1e-6, atol=1e-6)


def test_compiled_pooling_has_second_derivatives():
    """The gradient of a squared gradient reaches the pixels of the maxima."""
    torch.manual_seed(0)
    image = torch.randn(2, 3, 9, 13, dtype=torch.float64, requires_grad=True)

    def penalty(function):
        (grad,) = torch.autograd.grad(function(image).pow(3).sum(), image, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), image)[0]

    def pooled(x):
        return adaptive_max_pool2d(x, (4, 5))

    torch._dynamo.reset()
    compiled = torch.compile(pooled, backend="eager", fullgraph=True)
    expected = penalty(lambda x: F.adaptive_max_pool2d(x, (4, 5)))
    assert expected.norm() > 0
    torch.testing.assert_close(penalty(compiled), expected)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_gradients_of_each_image(compiler):
    torch.manual_seed(0)
    images = torch.randn(3, 2, 3, 9, 13)

    def gradients(x):
        return vmap(grad(lambda image: adaptive_max_pool2d(image, (4, 5)).square().sum()))(x)

    torch._dynamo.reset()
    compiled = torch.compile(gradients, backend=compiler, fullgraph=True)
    torch.testing.assert_close(compiled(images), gradients(images))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_gradients_on_the_device_are_bitwise_reproducible(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(0)
    image = torch.randn(4, 64, 321, 321, device="cuda")
    grad_logits = torch.randn(4, 64, 321, 321, device="cuda")

    def gradient():
        leaf = image.clone().requires_grad_()
        upsample_bilinear(adaptive_max_pool2d(leaf, (41, 41)), (321, 321)).backward(grad_logits)
        return leaf.grad

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(5))
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(first, gradient())
    finally:
        torch.use_deterministic_algorithms(False)
