"""The work of our algorithm at the rates of this machine's registers, measured in the same run.

It is no bound: another algorithm may do less work, and where numbers are rounded to bfloat16 ours does less
itself, with an exponential of degree 3, while the rate is that of one right to 1e-6 for every dtype. Left out
are loads, stores and whatever is neither product nor exponential.

Counts for each pair of nodes, with d wide features and k classes (docs/math.md, section 4); the row sum is
one more column of the product with the states:

    CPU, pairs of blocks   forward   d / 2 + k + 1 multiply-adds, 1/2 exponential (e_ij = e_ji)
                           backward  3 d / 2 + 2 k + 2 more, and 1/2
    GPU, row blocks        forward   d + k + 1 multiply-adds, 1 exponential
                           backward  2 d + 3 k + 2 more, and 1

Bytes are those that it moves at least once: features and their gradients in their dtype; seed, state, z, row
sums and gradients of states in float32. In a CPU's vector units products and exponentials take turns, so that
their times add up; tiles (AMX) and GPUs have units of their own for products, and the longer counts.
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
from harness.cases import FORWARD, WIDTH, Case

from machine.timing import interleaved

SOURCE = Path(__file__).parent / "peak.cpp"
FLAGS = ("-march=native", "-mcpu=native")
COMPILERS = ("c++", "g++", "clang++")


class Counts(NamedTuple):
    """The work of a case. A multiply-add is two of `flops`."""

    flops: float
    exponentials: float
    bytes: float


class Rates(NamedTuple):
    """What this machine does per second; `source` says how that was found out.

    `apart`: products have a unit of their own, which runs beside the one for exponentials.
    """

    flops: float
    exponentials: float
    source: str
    apart: bool = False


def counts(case: Case, mode: str, dtype: torch.dtype, device: torch.device) -> Counts:
    """Operations and bytes by the formulas above."""
    d, k = WIDTH, case.classes
    row_blocks = device.type != "cpu"
    multiply_adds = (d if row_blocks else d / 2) + k + 1
    exponentials = 1.0 if row_blocks else 0.5
    feature, value = d * dtype.itemsize, 4
    node_bytes = feature + 3 * k * value  # F, seed and y_t in, y_{t+1} out
    if mode != FORWARD:
        multiply_adds += 2 * d + 3 * k + 2 if row_blocks else 3 * d / 2 + 2 * k + 2
        exponentials *= 2
        node_bytes += (k + 1) * value  # z and row sums out
        node_bytes += 2 * feature + (5 * k + 1) * value  # F, y, z, sums and g in; dF, dy and ds out
    nodes = case.walks * case.batch * case.nodes
    return Counts(2 * multiply_adds * case.pairs, exponentials * case.pairs, node_bytes * nodes)


def floor_milliseconds(counted: Counts, rates: Rates) -> float:
    """The time of this work at these rates."""
    products, exponentials = counted.flops / rates.flops, counted.exponentials / rates.exponentials
    return 1e3 * (max(products, exponentials) if rates.apart else products + exponentials)


@cache
def calibrate(device: torch.device, dtype: torch.dtype, precision: str) -> Rates:
    """Rates for products of `dtype` features at a float32 precision."""
    if device.type != "cpu":
        return _calibrate_gpu(device, dtype)
    found = cpu_peak(torch.get_num_threads())
    if isinstance(found, str):
        rates = _calibrate_product(device, dtype)
        return rates._replace(source=f"a large torch product ({found})")
    return fastest(found, dtype, precision)


# The name of a rate of bfloat16 products, and what it stands for.
PRODUCTS = {"dot_bf16": "bfloat16 dot products", "tiles_bf16": "bfloat16 tiles"}


def fastest(found: dict[str, float], dtype: torch.dtype, precision: str) -> Rates:
    """The rates of `cpu_peak` with the fastest products that our kernels may use for such features.

    One bfloat16 product for each of bfloat16, or of float32 at "medium"; three at "high", for operands of two
    parts; none at "highest", nor for float16.
    """
    setting = "medium" if dtype == torch.bfloat16 else precision if dtype == torch.float32 else "highest"
    rates = {"multiply-adds": found["fma"]}
    if parts := {"medium": 1, "high": 3}.get(setting):
        rates |= {text: found[name] / parts for name, text in PRODUCTS.items() if name in found}
    products = max(rates, key=rates.__getitem__)
    source = f"{products} and exp in registers, all threads"
    return Rates(rates[products], found["exp"], source, apart=products == PRODUCTS["tiles_bf16"])


@cache
def cpu_peak(threads: int) -> dict[str, float] | str:
    """Rates by name from peak.cpp, compiled for this CPU; or the reason why there are none."""
    compiler = shlex.split(os.environ.get("CXX", "")) or [c for c in COMPILERS if shutil.which(c)][:1]
    if not compiler:
        return "no C++ compiler was found"
    reason = "it does not compile"
    with tempfile.TemporaryDirectory(prefix="peak-") as folder:
        program = Path(folder) / "peak"
        for native in FLAGS:
            options = ["-O3", native, "-ffp-contract=fast", "-std=c++17", "-pthread"]
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


def _calibrate_product(device: torch.device, dtype: torch.dtype) -> Rates:
    """Rates of a large matrix product, in `dtype` or float32, whichever is faster, and of exp."""
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
    times = interleaved(calls, 1.0, device)
    seconds = 1e-3 * min(times["product"].lower, times["single"].lower)
    exponentials = x.numel() / (1e-3 * times["exp"].lower)
    return Rates(2 * size**3 / seconds, exponentials, "a large torch product", apart=device.type != "cpu")


def _calibrate_gpu(device: torch.device, dtype: torch.dtype) -> Rates:
    """A large product; exponentials by the unit that makes 16 a clock and multiprocessor."""
    rates = _calibrate_product(device, dtype)
    properties = torch.cuda.get_device_properties(device)
    clock = getattr(properties, "clock_rate", 0)  # kHz
    if not clock:
        return rates
    exponentials = 16e3 * clock * properties.multi_processor_count
    return rates._replace(
        exponentials=exponentials, source="a large torch product; 16 exp a clock and multiprocessor"
    )
