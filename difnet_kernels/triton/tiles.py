"""The tile sizes of the sweeps.

A key consists of kernel, dtype class, D, K and architecture. D and K are padded widths of features and states
(pack.py); the dtype class is "16" (bfloat16, float16), "tf32", "tf32x3", "fp32" or "fp64". Widths between
those of two rows use the next larger row. The number of nodes and the batch size are not part of the key,
because they vary from call to call.

Rows come from the static ranking of tools/aot_report.py --candidates. tools/tune_tiles.py replaces a row by a
measured one, with the device and the date in a comment.
"""

from typing import NamedTuple


class Tile(NamedTuple):
    """How one sweep is cut and compiled."""

    block_i: int  # rows of a program
    block_j: int  # columns of a tile
    num_warps: int
    num_stages: int  # of the pipeline
    resident: int  # programs that run on a multiprocessor at once


Key = tuple[str, str, int, int, str]

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "gfx942")
# Widths (D, K) of the rows, by dtype class. Features and states wider than the last pair are processed in
# chunks of its widths.
WIDTHS = {
    "16": ((64, 32), (64, 64), (128, 128)),
    "tf32": ((64, 32), (64, 64)),
    "tf32x3": ((64, 32), (64, 64)),
    "fp32": ((64, 32), (64, 64)),
    "fp64": ((64, 64),),
}

# Architectures that use the rows of another one until they have their own.
ALIASES = {"sm_89": "sm_86"}
# Architectures whose rows serve GPUs that the table does not list. sm_86 has the least shared memory of
# NVIDIA's and no wgmma, so its tiles fit.
_FALLBACK = {"sm": "sm_86", "gfx": "gfx942"}

