"""Functions that the kernels share: indices, matrix products of any dtype, the softmax step, powers of two.

Comments such as # [BLOCK_I, K] give the shape of a tile, and # (9) the equation of docs/math.md.
"""

import os

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
# Nodes in a block of the packed arrays, a multiple of BLOCK_I and BLOCK_J of every tile. States that are
# packed in float16 have one scale for each block.
PACK: tl.constexpr = tl.constexpr(128)
# Triton's interpreter multiplies the bits of bfloat16 numbers as integers and truncates where a GPU rounds.
# Its float32 products come from a library in which g_i . g_j and g_j . g_i may differ. On matrix units they
# are equal.
INTERPRETED: tl.constexpr = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def split_program_id(row_blocks, CHUNKS: tl.constexpr, splits):
    """(batch, row block, chunk, split) of a program; the split varies fastest, the batch slowest."""
    pid = tl.program_id(0)
    split, pid = pid % splits, pid // splits
    chunk, pid = pid % CHUNKS, pid // CHUNKS
    return (pid // row_blocks).to(tl.int64), pid % row_blocks, chunk, split


@triton.jit
def class_columns(chunk, CLASSES: tl.constexpr, K: tl.constexpr):
    """The class of every column of a chunk, [K], and whether the column holds a class, [K].

    The last column of a chunk holds no class: it is the column of ones in the forward.
    """
    column = tl.arange(0, K)
    k = (chunk * (K - 1) + column).to(tl.int64)
    return k, (column < K - 1) & (k < CLASSES)


@triton.jit
def load_tile(pointer, start, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Rows start .. start + ROWS of a packed array of the given width, [ROWS, WIDTH]."""
    offsets = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]  # [ROWS, WIDTH]
    return tl.load(pointer + start.to(tl.int64) * WIDTH + offsets)


@triton.jit
def load_classes(
    pointer, i, nodes, chunk, stride_n, stride_k, CLASSES: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    """Rows i of one chunk of the columns of (N, k), [rows, K]; zero beyond the nodes and the classes."""
    k, has_class = class_columns(chunk, CLASSES, K)  # [K], [K]
    inside = (i[:, None] < nodes) & has_class[None, :]  # [rows, K]
    return tl.load(pointer + i[:, None] * stride_n + k[None, :] * stride_k, inside, 0.0)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a @ b, accumulated in float32, or float64 where a is."""
    if a.dtype == tl.float64 or (INTERPRETED and a.dtype == tl.float32):
        # Triton does not use the matrix units for float64, which only some GPUs have.
        return tl.sum(a[:, :, None] * b[None, :, :], axis=1)
    elif INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def add_dot(total, a, b, PRECISION: tl.constexpr):
    """total + a @ b."""
    if a.dtype == tl.float64 or (INTERPRETED and a.dtype == tl.float32):
        return total + tl.sum(a[:, :, None] * b[None, :, :], axis=1)
    elif INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def chunked_product(
    left, rows, right, columns, size,
    WIDTH: tl.constexpr, CHUNKS: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """left_I right_J^T, [BLOCK_I, BLOCK_J], of arrays that are packed as CHUNKS arrays (size, WIDTH)."""
    chunk_size = size.to(tl.int64) * WIDTH
    l_i = load_tile(left, rows, WIDTH, BLOCK_I)  # [BLOCK_I, WIDTH]
    r_j = load_tile(right, columns, WIDTH, BLOCK_J)  # [BLOCK_J, WIDTH]
    total = dot(l_i, tl.trans(r_j), PRECISION)  # [BLOCK_I, BLOCK_J]
    for chunk in range(1, CHUNKS):
        l_i = load_tile(left + chunk * chunk_size, rows, WIDTH, BLOCK_I)
        r_j = load_tile(right + chunk * chunk_size, columns, WIDTH, BLOCK_J)
        total = add_dot(total, l_i, tl.trans(r_j), PRECISION)
    return total


@triton.jit
def online_softmax_step(scores, row_max):
    """One step of a softmax over rows that arrive tile by tile.

    Returns exp(scores - new maximum), [rows, columns]; exp(row_max - new maximum), [rows], by which sums over
    earlier tiles must be multiplied; and the new row maximum, [rows].

    The maximum is subtracted before the difference is multiplied by log2(e). So no compiler can fuse the two
    operations into a multiply-add, and the largest weight of a row is exactly 1.
    """
    new_max = tl.maximum(row_max, tl.max(scores, axis=1))  # [rows]
    # If all nodes so far are masked, the maximum is -inf, and -inf - -inf would be NaN. -inf - 0 is -inf.
    shift = tl.where(new_max == -float("inf"), 0.0, new_max)  # [rows]
    weights = tl.exp2((scores - shift[:, None]) * LOG2E)  # [rows, columns]
    return weights, tl.exp2((row_max - shift) * LOG2E), new_max


@triton.jit
def lerp(start, end, weight):
    """start + weight (end - start), exact at both ends."""
    return tl.where(weight < 0.5, start + weight * (end - start), end - (end - start) * (1 - weight))


@triton.jit
def rounded(x, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """x in a dtype, rounded to nearest; with PRECISION "tf32" x is rounded to TF32 before."""
    if PRECISION == "tf32":
        x = round_to_tf32(x)
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < 3e38, nearest, x)
    return x.to(dtype)


@triton.jit
def round_to_tf32(x):
    """x rounded to the ten bits of a TF32 significand, where the matrix units would truncate it.

    Numbers beyond 3e38, infinite ones and NaN are returned as they are.
    """
    bits = x.to(tl.int32, bitcast=True)
    nearest = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < 3e38, nearest, x)


@triton.jit
def finite_abs(x):
    """|x|, or 0 where x is NaN or infinite, so that such numbers do not set the scale of others."""
    return tl.where(tl.abs(x) < float("inf"), tl.abs(x), 0.0)


@triton.jit
def ceil_log2(x):
    """The smallest integer e with x <= 2^e, limited to -126 .. 126; -126 for zero."""
    # 2^-126 is the smallest normal float32. With a smaller constant, Triton would compute in float64.
    return tl.minimum(tl.maximum(tl.ceil(tl.log2(tl.maximum(x, 2.0**-126))), -126.0), 126.0)


@triton.jit
def power_of_two(e):
    """2^e, exactly, for an integer e between -126 and 127."""
    return ((e.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def reciprocal_of_power(x):
    """1 / x for a power of two, without a division."""
    return (0x7F000000 - x.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def scale_by_power(x, e):
    """x 2^e, multiplied in two steps, because 2^e alone may overflow or underflow in float32."""
    half = tl.floor(e * 0.5)
    return x * tl.exp2(half) * tl.exp2(e - half)


@triton.jit
def max_exponent(exponents, blocks):
    """The largest exponent of the blocks of one image."""
    largest = tl.full((128,), -126.0, tl.float32)  # [128]
    for first in range(0, blocks, 128):
        n = first + tl.arange(0, 128)
        largest = tl.maximum(largest, tl.load(exponents + n, n < blocks, -126.0))
    return tl.max(largest, axis=0)
