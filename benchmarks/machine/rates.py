"""The rates of this machine's arithmetic units: multiply-adds and exponentials per second, on all threads.

On a CPU peak.cpp measures them in registers. Without a C++ compiler, and on a GPU, a large matrix product of
PyTorch stands in for it.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from machine.timing import time_interleaved

SOURCE = Path(__file__).parent / "peak.cpp"
NATIVE_FLAGS = ("-march=native", "-mcpu=native")
"""The first that the compiler accepts is used: some compilers for ARM know only the second."""
FLAGS_OF_LIMITS = {
    "avx2": "-mavx2 -mfma",
    "avx512": "-mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma",
    "portable": "",
}
"""Flags for a CPU whose instructions DIFNET_CPU_ISA limits."""
COMPILERS = ("c++", "g++", "clang++")
BFLOAT16_RATES = {"dot_bf16": "bfloat16 dot products", "tiles_bf16": "bfloat16 tiles"}
"""Names that peak.cpp prints for rates of bfloat16 products, and what they are."""


class Rates(NamedTuple):
    """Operations per second, and where the numbers come from.

    `apart` is true where products and exponentials run at the same time, in different units.
    """

    flops: float
    exponentials: float
    source: str
    apart: bool = False


def measure_rates(device: torch.device, dtype: torch.dtype, precision: str) -> Rates:
    """Rates for products of `dtype` features at a float32 precision, on PyTorch's number of threads."""
    return _measure_rates(device, dtype, precision, torch.get_num_threads())


@cache
def _measure_rates(device: torch.device, dtype: torch.dtype, precision: str, threads: int) -> Rates:
    if device.type != "cpu":
        return _gpu_rates(device, dtype)
    peaks = measure_cpu_peaks(threads)
    if isinstance(peaks, str):
        rates = _rates_of_torch(device, dtype)
        return rates._replace(source=f"a large torch product ({peaks})")
    return fastest_rates(peaks, dtype, precision)


def fastest_rates(peaks: dict[str, float], dtype: torch.dtype, precision: str) -> Rates:
    """Choose from the CPU's peaks the fastest products that our kernels may use for such features.

    A product of bfloat16 features, or of float32 features at "medium", is one bfloat16 product. At "high" it
    is three, because each operand is split into two bfloat16 terms. At "highest", and for float16, it is not
    computed in bfloat16.
    """
    setting = "medium" if dtype == torch.bfloat16 else precision if dtype == torch.float32 else "highest"
    rates = {"multiply-adds": peaks["fma"]}
    if products_per_product := {"medium": 1, "high": 3}.get(setting):
        rates |= {
            text: peaks[name] / products_per_product for name, text in BFLOAT16_RATES.items() if name in peaks
        }
    fastest = max(rates, key=rates.__getitem__)
    source = f"{fastest} and exp in registers, all threads"
    return Rates(rates[fastest], peaks["exp"], source, apart=fastest == BFLOAT16_RATES["tiles_bf16"])


@cache
def measure_cpu_peaks(threads: int) -> dict[str, float] | str:
    """Compile peak.cpp for this CPU, run it, and return its rates by name; or the reason why that failed."""
    compiler = shlex.split(os.environ.get("CXX", "")) or [c for c in COMPILERS if shutil.which(c)][:1]
    if not compiler:
        return "no C++ compiler was found"
    reason = "it does not compile"
    with tempfile.TemporaryDirectory(prefix="peak-") as folder:
        program = Path(folder) / "peak"
        limit = FLAGS_OF_LIMITS.get(os.environ.get("DIFNET_CPU_ISA", ""))
        for flags in NATIVE_FLAGS if limit is None else (limit,):
            options = ["-O3", *flags.split(), "-ffp-contract=fast", "-std=c++17", "-pthread"]
            try:
                built = subprocess.run(
                    [*compiler, *options, str(SOURCE), "-o", str(program)], capture_output=True, timeout=120
                )
                if built.returncode != 0:
                    continue
                ran = subprocess.run([str(program), str(threads)], capture_output=True, text=True, timeout=60)
            except (OSError, subprocess.TimeoutExpired) as error:
                return f"peak.cpp: {error}"
            if ran.returncode == 0:
                return {name: float(rate) for name, rate in map(str.split, ran.stdout.splitlines())}
            reason = f"it ends with status {ran.returncode}"
    return f"peak.cpp: {reason} with {shlex.join(compiler)}"


def _rates_of_torch(device: torch.device, dtype: torch.dtype) -> Rates:
    """Rates of torch.exp and of a large product, in `dtype` or in float32, whichever is faster."""
    size = 1024 if device.type == "cpu" else 8192
    single = torch.randn(size, size, device=device)
    a = single.to(dtype)
    x = torch.randn(2**18, device=device)
    out = torch.empty_like(x)
    calls: dict[str, Callable[[], object]] = {
        "product": lambda: a @ a,
        "single": lambda: single @ single,
        "exp": lambda: torch.exp(x, out=out),
    }
    for call in calls.values():
        call()
    times = time_interleaved(calls, 1.0, device)
    seconds = 1e-3 * min(times["product"].lower, times["single"].lower)
    exponentials = x.numel() / (1e-3 * times["exp"].lower)
    return Rates(2 * size**3 / seconds, exponentials, "a large torch product", apart=device.type != "cpu")


def _gpu_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rate of a large product, and 16 exponentials a clock and multiprocessor."""
    rates = _rates_of_torch(device, dtype)
    properties = torch.cuda.get_device_properties(device)
    clock = getattr(properties, "clock_rate", 0)  # kHz
    if not clock:
        return rates
    exponentials = 16e3 * clock * properties.multi_processor_count
    return rates._replace(
        exponentials=exponentials, source="a large torch product; 16 exp a clock and multiprocessor"
    )