# fmt: off
_TABLE: dict[Key, Tile] = {
    ("walk_forward", "16", 64, 32, "sm_80"): Tile(128, 128, 8, 2, 1),
    ("walk_forward", "16", 64, 64, "sm_80"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "16", 128, 128, "sm_80"): Tile(64, 32, 8, 2, 1),
    ("walk_forward", "tf32", 64, 32, "sm_80"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "tf32x3", 64, 32, "sm_80"): Tile(32, 32, 4, 2, 3),
    ("walk_forward", "tf32", 64, 64, "sm_80"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "tf32x3", 64, 64, "sm_80"): Tile(32, 32, 4, 2, 3),
    ("walk_forward", "fp32", 64, 32, "sm_80"): Tile(64, 32, 8, 2, 2),
    ("walk_forward", "fp32", 64, 64, "sm_80"): Tile(64, 32, 8, 2, 1),
    ("walk_backward", "16", 64, 32, "sm_80"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "16", 64, 64, "sm_80"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "16", 128, 128, "sm_80"): Tile(64, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 32, "sm_80"): Tile(64, 32, 4, 2, 2),
    ("walk_backward", "tf32x3", 64, 32, "sm_80"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 64, "sm_80"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "tf32x3", 64, 64, "sm_80"): Tile(16, 32, 4, 1, 2),
    ("walk_backward", "fp32", 64, 32, "sm_80"): Tile(32, 32, 8, 2, 3),
    ("walk_backward", "fp32", 64, 64, "sm_80"): Tile(32, 32, 8, 2, 3),
    ("walk_forward", "16", 64, 32, "sm_86"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "16", 64, 64, "sm_86"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "16", 128, 128, "sm_86"): Tile(64, 32, 8, 2, 1),
    ("walk_forward", "tf32", 64, 32, "sm_86"): Tile(32, 32, 4, 2, 4),
    ("walk_forward", "tf32x3", 64, 32, "sm_86"): Tile(32, 32, 4, 2, 2),
    ("walk_forward", "tf32", 64, 64, "sm_86"): Tile(32, 32, 4, 2, 3),
    ("walk_forward", "tf32x3", 64, 64, "sm_86"): Tile(32, 32, 4, 2, 2),
    ("walk_forward", "fp32", 64, 32, "sm_86"): Tile(64, 32, 8, 2, 2),
    ("walk_forward", "fp32", 64, 64, "sm_86"): Tile(64, 32, 8, 2, 2),
    ("walk_backward", "16", 64, 32, "sm_86"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "16", 64, 64, "sm_86"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "16", 128, 128, "sm_86"): Tile(64, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 32, "sm_86"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "tf32x3", 64, 32, "sm_86"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 64, "sm_86"): Tile(16, 32, 4, 1, 2),
    ("walk_backward", "tf32x3", 64, 64, "sm_86"): Tile(16, 32, 4, 1, 2),
    ("walk_backward", "fp32", 64, 32, "sm_86"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "fp32", 64, 64, "sm_86"): Tile(32, 32, 8, 2, 1),
    ("walk_forward", "16", 64, 32, "sm_90"): Tile(128, 64, 8, 3, 2),
    ("walk_forward", "16", 64, 64, "sm_90"): Tile(128, 128, 8, 2, 1),
    ("walk_forward", "16", 128, 128, "sm_90"): Tile(64, 64, 4, 2, 2),
    ("walk_forward", "tf32", 64, 32, "sm_90"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "tf32x3", 64, 32, "sm_90"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "tf32", 64, 64, "sm_90"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "tf32x3", 64, 64, "sm_90"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "fp32", 64, 32, "sm_90"): Tile(64, 32, 8, 2, 2),
    ("walk_forward", "fp32", 64, 64, "sm_90"): Tile(64, 64, 8, 2, 1),
    ("walk_backward", "16", 64, 32, "sm_90"): Tile(128, 64, 8, 3, 1),
    ("walk_backward", "16", 64, 64, "sm_90"): Tile(128, 64, 8, 2, 1),
    ("walk_backward", "16", 128, 128, "sm_90"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 32, "sm_90"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "tf32x3", 64, 32, "sm_90"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 64, "sm_90"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "tf32x3", 64, 64, "sm_90"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "fp32", 64, 32, "sm_90"): Tile(32, 32, 4, 2, 3),
    ("walk_backward", "fp32", 64, 64, "sm_90"): Tile(32, 32, 4, 2, 3),
    ("walk_forward", "16", 64, 32, "sm_100"): Tile(128, 64, 8, 2, 2),
    ("walk_forward", "16", 64, 64, "sm_100"): Tile(64, 64, 8, 2, 2),
    ("walk_forward", "16", 128, 128, "sm_100"): Tile(32, 64, 8, 2, 2),
    ("walk_forward", "tf32", 64, 32, "sm_100"): Tile(32, 32, 4, 2, 4),
    ("walk_forward", "tf32x3", 64, 32, "sm_100"): Tile(32, 32, 4, 2, 2),
    ("walk_forward", "tf32", 64, 64, "sm_100"): Tile(32, 32, 4, 2, 4),
    ("walk_forward", "tf32x3", 64, 64, "sm_100"): Tile(32, 32, 4, 2, 3),
    ("walk_forward", "fp32", 64, 32, "sm_100"): Tile(64, 32, 8, 2, 2),
    ("walk_forward", "fp32", 64, 64, "sm_100"): Tile(64, 32, 8, 2, 2),
    ("walk_backward", "16", 64, 32, "sm_100"): Tile(128, 64, 8, 2, 1),
    ("walk_backward", "16", 64, 64, "sm_100"): Tile(128, 64, 8, 2, 1),
    ("walk_backward", "16", 128, 128, "sm_100"): Tile(128, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 32, "sm_100"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "tf32x3", 64, 32, "sm_100"): Tile(32, 32, 8, 2, 1),
    ("walk_backward", "tf32", 64, 64, "sm_100"): Tile(16, 32, 4, 1, 4),
    ("walk_backward", "tf32x3", 64, 64, "sm_100"): Tile(16, 32, 4, 1, 2),
    ("walk_backward", "fp32", 64, 32, "sm_100"): Tile(32, 32, 8, 2, 3),
    ("walk_backward", "fp32", 64, 64, "sm_100"): Tile(32, 32, 8, 2, 3),
    ("walk_forward", "16", 64, 32, "gfx942"): Tile(128, 64, 8, 2, 1),
    ("walk_forward", "16", 64, 64, "gfx942"): Tile(128, 64, 8, 2, 2),
    ("walk_forward", "16", 128, 128, "gfx942"): Tile(64, 32, 8, 2, 2),
    ("walk_forward", "tf32", 64, 32, "gfx942"): Tile(32, 32, 4, 2, 3),
    ("walk_forward", "tf32", 64, 64, "gfx942"): Tile(32, 32, 4, 2, 2),
    ("walk_forward", "fp32", 64, 32, "gfx942"): Tile(64, 32, 8, 2, 2),
    ("walk_forward", "fp32", 64, 64, "gfx942"): Tile(64, 32, 8, 2, 1),
    ("walk_backward", "16", 64, 32, "gfx942"): Tile(32, 32, 4, 2, 2),
    ("walk_backward", "16", 64, 64, "gfx942"): Tile(64, 32, 8, 2, 1),
    ("walk_backward", "16", 128, 128, "gfx942"): Tile(32, 32, 4, 2, 1),
    ("walk_backward", "tf32", 64, 32, "gfx942"): Tile(32, 32, 4, 1, 1),
    ("walk_backward", "tf32", 64, 64, "gfx942"): Tile(32, 32, 4, 1, 1),
    ("walk_backward", "fp32", 64, 32, "gfx942"): Tile(32, 32, 4, 1, 1),
    ("walk_backward", "fp32", 64, 64, "gfx942"): Tile(32, 32, 4, 1, 1),
}
# fmt: on

