"""Errors against float64 for features with a common mean, and how centring 16-bit features would change them.

    TRITON_INTERPRET=1 python tools/centring.py      # without a GPU; `make centring`
    python tools/centring.py                         # on a GPU

The features are max-pooled normals, and the recorded activations of the five walks of a trained network
(tests/data). There is one image and one walk. The loss is an inner product with fixed normals. All rows of a
dtype use the same features, rounded to this dtype. A row shows max |error| / max |truth| of

    triton     the Triton kernels
    eager      softmax(F F^T) y in PyTorch, scores and P in the features' dtype; for tf32 the operands of
               products are rounded to TF32
    sdpa       scaled_dot_product_attention with the state padded to the features' width (not for tf32)
    centred    everything in float64, except that the features are centred and then rounded to the dtype:
               the part of the error that is due to this rounding alone
    as given   the same without centring; zero for 16-bit features, which need no further rounding
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from difnet_kernels import cascaded_random_walk, testing
from difnet_kernels.testing import Inputs, eager_cascade, relative_error

RECORDED = Path(__file__).parents[1] / "tests" / "data" / "activations.safetensors"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32}
SHOWN = ("output", "features[0]", "state")
"""The results whose errors are shown: the output and two gradients."""


def load_recorded(nodes: int) -> dict[str, Inputs]:
    """The walks of the first recorded scene, on about `nodes` of its nodes.

    They were recorded in float16, which TF32 represents exactly. A random rotation leaves the scores
    unchanged and gives the features digits that TF32 has to round.
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
    """Round to the ten explicit bits of TF32's significand."""
    bits = x.float().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32).to(x.dtype)


def straight_through(rounded: Tensor, x: Tensor) -> Tensor:
    """The value of `rounded` with the gradient of x."""
    return x + (rounded - x).detach()


class _Tf32Product(torch.autograd.Function):
    """a @ b with operands rounded to TF32, forward and backward."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return to_tf32(a) @ to_tf32(b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return to_tf32(grad) @ to_tf32(b).mT, to_tf32(a).mT @ to_tf32(grad)


def eager_tf32(inputs: Inputs) -> Tensor:
    """The walk in eager PyTorch with TF32 products."""
    (feature,) = inputs.features
    p = torch.softmax(_Tf32Product.apply(feature, feature.mT), dim=-1)
    return _update(_Tf32Product.apply(p, inputs.state), inputs)


def sdpa(inputs: Inputs) -> Tensor:
    """The walk with PyTorch's scaled_dot_product_attention."""
    (feature,), state = inputs.features, inputs.state
    padding = (0, feature.shape[-1] - state.shape[-1])
    value = functional.pad(state.to(feature.dtype), padding)[:, None]
    z = functional.scaled_dot_product_attention(feature[:, None], feature[:, None], value, scale=1.0)
    return _update(z[:, 0, :, : state.shape[-1]].to(state.dtype), inputs)


def rounded_features(dtype: str, centred: bool) -> Callable[[Inputs], Tensor]:
    """The walk in float64 with features rounded to the dtype, after centring or as they are."""

    def walk(inputs: Inputs) -> Tensor:
        (feature,) = inputs.features
        mean = feature.detach().mean(dim=1, keepdim=True) * centred
        g = feature - mean
        rounded = to_tf32(g) if dtype == "tf32" else g.to(DTYPES[dtype]).to(g.dtype)
        g = straight_through(rounded, g)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=500, help="nodes of the image, about")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("medium")
    cases = {
        "pooled": testing.make_inputs(1, options.nodes, 64, 21, 1, "pooled"),
        **load_recorded(options.nodes),
    }
    print(f"{'features':12}{'N':>5}{'|f|^2':>7}{'|f-m|^2':>8}  {'dtype':10}{'':10}"
          + "".join(f"{name:>13}" for name in SHOWN))  # fmt: skip
    for name, case in cases.items():
        (feature,) = case.features
        square = [x.square().sum(-1).mean() for x in (feature, feature - feature.mean(1, keepdim=True))]
        head = f"{name:12}{feature.shape[1]:5}{square[0]:7.0f}{square[1]:8.0f}  "
        for dtype, torch_dtype in DTYPES.items():
            rows: dict[str, tuple[Callable[[Inputs], Tensor], torch.dtype, torch.dtype]] = {
                "triton": (_triton, torch_dtype, torch.float32),
                "eager": (eager_tf32 if dtype == "tf32" else _eager, torch_dtype, torch.float32),
                "sdpa": (sdpa, torch_dtype, torch.float32),
                "centred": (rounded_features(dtype, True), torch.float64, torch.float64),
                "as given": (rounded_features(dtype, False), torch.float64, torch.float64),
            }
            if dtype == "tf32":
                del rows["sdpa"]
            start = case.to(torch_dtype, torch.float32)
            weight = torch.randn(case.seed.shape, generator=torch.Generator().manual_seed(1)).double()
            truth = _run(_eager, start.to(torch.float64), weight)
            for label, (walk, feature_dtype, value_dtype) in rows.items():
                inputs = _move(start.to(feature_dtype, value_dtype), device)
                results = _run(walk, inputs, weight.to(device))
                errors = "".join(f"{relative_error(results[n].cpu(), truth[n]):13.1e}" for n in SHOWN)
                print(f"{head}{dtype:10}{label:10}{errors}", flush=True)


def _move(inputs: Inputs, device: torch.device) -> Inputs:
    """The inputs, without node bias, on a device."""
    seed, mu, beta, state = (x.to(device) for x in (inputs.seed, inputs.mu, inputs.beta, inputs.state))
    return Inputs([feature.to(device) for feature in inputs.features], seed, mu, beta, state, None)


def _eager(inputs: Inputs) -> Tensor:
    return eager_cascade(*inputs)


def _run(walk: Callable[[Inputs], Tensor], inputs: Inputs, weight: Tensor) -> dict[str, Tensor]:
    y = walk(inputs.requires_grad_())
    gradients = torch.autograd.grad(y, inputs.tensors(), weight.to(y))
    return dict(zip(["output", *inputs.names()], [y.detach(), *gradients], strict=True))


if __name__ == "__main__":
    main()
