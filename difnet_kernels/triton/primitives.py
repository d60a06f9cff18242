"""What the kernels share: matrix products of any dtype, exponents, the update of the state."""

import os

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
# Nodes to a block of the packed arrays; tiles of a sweep divide it. 16-bit states have one scale per block.
PACK: tl.constexpr = tl.constexpr(128)
# Triton's interpreter multiplies the bits of bfloat16 numbers as integers, cuts bits off where a GPU rounds,
# and leaves float32 products to a library in which g_i . g_j and g_j . g_i differ, which on matrix units
# they do not.
INTERPRETED: tl.constexpr = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a @ b, accumulated in float32 at least."""
    if a.dtype == tl.float64 or (INTERPRETED and a.dtype == tl.float32):
        # Not every GPU has matrix units for float64, nor Triton a use for them.
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
def rounded(x, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """x as an operand of a product: in the dtype of the other one, rounded to nearest."""
    if PRECISION == "tf32":
        x = round_to_tf32(x)
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < 3e38, nearest, x)
    return x.to(dtype)


@triton.jit
def load_tile(pointer, start, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Rows start .. start + ROWS of a packed array of the given width, (ROWS, WIDTH)."""
    offsets = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(pointer + start.to(tl.int64) * WIDTH + offsets)


@triton.jit
def product(
    left, rows, right, columns, size,
    WIDTH: tl.constexpr, CHUNKS: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """left_I right_J^T, (BLOCK_I, BLOCK_J), of arrays packed as CHUNKS arrays (size, WIDTH)."""
    chunk_size = size.to(tl.int64) * WIDTH
    total = dot(
        load_tile(left, rows, WIDTH, BLOCK_I), tl.trans(load_tile(right, columns, WIDTH, BLOCK_J)), PRECISION
    )
    for chunk in range(1, CHUNKS):
        l_c = load_tile(left + chunk * chunk_size, rows, WIDTH, BLOCK_I)
        r_c = load_tile(right + chunk * chunk_size, columns, WIDTH, BLOCK_J)
        total = add_dot(total, l_c, tl.trans(r_c), PRECISION)
    return total


@triton.jit
def lerp(start, end, weight):
    """start + weight (end - start), exact at both ends."""
    return tl.where(weight < 0.5, start + weight * (end - start), end - (end - start) * (1 - weight))


@triton.jit
def round_to_tf32(x):
    """To the nearest number the TF32 units keep; they cut off what is beyond."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < 3e38, rounded, x)


@triton.jit
def size_of(x):
    """|x| where it is finite, else 0: what is no number must not set the scale of others."""
    return tl.where(tl.abs(x) < float("inf"), tl.abs(x), 0.0)


@triton.jit
def exponent_of(largest):
    """The least integer e with largest <= 2^e, between -126 and 126; -126 for zero."""
    return tl.minimum(tl.maximum(tl.ceil(tl.log2(tl.maximum(largest, 1e-38))), -126.0), 126.0)


@triton.jit
def power_of_two(e):
    """2^e, exactly, for an integer between -126 and 127."""
    return ((e.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def inverse_power(x):
    """1 / x for a power of two, without a division."""
    return (0x7F000000 - x.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def largest_of(exponents, blocks):
    """The largest exponent of an image."""
    largest = tl.full((128,), -126.0, tl.float32)
    for first in range(0, blocks, 128):
        n = first + tl.arange(0, 128)
        largest = tl.maximum(largest, tl.load(exponents + n, n < blocks, -126.0))
    return tl.max(largest, axis=0)
