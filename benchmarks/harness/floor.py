"""The floor: the time of our algorithm's products and exponentials at the rates of this machine.

The floor is not a lower bound. Another algorithm may do less work. Where our kernels round to bfloat16 they
do less work themselves: their exponential has degree 3 there, while the rate is that of an exponential with a
relative error of 1e-6 for every dtype. Loads, stores and all other instructions are not counted.

Work for each pair of nodes, with features of width d and k classes (docs/math.md, section 4). The row sum is
one more column of the product with the states:

    CPU, pairs of blocks   forward   d / 2 + k + 1 multiply-adds, 1/2 exponential (e_ij = e_ji)
                           backward  3 d / 2 + 2 k + 2 more, and 1/2
    GPU, row blocks        forward   d + k + 1 multiply-adds, 1 exponential
                           backward  2 d + 3 k + 2 more, and 1

Bytes are those that must be moved at least once: features and their gradients in their dtype; seed, state, z,
row sums and gradients of states in float32. In a CPU's vector units products and exponentials take turns, so
their times add up. Tiles (AMX) and GPUs have separate units for products, so the longer of the two times
counts.
"""

from typing import NamedTuple

import torch
from machine.rates import Rates

from harness.cases import FEATURE_WIDTH, FORWARD, Case


class Work(NamedTuple):
    """The work of a case. A multiply-add counts as two `flops`."""

    flops: float
    exponentials: float
    bytes: float


def count_work(case: Case, mode: str, dtype: torch.dtype, device: torch.device) -> Work:
    """Operations and bytes by the formulas above."""
    d, k = FEATURE_WIDTH, case.classes
    row_blocks = device.type != "cpu"
    multiply_adds = (d if row_blocks else d / 2) + k + 1
    exponentials = 1.0 if row_blocks else 0.5
    feature, value = d * dtype.itemsize, 4
    node_bytes = feature + 3 * k * value  # reads F, seed and y_t, writes y_{t+1}
    if mode != FORWARD:
        multiply_adds += 2 * d + 3 * k + 2 if row_blocks else 3 * d / 2 + 2 * k + 2
        exponentials *= 2
        node_bytes += (k + 1) * value  # the forward also writes z and the row sums
        # The backward reads F, y, z, row sums and g, and writes dF, dy and ds.
        node_bytes += 2 * feature + (5 * k + 1) * value
    nodes = case.walks * case.batch * case.nodes
    return Work(2 * multiply_adds * case.pairs, exponentials * case.pairs, node_bytes * nodes)


def floor_milliseconds(work: Work, rates: Rates) -> float:
    """The time of this work at these rates."""
    products, exponentials = work.flops / rates.flops, work.exponentials / rates.exponentials
    return 1e3 * (max(products, exponentials) if rates.apart else products + exponentials)
