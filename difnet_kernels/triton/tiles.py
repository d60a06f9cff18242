"""Block sizes, the only place where they are. Number of nodes and batch are no keys: they vary from call to call.

An entry is (BLOCK_I, BLOCK_J, num_warps, num_stages): rows a program owns, columns of a tile, warps of a program,
depth of the software pipeline. Keys are kernel, dtype class, D, K, architecture, where D and K are the padded
widths of features and states and the dtype class is "16" (bfloat16, float16), "tf32", "fp32" or "fp64".
"""

from typing import NamedTuple


class Tile(NamedTuple):
    """Shape of a tile and how it is scheduled."""

    block_i: int
    block_j: int
    num_warps: int
    num_stages: int


def choose(kernel: str, dtype: str, d: int, k: int, architecture: str) -> Tile:
    if dtype == "fp64":
        return Tile(16, 16, 4, 1)
    return Tile(64, 64, 4, 2)
