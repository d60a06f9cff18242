"""A small walk for compute-sanitizer, which slows kernels down ten to a hundred times.

    compute-sanitizer --tool memcheck python tests/gpu/sanitize.py

Every kernel runs, split and unsplit, with a node bias and with numbers of nodes, columns and classes that do
not fill their tiles. The split is set here, because otherwise it depends on how many programs fit the GPU.
PYTORCH_NO_CUDA_MEMORY_CACHING=1 gives each tensor an allocation of its own, so that an access beyond it is
noticed.
"""

import os

import torch

from difnet_kernels import cascaded_random_walk
from difnet_kernels.triton import tiles

BATCH, NODES, WIDTH, CLASSES = 3, 300, 50, 21


def main() -> None:
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    for dtype in (torch.bfloat16, torch.float32):
        for splits in (1, 2):
            tiles.splits = lambda programs, tile_count, slots, splits=splits: min(splits, tile_count)
            generator = torch.Generator(device).manual_seed(0)
            feature = torch.randn(BATCH, NODES, WIDTH, device=device, generator=generator).to(dtype)
            state = torch.randn(BATCH, NODES, CLASSES, device=device, generator=generator)
            bias = torch.randn(BATCH, NODES, device=device, generator=generator)
            half = torch.full((1,), 0.5, device=device)
            tensors = [x.requires_grad_() for x in (feature, state, half, bias)]
            y = cascaded_random_walk([feature], state, half, half, node_bias=bias, backend="triton")
            y.square().sum().backward()
            assert all(torch.isfinite(x.grad).all() for x in tensors)
            print(f"{dtype}, {splits} programs per block of rows: ran", flush=True)


if __name__ == "__main__":
    main()
