"""Time of a cascade, forward and forward with backward, beside what one would write with PyTorch.

    python benchmarks/bench_gpu.py                          # three sizes, all backends and rivals that can
    run here python benchmarks/bench_gpu.py --cases inference --dtypes bfloat16 --seconds 0.2
    python benchmarks/bench_gpu.py --append benchmarks/results/walks.jsonl

Medians. On a GPU the time is that of replays of a CUDA graph (launches cost nothing there), or of plain
calls where a rival cannot be captured. Inputs are random and differ from case to case. Every candidate's
output is checked against float64 on sampled rows first; its error is in its row. Rows that ran out of memory
say so.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from difnet_kernels import backends, cascaded_random_walk
from difnet_kernels.testing import eager_cascade


class Case(NamedTuple):
    """Sizes of a cascade."""

    batch: int
    nodes: int
    walks: int
    width: int = 64
    classes: int = 21


CASES = {
    "inference": Case(1, 4096, 5),
    "training": Case(16, 1681, 5),
    "full": Case(1, 255_025, 1),
    "tiny": Case(1, 150, 1),
}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Inputs(NamedTuple):
    """Arguments of a candidate."""

    features: list[Tensor]
    seed: Tensor
    mu: Tensor
    beta: Tensor


def sdpa_cascade(features: list[Tensor], seed: Tensor, mu: Tensor, beta: Tensor) -> Tensor:
    """scaled_dot_product_attention with the state zero-padded to the features' width: its fast kernels."""
    y = seed
    for t, f in enumerate(features):
        v = pad(y.to(f.dtype), (0, f.shape[-1] - y.shape[-1]))
        q = f.unsqueeze(1)
        z = scaled_dot_product_attention(q, q, v.unsqueeze(1), scale=1.0)[:, 0, :, : y.shape[-1]].to(y.dtype)
        y = y.lerp(seed.lerp(z, mu[t]), beta[t])
    return y


def candidates() -> dict[str, Callable[..., Any]]:
    """Functions of `Inputs` by name."""

    def ours(name: str) -> Callable[..., Any]:
        return lambda *inputs: cascaded_random_walk(*inputs, backend=name)

    table = {s.name: ours(s.name) for s in backends() if s.available and s.name != "reference"}
    return {**table, "eager": eager_cascade, "sdpa padded": sdpa_cascade}


def make_inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Features whose P is neither flat nor the identity, with a common mean as after a max pool."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    features = [(1.5 + 0.4 * normal(case.batch, case.nodes, case.width)).to(dtype) for _ in range(case.walks)]
    half = torch.full((case.walks,), 0.5, device=device)
    return Inputs(features, normal(case.batch, case.nodes, case.classes), half, half.clone())


def error_of(output: Tensor, inputs: Inputs, case: Case) -> float | None:
    """Largest error relative to the truth's largest value; None where it is not known."""
    features, seed, mu, beta = inputs
    if case.walks == 1:
        rows = torch.arange(0, case.nodes, max(1, case.nodes // 64), device=seed.device)
        f, s = features[0][0].double(), seed[0].double()
        z = torch.softmax(f[rows] @ f.mT, dim=-1) @ s
        truth, output = s[rows].lerp(s[rows].lerp(z, mu[0].double()), beta[0].double()), output[0, rows]
    elif case.nodes <= 5000:
        truth = eager_cascade(
            [f[:1].double() for f in features], seed[:1].double(), mu.double(), beta.double()
        )
        output = output[:1]
    else:
        return None
    return ((output.double() - truth).abs().max() / truth.abs().max()).item()


def median_ms(function: Callable[[], Any], device: torch.device, seconds: float) -> tuple[float, str]:
    """Median time of a call in milliseconds, and how it was taken."""
    if device.type != "cuda":
        function()
        times = []
        while sum(times) < seconds or len(times) < 3:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times), "calls"
    call, how = function, "calls"
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        call, how = graph.replay, "graph"
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
    from triton.testing import do_bench

    return do_bench(call, warmup=100, rep=int(1000 * seconds), return_mode="median"), how


def environment(device: torch.device) -> dict[str, Any]:
    """What a row of results is worth nothing without."""

    def output(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if device.type == "cuda"
        else "none",
        "torch": torch.__version__,
        "triton": triton_version,
        "commit": output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(
    name: str, function: Callable[..., Any], case: Case, inputs: Inputs, seconds: float
) -> dict[str, Any]:
    """One row: times and error of a candidate, or why there are none."""
    device = inputs.seed.device
    try:
        with torch.no_grad():
            error = error_of(function(*inputs), inputs, case)
            forward, how = median_ms(lambda: function(*inputs), device, seconds)
        for tensor in (*inputs.features, *inputs[1:]):
            tensor.requires_grad_()
        tensors, weight = [*inputs.features, *inputs[1:]], torch.randn_like(inputs.seed)
        both, how_both = median_ms(
            lambda: torch.autograd.grad(function(*inputs), tensors, weight), device, seconds
        )
    except torch.OutOfMemoryError:
        return {"candidate": name, "failed": "out of memory"}
    except RuntimeError as error:
        return {"candidate": name, "failed": str(error).splitlines()[0][:120]}
    return {
        "candidate": name, "forward_ms": forward, "forward_timed": how, "both_ms": both, "both_timed":
        how_both, "error": error,
    }  # fmt: skip


def main() -> int:
    """Print the table, and append rows where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["inference", "training", "full"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
    parser.add_argument("--precisions", nargs="+", default=["highest", "high", "medium"], help="of float32")
    parser.add_argument("--candidates", nargs="+", default=None)
    parser.add_argument("--seconds", type=float, default=0.5, help="of timing, a number")
    parser.add_argument("--append", type=Path, default=None, help="JSON lines to add rows to")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = environment(device)
    print(", ".join(f"{k} {v}" for k, v in where.items()))
    print(
        f"{'case':11}{'dtype':10}{'precision':10}{'candidate':13}{'forward ms':>12}{'both ms':>12}"
        f"{'error':>10}"
    )
    rows = []
    for case_name in options.cases:
        case = CASES[case_name]
        for dtype in options.dtypes:
            for precision in options.precisions if dtype == "float32" else ["highest"]:
                torch.set_float32_matmul_precision(precision)
                for name, function in candidates().items():
                    if options.candidates and name not in options.candidates:
                        continue
                    if case.nodes > 100_000 and name in ("eager", "blockwise"):
                        continue  # 242 GiB of P; minutes
                    inputs = make_inputs(case, DTYPES[dtype], device)
                    row = measure(name, function, case, inputs, options.seconds)
                    rows.append(
                        {"case": case_name, **case._asdict(), "dtype": dtype, "precision": precision}
                        | row
                        | where
                    )
                    numbers = [row.get(x) for x in ("forward_ms", "both_ms", "error")]
                    cells = [
                        f"{x:{w}}" if x is not None else f"{'-':>{w[:2]}}"
                        for x, w in zip(numbers, ("12.3f", "12.3f", "10.1e"), strict=True)
                    ]
                    print(
                        f"{case_name:11}{dtype:10}{precision:10}{name:13}{''.join(cells)}"
                        f"  {row.get('failed', '')}",
                        flush=True,
                    )
    if options.append:
        options.append.parent.mkdir(parents=True, exist_ok=True)
        with options.append.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    ours = [row for row in rows if row["candidate"] not in ("eager", "sdpa padded")]
    return int(any("failed" in row for row in ours))


if __name__ == "__main__":
    sys.exit(main())
