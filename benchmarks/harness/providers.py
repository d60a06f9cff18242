"""The providers: our backends and every rival, each as a function from the same inputs to the state y_T.

A rival computes z = softmax(F F^T) y. The update around it is the same PyTorch code for all rivals.
"""

import getpass
import importlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from pathlib import Path
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
from harness.builds import load, reason_missing
from harness.cases import FORWARD
from harness.truth import Results, compute_results, with_gradients

os.environ.setdefault("PYKEOPS_VERBOSE", "0")
if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
    # torch.compile keeps its code for other processes, also for those of other instruction sets (findings/
    # torch-compile-cache-of-another-capability.sh).
    cache_of_capability = Path(tempfile.gettempdir()) / f"inductor-{getpass.getuser()}-{capability}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_of_capability))
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # silences "no CUDA runtime is found"
ISA_VARIABLE = "DIFNET_CPU_ISA"
Transition = Callable[[Tensor, Tensor], Tensor]
"""softmax(F F^T) y, from F (B, N, d) and y (B, N, k)."""


class Provider(NamedTuple):
    """A way to compute the cascade.

    Attributes:
        name: as shown in the tables.
        run: the function.
        ours: whether it is one of our backends.
        unavailable: why it cannot run here, or None.
        compiles: whether the first call with new sizes takes seconds.
        isa: the instruction set that it is restricted to, or None.
        default: whether it is the backend that is chosen if none is named.
        before: whether it is `native` of an earlier commit.
    """

    name: str
    run: Callable[[Inputs], Tensor]
    ours: bool = False
    unavailable: str | None = None
    compiles: bool = False
    isa: str | None = None
    default: bool = False
    before: bool = False


def precisions_that_differ(device: torch.device, precisions: Sequence[str]) -> list[str]:
    """The float32 precisions with which eager PyTorch gives other bits here than with the first of them."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(1, 2048, 64, generator=generator).to(device)
    before = torch.get_float32_matmul_precision()
    different: dict[str, Tensor] = {}
    for precision in precisions:
        torch.set_float32_matmul_precision(precision)
        z = torch.softmax(0.1 * feature @ feature.mT, dim=-1) @ feature[..., :21]
        if not any(torch.equal(z, other) for other in different.values()):
            different[precision] = z
    torch.set_float32_matmul_precision(before)
    return list(different)[1:]


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU reports instructions for bfloat16 products. PyTorch is slow on one that has none."""
    return "bf16" in cpu_description()


def make_call(provider: Provider, inputs: Inputs, mode: str) -> Callable[[], Results]:
    """The call that is timed: forward, or forward and backward of half the output's sum of squares."""
    arguments = inputs if mode == FORWARD else with_gradients(inputs)

    def call() -> Results:
        with _restrict_instruction_set(provider.isa):
            return compute_results(provider.run, arguments, mode)

    return call


@contextmanager
def _restrict_instruction_set(isa: str | None) -> Iterator[None]:
    previous = os.environ.get(ISA_VARIABLE)
    if isa is not None:
        os.environ[ISA_VARIABLE] = isa
    try:
        yield
    finally:
        if isa is not None:
            os.environ.pop(ISA_VARIABLE)
            os.environ |= {} if previous is None else {ISA_VARIABLE: previous}


def list_providers(
    device: torch.device, isas: Sequence[str] = ("best",), before: str | None = None
) -> list[Provider]:
    """All providers. One that cannot run here has the reason in `unavailable`.

    Args:
        device: where the inputs are.
        isas: instruction sets of `native`. "best" is the one it chooses itself, "all" adds all others that
            can run here; or names.
        before: a commit whose `native` is a provider too.
    """
    providers = []
    for backend in backends():
        if backend.name == "reference":
            continue
        reason = reason_unavailable(backend.name, device) if backend.available else backend.reason
        providers.append(
            Provider(
                f"difnet {backend.name}",
                partial(_run_ours, backend.name),
                ours=True,
                unavailable=reason,
                default=backend.name == choose(None, device),
            )
        )
        if backend.name == "native":
            names = instruction_sets()[1:] if "all" in isas else [isa for isa in isas if isa != "best"]
            run = partial(_run_ours, "native")
            providers += [
                Provider(f"difnet native, {isa}", run, ours=True, unavailable=reason, isa=isa)
                for isa in names
            ]
            if before is not None:
                reason = reason or reason_missing(before)
                run = partial(_run_before, before)
                name = f"difnet native before ({before})"
                providers.append(Provider(name, run, ours=True, unavailable=reason, before=True))
    providers += [
        Provider("eager", _run_eager),
        Provider("eager, compiled", _run_eager_compiled, compiles=True),
    ]
    for name in _sdpa_backends(device):
        label = f"SDPA {name.removesuffix('_ATTENTION').lower()}"
        plain, padded = (partial(_run_rival, partial(_sdpa, name, padded)) for padded in (False, True))
        providers += [Provider(label, plain), Provider(f"{label}, padded v", padded)]
    providers += [
        Provider("FlexAttention, compiled", partial(_run_rival, _flex_attention), compiles=True),
        Provider(
            "KeOps",
            partial(_run_rival, _keops),
            unavailable=_import_failure("pykeops", "pip install pykeops"),
        ),
        Provider(
            "FlashAttention 4, k padded to 8",
            partial(_run_rival, _flash_attention_4),
            unavailable="needs a CUDA device"
            if device.type != "cuda"
            else _import_failure("flash_attn.cute", "pip install flash-attn-4"),
        ),
    ]
    return providers


