"""Who computes the cascade: our backends and every rival, each as a function of the same inputs.

A rival replaces z = softmax(F F^T) y; the update around it is the same PyTorch code for all of them.
"""

import importlib
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from difnet_kernels import backends, cascaded_random_walk
from difnet_kernels.testing import Inputs, eager_cascade

Transition = Callable[[Tensor, Tensor], Tensor]


class Provider(NamedTuple):
    """A way to compute the cascade.

    `unavailable` says why it cannot run here, or is None; `ours` tells our backends from their rivals.
    """

    name: str
    run: Callable[[Inputs], Tensor]
    ours: bool = False
    unavailable: str | None = None


def providers(device: torch.device) -> list[Provider]:
    """Every provider, those that cannot run here with the reason."""
    found = [
        Provider(f"difnet {s.name}", partial(_ours, s.name), True, None if s.available else s.reason)
        for s in backends()
        if s.name != "reference"
    ]
    found += [
        Provider("eager", _eager),
        Provider("eager, compiled", _eager_compiled),
    ]
    for backend in _sdpa_backends(device):
        name = backend.name.removesuffix("_ATTENTION").lower()
        found.append(Provider(f"SDPA {name}", partial(_rival, partial(_sdpa, backend, False))))
        found.append(Provider(f"SDPA {name}, padded v", partial(_rival, partial(_sdpa, backend, True))))
    found.append(Provider("FlexAttention, compiled", partial(_rival, _flex)))
    found.append(
        Provider("KeOps", partial(_rival, _keops), unavailable=_missing("pykeops", "pip install pykeops"))
    )
    reason = (
        "needs a CUDA device"
        if device.type != "cuda"
        else _missing("flash_attn.cute", "pip install flash-attn-4")
    )
    found.append(Provider("FlashAttention 4, k padded to 8", partial(_rival, _flash4), unavailable=reason))
    return found


def _ours(backend: str, x: Inputs) -> Tensor:
    y = cascaded_random_walk(x.features, x.seed, x.mu, x.beta, backend=backend)
    assert isinstance(y, Tensor)
    return y


def _rival(transition: Transition, x: Inputs) -> Tensor:
    y = x.seed
    for feature, mu, beta in zip(x.features, x.mu, x.beta, strict=True):
        z = transition(feature, y.to(feature.dtype)).to(y.dtype)
        y = y.lerp(x.seed.lerp(z, mu), beta)
    return y


def _eager(x: Inputs) -> Tensor:
    return _rival(lambda feature, y: torch.softmax(feature @ feature.mT, dim=-1) @ y, x)


@cache
def _compiled_eager() -> Callable[..., Tensor]:
    return torch.compile(eager_cascade, dynamic=False)


def _eager_compiled(x: Inputs) -> Tensor:
    dtype = x.features[0].dtype
    return _compiled_eager()(x.features, x.seed.to(dtype), x.mu.to(dtype), x.beta.to(dtype)).to(x.seed.dtype)


def _sdpa_backends(device: torch.device) -> list[SDPBackend]:
    on_cpu = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    return (
        on_cpu
        if device.type == "cpu"
        else [*on_cpu, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    )


def _sdpa(backend: SDPBackend, padded: bool, feature: Tensor, y: Tensor) -> Tensor:
    k = y.shape[-1]
    if padded and k < feature.shape[-1]:
        y = functional.pad(y, (0, feature.shape[-1] - k))
    query = feature[:, None]
    with sdpa_kernel(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z = functional.scaled_dot_product_attention(query, query, y[:, None], scale=1.0)
    return z[:, 0, :, :k]


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(feature: Tensor, y: Tensor) -> Tensor:
    query = feature[:, None]
    return _compiled_flex()(query, query, y[:, None].contiguous(), scale=1.0)[:, 0]


def _keops(feature: Tensor, y: Tensor) -> Tensor:
    lazy = importlib.import_module("pykeops.torch").LazyTensor
    scores = (lazy(feature[:, :, None]) * lazy(feature[:, None])).sum(-1)
    return scores.sumsoftmaxweight(lazy(y[:, None].contiguous()), dim=2)


def _flash4(feature: Tensor, y: Tensor) -> Tensor:
    attention = importlib.import_module("flash_attn.cute").flash_attn_func
    k = y.shape[-1]
    value = functional.pad(y, (0, -k % 8))[:, :, None]
    z = attention(feature[:, :, None], feature[:, :, None], value, softmax_scale=1.0)
    return (z[0] if isinstance(z, tuple) else z)[:, :, 0, :k]


def _missing(module: str, remedy: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken install must not stop the others
        return f"{module} cannot be imported ({type(error).__name__}: {str(error)[:60]}); {remedy}"
    return None
