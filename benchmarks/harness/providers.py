"""Who computes the cascade: our backends and every rival, each as a function of the same inputs.

A rival replaces z = softmax(F F^T) y; the update around it is the same PyTorch code for all of them.
"""

import importlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from difnet_kernels import backends, cascaded_random_walk
from difnet_kernels.backends import choose, instruction_sets
from difnet_kernels.info import cpu_description
from difnet_kernels.support.errors import BackendError
from difnet_kernels.testing import Inputs
from harness.cases import FORWARD
from harness.truth import Results, results, with_gradients

os.environ.setdefault("PYKEOPS_VERBOSE", "0")
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA is known
ISA_VARIABLE = "DIFNET_CPU_ISA"
Transition = Callable[[Tensor, Tensor], Tensor]


class Provider(NamedTuple):
    """A way to compute the cascade.

    `unavailable` says why it cannot run here, or is None; `ours` tells our backends from their rivals;
    `compiles` is true where the first call with new sizes takes seconds; `isa` forces an instruction set;
    `default` is true of the one that a call gets which asks for none.
    """

    name: str
    run: Callable[[Inputs], Tensor]
    ours: bool = False
    unavailable: str | None = None
    compiles: bool = False
    isa: str | None = None
    default: bool = False


def precisions_that_differ(device: torch.device, precisions: Sequence[str]) -> list[str]:
    """Float32 precisions with which `eager` gives other bits here than with the first of them."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(1, 2048, 64, generator=generator).to(device)
    before = torch.get_float32_matmul_precision()
    found: dict[str, Tensor] = {}
    for precision in precisions:
        torch.set_float32_matmul_precision(precision)
        z = torch.softmax(0.1 * feature @ feature.mT, dim=-1) @ feature[..., :21]
        if not any(torch.equal(z, other) for other in found.values()):
            found[precision] = z
    torch.set_float32_matmul_precision(before)
    return list(found)[1:]


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it, as far as it tells: PyTorch is slow without."""
    return "bf16" in cpu_description()


def step(provider: Provider, inputs: Inputs, mode: str) -> Callable[[], Results]:
    """A call of the provider to be timed: forward, or forward and backward of half the sum of squares."""
    asked = inputs if mode == FORWARD else with_gradients(inputs)

    def call() -> Results:
        with _forced(provider.isa):
            return results(provider.run, asked, mode)

    return call


@contextmanager
def _forced(isa: str | None) -> Iterator[None]:
    previous = os.environ.get(ISA_VARIABLE)
    if isa is not None:
        os.environ[ISA_VARIABLE] = isa
    try:
        yield
    finally:
        if isa is not None:
            os.environ.pop(ISA_VARIABLE)
            os.environ |= {} if previous is None else {ISA_VARIABLE: previous}


def providers(device: torch.device, isas: Sequence[str] = ("best",)) -> list[Provider]:
    """Every provider, those that cannot run here with the reason.

    `isas` are instruction sets of the native backend: "best", which it chooses itself, "all", for the others
    too, or names.
    """
    found = []
    for s in backends():
        if s.name == "reference":
            continue
        reason = refusal(s.name, device) if s.available else s.reason
        default = s.name == choose(None, device)
        found.append(Provider(f"difnet {s.name}", partial(_ours, s.name), True, reason, default=default))
        if s.name == "native":
            sets = instruction_sets()[1:] if "all" in isas else [isa for isa in isas if isa != "best"]
            found += [
                Provider(f"difnet native, {i}", partial(_ours, "native"), True, reason, isa=i) for i in sets
            ]
    found += [
        Provider("eager", _eager),
        Provider("eager, compiled", _eager_compiled, compiles=True),
    ]
    for backend in _sdpa_backends(device):
        name = backend.removesuffix("_ATTENTION").lower()
        found.append(Provider(f"SDPA {name}", partial(_rival, partial(_sdpa, backend, False))))
        found.append(Provider(f"SDPA {name}, padded v", partial(_rival, partial(_sdpa, backend, True))))
    found.append(Provider("FlexAttention, compiled", partial(_rival, _flex), compiles=True))
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


def refusal(backend: str, device: torch.device) -> str | None:
    """Why one of our backends does not take tensors of the device, or None."""
    try:
        choose(backend, device)
    except BackendError as error:
        return str(error)
    return None


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


def forget_compiled() -> None:
    """Compile anew for the next case: after eight sizes torch.compile would fall back to eager silently."""
    torch.compiler.reset()


@cache
def _compiled_eager() -> Callable[[Inputs], Tensor]:
    return torch.compile(_eager, dynamic=False)


def _eager_compiled(x: Inputs) -> Tensor:
    return _compiled_eager()(x)


def _sdpa_backends(device: torch.device) -> list[str]:
    on_cpu = ["FLASH_ATTENTION", "MATH"]
    return on_cpu if device.type == "cpu" else [*on_cpu, "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"]


def _sdpa(backend: str, padded: bool, feature: Tensor, y: Tensor) -> Tensor:
    k = y.shape[-1]
    if padded and k < feature.shape[-1]:
        y = functional.pad(y, (0, feature.shape[-1] - k))
    query = feature[:, None]
    with sdpa_kernel(getattr(SDPBackend, backend)), warnings.catch_warnings():
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
    lazy = _quietly_imported("pykeops.torch").LazyTensor
    scores = (lazy(feature[:, :, None]) * lazy(feature[:, None])).sum(-1)
    return scores.sumsoftmaxweight(lazy(y[:, None].contiguous()), dim=2)


def _flash4(feature: Tensor, y: Tensor) -> Tensor:
    attention = importlib.import_module("flash_attn.cute").flash_attn_func
    k = y.shape[-1]
    value = functional.pad(y, (0, -k % 8))[:, :, None]
    z = attention(feature[:, :, None], feature[:, :, None], value, softmax_scale=1.0)
    return (z[0] if isinstance(z, tuple) else z)[:, :, 0, :k]


def _quietly_imported(module: str) -> Any:
    with redirect_stdout(io.StringIO()):  # KeOps says that there is no CUDA
        return importlib.import_module(module)


def _missing(module: str, remedy: str) -> str | None:
    try:
        _quietly_imported(module)
    except Exception as error:  # a broken install must not stop the others
        return f"{module} cannot be imported ({type(error).__name__}: {str(error)[:60]}); {remedy}"
    return None
