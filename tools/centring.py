"""Errors against float64 on features with a common mean, and what centring 16-bit features would do to them.

    TRITON_INTERPRET=1 python tools/centring.py      # without a GPU; `make centring`
    python tools/centring.py                         # on one

Features are max-pooled normals and the recorded activations of a trained network's five walks (tests/data);
one image, one walk, the loss an inner product with fixed normals. Every row starts from the same features,
rounded to the dtype of the block, and gives max |error| / max |truth|:

    triton     the kernels
    eager      softmax(F F^T) y in PyTorch, scores and P in the features' dtype; tf32: operands rounded to it
    sdpa       F.scaled_dot_product_attention, the state padded to the features' width (not for tf32)
    centred    float64 throughout, except that the centred features are rounded to the dtype: the least that
               centring costs or leaves
    as given   the same without centring; zero for 16-bit features, which are of the dtype already
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as tf
from torch import Tensor

from difnet_kernels import cascaded_random_walk, testing
from difnet_kernels.testing import Inputs, eager_cascade, relative_error

RECORDED = Path(__file__).parents[1] / "tests" / "data" / "activations.safetensors"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32}
WANTED = ("output", "features[0]", "state")


def recorded(nodes: int) -> dict[str, Inputs]:
    """The walks of the first recorded scene.

    They were recorded in float16, which TF32 holds exactly; a rotation, which changes no score, fills the
    digits up again.
    """
    from safetensors.torch import load_file

    tensors = {name: tensor.double() for name, tensor in load_file(RECORDED).items()}
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=generator))
    cases = {}
    for t, features in enumerate(tensors["features"]):
        step = max(1, features.shape[1] // nodes)
        feature, seed = features[:1, ::step] @ rotation, tensors["seed"][:1, ::step]
        mu, beta = tensors["mu"][t : t + 1], tensors["beta"][t : t + 1]
        cases[f"recorded {t}"] = Inputs([feature], seed, mu, beta, seed.clone(), None)
    return cases


def to_tf32(x: Tensor) -> Tensor:
    """Rounded to the ten bits that TF32 keeps."""
    bits = x.float().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32).to(x.dtype)


def straight(rounded: Tensor, x: Tensor) -> Tensor:
    """`rounded` with the gradient of x."""
    return x + (rounded - x).detach()


class _Tf32Product(torch.autograd.Function):
    """a @ b as TF32 units compute it, forward and backward."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return to_tf32(a) @ to_tf32(b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return to_tf32(grad) @ to_tf32(b).mT, to_tf32(a).mT @ to_tf32(grad)


def eager_tf32(inputs: Inputs) -> Tensor:
    """Eager with TF32 products."""
    (feature,) = inputs.features
    p = torch.softmax(_Tf32Product.apply(feature, feature.mT), dim=-1)
    return _update(_Tf32Product.apply(p, inputs.state), inputs)


def attention(inputs: Inputs) -> Tensor:
    """The walk with PyTorch's attention."""
    (feature,), state = inputs.features, inputs.state
    padding = (0, feature.shape[-1] - state.shape[-1])
    value = tf.pad(state.to(feature.dtype), padding)[:, None]
    z = tf.scaled_dot_product_attention(feature[:, None], feature[:, None], value, scale=1.0)
    return _update(z[:, 0, :, : state.shape[-1]].to(state.dtype), inputs)


def rounding(dtype: str, centred: bool) -> Callable[[Inputs], Tensor]:
    """The walk in float64 with its features rounded to the dtype, after centring or as they are."""

    def walk(inputs: Inputs) -> Tensor:
        (feature,) = inputs.features
        mean = feature.detach().mean(dim=1, keepdim=True) * centred
        g = feature - mean
        g = straight(to_tf32(g) if dtype == "tf32" else g.to(DTYPES[dtype]).to(g.dtype), g)
        p = torch.softmax(g @ g.mT + g @ mean.mT + (mean @ g.mT), dim=-1)
        return _update(p @ inputs.state, inputs)

    return walk


def _update(z: Tensor, inputs: Inputs) -> Tensor:
    mu, beta = inputs.mu[0], inputs.beta[0]
    return beta * (mu * z + (1 - mu) * inputs.seed) + (1 - beta) * inputs.state


def _triton(inputs: Inputs) -> Tensor:
    features, seed, mu, beta, state, _ = inputs
    y = cascaded_random_walk(features, seed, mu, beta, state=state, backend="triton")
    assert isinstance(y, Tensor)
    return y


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=500)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("medium")
    cases = {"pooled": testing.make_inputs(1, options.nodes, 64, 21, 1, "pooled"), **recorded(options.nodes)}
    print(f"{'features':12}{'N':>5}{'|f|^2':>7}{'|f-m|^2':>8}  {'dtype':10}{'':10}"
          + "".join(f"{name:>13}" for name in WANTED))  # fmt: skip
    for name, case in cases.items():
        (feature,) = case.features
        square = [x.square().sum(-1).mean() for x in (feature, feature - feature.mean(1, keepdim=True))]
        head = f"{name:12}{feature.shape[1]:5}{square[0]:7.0f}{square[1]:8.0f}  "
        for dtype, torch_dtype in DTYPES.items():
            rows: dict[str, tuple[Callable[[Inputs], Tensor], torch.dtype, torch.dtype]] = {
                "triton": (_triton, torch_dtype, torch.float32),
                "eager": (eager_tf32 if dtype == "tf32" else _eager, torch_dtype, torch.float32),
                "sdpa": (attention, torch_dtype, torch.float32),
                "centred": (rounding(dtype, True), torch.float64, torch.float64),
                "as given": (rounding(dtype, False), torch.float64, torch.float64),
            }
            if dtype == "tf32":
                del rows["sdpa"]
            start = case.to(torch_dtype, torch.float32)
            weight = torch.randn(case.seed.shape, generator=torch.Generator().manual_seed(1)).double()
            truth = _run(_eager, start.to(torch.float64), weight)
            for label, (walk, of_features, of_values) in rows.items():
                inputs = start.to(of_features, of_values)
                inputs = Inputs([f.to(device) for f in inputs.features], *(x if x is None else x.to(device)
                                                                           for x in inputs[1:]))  # fmt: skip
                results = _run(walk, inputs, weight.to(device))
                errors = "".join(f"{relative_error(results[n].cpu(), truth[n]):13.1e}" for n in WANTED)
                print(f"{head}{dtype:10}{label:10}{errors}", flush=True)


def _eager(inputs: Inputs) -> Tensor:
    return eager_cascade(*inputs)


def _run(walk: Callable[[Inputs], Tensor], inputs: Inputs, weight: Tensor) -> dict[str, Tensor]:
    y = walk(inputs.requires_grad_())
    gradients = torch.autograd.grad(y, inputs.tensors(), weight.to(y))
    return dict(zip(["output", *inputs.names()], [y.detach(), *gradients], strict=True))


if __name__ == "__main__":
    main()