RIVALS_OF_SPEED = ("eager", "SDPA math", "SDPA flash", "SDPA flash, padded v")
"""The rivals that are the fastest on CPUs in float32, and need no compiler."""


def in_native_speed(provider: Provider) -> bool:
    """Whether native-speed measures a provider: the default backend, earlier kernels, fast rivals."""
    return provider.default or provider.before or provider.name in RIVALS_OF_SPEED


def reason_unavailable(backend: str, device: torch.device) -> str | None:
    """Why one of our backends cannot run on tensors on `device`, or None."""
    try:
        choose(backend, device)
    except BackendError as error:
        return str(error)
    return None


def reset_compiler() -> None:
    """Make torch.compile start anew. After eight sizes of inputs it would fall back to eager silently."""
    torch.compiler.reset()


def _run_ours(backend: str, x: Inputs) -> Tensor:
    y = cascaded_random_walk(x.features, x.seed, x.mu, x.beta, backend=backend)
    assert isinstance(y, Tensor)
    return y


def _run_before(commit: str, x: Inputs) -> Tensor:
    return load(commit).cascaded_random_walk(x.features, x.seed, x.mu, x.beta, backend="native")


def _run_rival(transition: Transition, x: Inputs) -> Tensor:
    y = x.seed
    for feature, mu, beta in zip(x.features, x.mu, x.beta, strict=True):
        z = transition(feature, y.to(feature.dtype)).to(y.dtype)
        y = y.lerp(x.seed.lerp(z, mu), beta)
    return y


def _run_eager(x: Inputs) -> Tensor:
    return _run_rival(lambda feature, y: torch.softmax(feature @ feature.mT, dim=-1) @ y, x)


@cache
def _compiled_eager() -> Callable[[Inputs], Tensor]:
    return torch.compile(_run_eager, dynamic=False)


def _run_eager_compiled(x: Inputs) -> Tensor:
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
def _compiled_flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex_attention(feature: Tensor, y: Tensor) -> Tensor:
    query = feature[:, None]
    return _compiled_flex_attention()(query, query, y[:, None].contiguous(), scale=1.0)[:, 0]


def _keops(feature: Tensor, y: Tensor) -> Tensor:
    lazy = _import_silently("pykeops.torch").LazyTensor
    scores = (lazy(feature[:, :, None]) * lazy(feature[:, None])).sum(-1)
    return scores.sumsoftmaxweight(lazy(y[:, None].contiguous()), dim=2)


def _flash_attention_4(feature: Tensor, y: Tensor) -> Tensor:
    attention = importlib.import_module("flash_attn.cute").flash_attn_func
    k = y.shape[-1]
    value = functional.pad(y, (0, -k % 8))[:, :, None]
    z = attention(feature[:, :, None], feature[:, :, None], value, softmax_scale=1.0)
    return (z[0] if isinstance(z, tuple) else z)[:, :, 0, :k]


def _import_silently(module: str) -> Any:
    with redirect_stdout(io.StringIO()):  # KeOps prints that there is no CUDA
        return importlib.import_module(module)


def _import_failure(module: str, remedy: str) -> str | None:
    """Why a module cannot be imported, or None."""
    try:
        _import_silently(module)
    except Exception as error:  # a broken installation can raise anything
        return f"{module} cannot be imported ({type(error).__name__}: {str(error)[:60]}); {remedy}"
    return None
