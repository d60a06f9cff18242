"""The argmax of an upsampled state, block by block."""

from collections.abc import Sequence

import torch
from torch import Tensor

from difnet.modeling.resampling import bilinear_matrix
from difnet_kernels.support.autocast import product

BLOCK = 256
"""Side of a block, in pixels."""


@torch.inference_mode()
def blockwise_labels(state: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return the argmax (H, W), uint8 on the CPU, of a state (1, k, h, w) upsampled to one size or two.

    `sizes` are that of the network's image and then, if a picture was resized to it, that of the picture. For
    more than 256 classes the result is int64.
    """
    height, width = sizes[-1]
    labels = torch.empty(height, width, dtype=torch.uint8 if state.shape[1] <= 256 else torch.int64)
    lengths = [[state.shape[axis - 2], *(size[axis] for size in sizes)] for axis in (0, 1)]
    dtype, device = state.dtype, state.device
    for left in range(0, width, BLOCK):
        right = min(left + BLOCK, width)
        column_weights, columns = _weights(lengths[1], range(left, right), dtype, device)
        strip = product(state[0, :, :, columns.start : columns.stop], column_weights.T)  # (k, h, block)
        for top in range(0, height, BLOCK):
            bottom = min(top + BLOCK, height)
            row_weights, rows = _weights(lengths[0], range(top, bottom), dtype, device)
            logits = product(row_weights, strip[:, rows.start : rows.stop])
            labels[top:bottom, left:right] = logits.argmax(0).to("cpu", labels.dtype)
    return labels


def _weights(
    lengths: Sequence[int], outputs: range, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, range]:
    """The weights of a part of an axis of `lengths[0]` pixels that is upsampled to each other length in turn.

    The result is a matrix with one row for each of `outputs`, and the input pixels of its columns.
    """
    weights: Tensor | None = None
    for after in range(len(lengths) - 1, 0, -1):
        n, m = lengths[after - 1], lengths[after]
        inputs = range(
            max(0, ((2 * outputs.start + 1) * n - m) // (2 * m)),
            min(n, ((2 * outputs.stop - 1) * n - m) // (2 * m) + 2),
        )
        matrix = bilinear_matrix(n, m, dtype=dtype, device=device, part=(outputs, inputs))
        weights = matrix if weights is None else product(weights, matrix)
        outputs = inputs
    assert weights is not None
    return weights, outputs