# Triton uses no matrix units for float64, and its speed was not optimised: one tile serves every case.
_FLOAT64 = Tile(16, 16, 4, 1, 1)
# In the interpreter an operation takes about the same time for tiles of any size, so tiles are large.
_INTERPRETED = Tile(64, 64, 4, 1, 1)

TILES_PER_SPLIT = 4  # fewest tiles of a split: every split adds sums that are stored and combined


def key(kernel: str, dtype: str, d: int, k: int, architecture: str) -> Key:
    """The key of the row that serves these widths."""
    if architecture not in ARCHITECTURES:
        architecture = _FALLBACK["gfx" if architecture.startswith("gfx") else "sm"]
    d, k = next(width for width in WIDTHS[dtype] if width[0] >= d and width[1] >= k)
    return kernel, dtype, d, k, architecture


def alias(row: Key) -> Key:
    """The key of the row that serves an architecture which has no row of its own."""
    kernel, dtype, d, k, architecture = row
    return kernel, dtype, d, k, ALIASES.get(architecture, architecture)


def choose(kernel: str, dtype: str, d: int, k: int, architecture: str) -> Tile:
    """The tile of a kernel for these padded widths on this architecture."""
    if architecture == "interpreter":
        return _INTERPRETED
    if dtype == "fp64":
        return _FLOAT64
    row = key(kernel, dtype, d, k, architecture)
    return _TABLE.get(row) or _TABLE[alias(row)]


def splits(programs: int, tile_count: int, slots: int) -> int:
    """Number of programs that share the columns of a row block, so that all slots of a GPU have work."""
    return max(1, min(slots // programs, tile_count // TILES_PER_SPLIT))


def entries(architecture: str) -> dict[Key, Tile]:
    """Every key of one architecture with its tile."""
    rows = [row for row in _TABLE if row[-1] == ALIASES.get(architecture, architecture)]
    rows += [(kernel, "fp64", *WIDTHS["fp64"][0], "") for kernel in ("walk_forward", "walk_backward")]
    keys = [(kernel, dtype, d, k, architecture) for kernel, dtype, d, k, _ in rows]
    return {key: choose(*key) for key in keys}
