r"""One walk forward: z = P y and the update of the state, in one sweep over the columns per block of rows.

    p_ij = exp(g_i . g_j - h_j - top_i)     acc_i = sum_j p_ij [y_j, 1]     z_i = acc_i / acc_i[last]
    y'   = beta (mu z + (1 - mu) s) + (1 - beta) y

with top_i the running maximum of the row (online softmax). The last column of the packed state holds ones,
so the row sum comes out of the same product with the same rounding of P, and a constant state stays constant.
Differences come before all else, and are not multiplied before they are taken: so no compiler can fuse them,
the largest weight is exactly 1, and the backward, which takes the same ones, meets the same weights.
16-bit states come divided by powers of two, one per block of nodes (pack.py); the ones do not.
Where blocks of rows cannot fill the GPU the columns are split over programs, and a second kernel adds the
parts.
"""

import triton
import triton.language as tl

from difnet_kernels.triton.primitives import (
    LN2,
    LOG2E,
    PACK,
    add_dot,
    dot,
    inverse_power,
    lerp,
    load_tile,
    product,
    rounded,
)  # fmt: skip


@triton.jit(
    do_not_specialize=["nodes", "blocks", "row_blocks", "splits", "state_b", "state_n", "seed_b", "seed_n"],
    do_not_specialize_on_alignment=["state", "seed", "mu", "beta", "state_k", "seed_k"],
)
def walk_forward_kernel(
    G, Y, penalty, units, state, seed, mu, beta, new_state, z, lse, part, part_top,
    nodes, blocks, row_blocks, splits, state_b, state_n, state_k, seed_b, seed_n, seed_k,
    D: tl.constexpr, D_CHUNKS: tl.constexpr, CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    HAS_PENALTY: tl.constexpr, SCALED: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """The sweep. Grid: B x row_blocks x K_CHUNKS x splits, the last fastest."""
    pid = tl.program_id(0)
    split, pid = pid % splits, pid // splits
    chunk, pid = pid % K_CHUNKS, pid // K_CHUNKS
    rows, batch = (pid % row_blocks) * BLOCK_I, (pid // row_blocks).to(tl.int64)
    size = blocks * PACK
    size_64 = size.to(tl.int64)
    G += batch * size_64 * (D_CHUNKS * D)
    Y += (batch * K_CHUNKS + chunk) * size_64 * K
    penalty += batch * size_64
    units += batch * blocks

    g_i = load_tile(G, rows, D, BLOCK_I)
    top = tl.full((BLOCK_I,), -float("inf"), penalty.dtype.element_ty)
    acc = tl.zeros((BLOCK_I, K), penalty.dtype.element_ty)
    if SCALED:
        unit, ones = 1.0, tl.arange(0, K) == K - 1

    tiles = size // BLOCK_J
    for tile in range(split * tiles // splits, (split + 1) * tiles // splits):
        columns = tile * BLOCK_J
        if D_CHUNKS == 1:
            # (BLOCK_I, BLOCK_J)
            s = dot(g_i, tl.trans(load_tile(G, columns, D, BLOCK_J)), PRECISION)
        else:
            s = product(G, rows, G, columns, size, D, D_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
        if HAS_PENALTY:
            s -= tl.load(penalty + columns + tl.arange(0, BLOCK_J))[None, :]
        new_top = tl.maximum(top, tl.max(s, axis=1))
        shift = _finite(new_top)
        p = tl.exp2((s - shift[:, None]) * LOG2E)
        alpha = tl.exp2((top - shift) * LOG2E)
        y_j = load_tile(Y, columns, K, BLOCK_J)
        if SCALED:
            # The sums of the states are kept in the unit of the block at hand, the row sum in its own.
            unit_j = tl.load(units + columns // PACK)
            acc *= alpha[:, None] * tl.where(ones, 1.0, unit * inverse_power(unit_j))[None, :]
            unit = unit_j
        else:
            acc *= alpha[:, None]
        acc = add_dot(acc, rounded(p, y_j.dtype, PRECISION), y_j, PRECISION)
        top = new_top
    if SCALED:
        acc *= tl.where(ones, 1.0, unit)[None, :]

    i = rows.to(tl.int64) + tl.arange(0, BLOCK_I)
    if SPLIT:
        cell = ((batch * K_CHUNKS + chunk) * splits + split) * size_64 + i
        tl.store(part_top + cell, top)
        tl.store(part + cell[:, None] * K + tl.arange(0, K)[None, :], acc)
    else:
        _finish(
            acc, top, i, batch, chunk, state, seed, mu, beta, new_state, z, lse,
            nodes, state_b, state_n, state_k, seed_b, seed_n, seed_k, CLASSES, K,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["nodes", "blocks", "splits", "state_b", "state_n", "seed_b", "seed_n"],
    do_not_specialize_on_alignment=["state", "seed", "mu", "beta", "state_k", "seed_k"],
)
def combine_forward_kernel(
    state, seed, mu, beta, new_state, z, lse, part, part_top,
    nodes, blocks, splits, state_b, state_n, state_k, seed_b, seed_n, seed_k,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the parts of a split sweep in their order. Grid: B x K_CHUNKS x NP / BLOCK, the last fastest."""
    row_blocks = blocks * (PACK // BLOCK)
    pid = tl.program_id(0)
    i, pid = (pid % row_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), pid // row_blocks
    chunk, batch = pid % K_CHUNKS, (pid // K_CHUNKS).to(tl.int64)
    size = blocks.to(tl.int64) * PACK
    cell = (batch * K_CHUNKS + chunk) * splits * size + i

    top = tl.full((BLOCK,), -float("inf"), part.dtype.element_ty)
    acc = tl.zeros((BLOCK, K), part.dtype.element_ty)
    for _ in range(splits):
        top_s = tl.load(part_top + cell)
        acc_s = tl.load(part + cell[:, None] * K + tl.arange(0, K)[None, :])
        new_top = tl.maximum(top, top_s)
        shift = _finite(new_top)
        old, new = tl.exp2((top - shift) * LOG2E), tl.exp2((top_s - shift) * LOG2E)
        acc = acc * old[:, None] + acc_s * new[:, None]
        top = new_top
        cell += size
    _finish(
        acc, top, i, batch, chunk, state, seed, mu, beta, new_state, z, lse,
        nodes, state_b, state_n, state_k, seed_b, seed_n, seed_k, CLASSES, K,
    )  # fmt: skip


@triton.jit
def _finite(top):
    """A row may have only removed columns so far: -inf - -inf is not a number, -inf - 0 is -inf."""
    return tl.where(top == -float("inf"), 0.0, top)


@triton.jit
def _finish(
    acc, top, i, batch, chunk, state, seed, mu, beta, new_state, z, lse,
    nodes, state_b, state_n, state_k, seed_b, seed_n, seed_k,
    CLASSES: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """z, the row's logarithm and the new state, from the sums of a block."""
    q = tl.arange(0, K)
    row_sum = tl.sum(tl.where((q == K - 1)[None, :], acc, 0.0), axis=1)
    tl.store(lse + batch * nodes + i, top + tl.log2(row_sum) * LN2, (i < nodes) & (chunk == 0))

    k = (chunk * (K - 1) + q).to(tl.int64)
    inside = (i[:, None] < nodes) & ((q < K - 1) & (k < CLASSES))[None, :]
    z_i = acc / row_sum[:, None]
    y_i = tl.load(state + batch * state_b + i[:, None] * state_n + k[None, :] * state_k, inside, 0.0)
    s_i = tl.load(seed + batch * seed_b + i[:, None] * seed_n + k[None, :] * seed_k, inside, 0.0)
    cell = (batch * nodes + i[:, None]) * CLASSES + k[None, :]
    tl.store(z + cell, z_i, inside)
    tl.store(new_state + cell, lerp(y_i, lerp(s_i, z_i, tl.load(mu)), tl.load(beta)), inside)
