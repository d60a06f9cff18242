"""Error of every backend against float64, beside that of PyTorch's eager form at the same precision.

    python benchmarks/accuracy.py                 # all backends that can run here
    python benchmarks/accuracy.py --nodes 1681 --backends blockwise

One row per backend, dtype and sharpness of the features: the error of the output and the largest error
of any gradient, each relative to the largest value of the truth, with the share of the budget they use
(difnet_kernels.testing; 100 % is the most that the tests allow). Ends with status 1 if one is over it.
"""

import argparse
import sys

import torch

from difnet_kernels import backends, testing

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    available = [status.name for status in backends() if status.available]
    parser.add_argument("--backends", nargs="+", choices=available, default=available)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--walks", type=int, default=2)
    options = parser.parse_args()

    print(f"B = {options.batch}, N = {options.nodes}, T = {options.walks}, d = 64, k = 21")
    header = (
        "backend",
        "dtype",
        "features",
        "diag(P)",
        "output",
        "eager",
        "budget",
        "worst gradient",
        "eager",
    )
    widths = (10, 9, 9, 8, 9, 9, 7, 26, 9)
    print("  ".join(f"{name:<{width}}" for name, width in zip(header, widths, strict=True)), "  budget")
    failed = False
    for sharpness in testing.SHARPNESS:
        inputs = testing.make_inputs(options.batch, options.nodes, 64, 21, options.walks, sharpness)
        diagonal = testing.self_weight(inputs.features[0])
        for dtype in options.dtypes:
            for backend in options.backends:
                output, *gradients = testing.measure_errors(inputs, DTYPES[dtype], backend)
                worst = max(gradients, key=lambda error: error.ours / error.allowed)
                failed |= not (output.within and worst.within)
                cells = (
                    backend,
                    dtype,
                    sharpness,
                    f"{diagonal:.3f}",
                    f"{output.ours:.1e}",
                    f"{output.eager:.1e}",
                    f"{output.ours / output.allowed:.0%}",
                    f"{worst.ours:.1e} ({worst.name})",
                    f"{worst.eager:.1e}",
                    f"{worst.ours / worst.allowed:.0%}",
                )
                print("  ".join(f"{x:<{w}}" for x, w in zip(cells, (*widths, 6), strict=True)), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
