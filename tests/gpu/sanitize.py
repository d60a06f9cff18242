"""A small set of shapes for compute-sanitizer.

    compute-sanitizer --tool memcheck python tests/gpu/sanitize.py

Every kernel runs, split and not, with ragged tiles. PYTORCH_NO_CUDA_MEMORY_CACHING=1 gives each tensor an
allocation of its own, so that an access beyond it is seen.
"""

import os

import torch

from difnet_kernels import cascaded_random_walk


def main() -> None:
    """Forward and backward over the shapes."""
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    for dtype in (torch.bfloat16, torch.float32):
        for batch, nodes, width, classes in ((1, 1041, 64, 21), (300 if device == "cuda" else 2, 129, 20, 5)):
            generator = torch.Generator(device).manual_seed(0)
            feature = torch.randn(batch, nodes, width, device=device, generator=generator).to(dtype)
            state = torch.randn(batch, nodes, classes, device=device, generator=generator)
            half = torch.full((1,), 0.5, device=device)
            tensors = [x.requires_grad_() for x in (feature, state, half)]
            y = cascaded_random_walk([feature], state, half, half, backend="triton")
            y.square().sum().backward()
            assert all(torch.isfinite(x.grad).all() for x in tensors)
            print(f"{dtype}, B = {batch}, N = {nodes}, d = {width}, k = {classes}: ran")


if __name__ == "__main__":
    main()
