r"""One walk forward: z = P y and the update of the state, in one sweep over the columns per block of rows.

    p_ij = exp(g_i . g_j - h_j - max_i)    acc_i = sum_j p_ij [y_j, 1]    z_i = acc_i / acc_i[last]
    y'   = beta (mu z + (1 - mu) s) + (1 - beta) y

with max_i the running maximum of the row (online softmax). The last column of the packed state holds ones, so
the row sum comes out of the same product with the same rounding of P, and a constant state stays constant.

The penalty and the maximum are subtracted from the score before the difference is multiplied by log2(e). The
backward subtracts in the same order, but L_i = log sum_j exp(g_i . g_j - h_j) in place of the maximum.

With 16-bit features, the states of a block of nodes are divided by a power of two (pack.py); the column of
ones is not. Where the blocks of rows are too few to fill the GPU, the columns are divided among several
programs (a split sweep), and a second kernel combines their sums.
"""

import triton
import triton.language as tl

from difnet_kernels.triton.primitives import (
    LN2,
    PACK,
    add_dot,
    chunked_product,
    class_columns,
    dot,
    lerp,
    load_classes,
    load_tile,
    online_softmax_step,
    reciprocal_of_power,
    rounded,
    split_program_id,
)  # fmt: skip


@triton.jit(
    do_not_specialize=["state_b", "state_n", "seed_b", "seed_n", "nodes", "blocks", "row_blocks", "splits"],
    do_not_specialize_on_alignment=["state", "state_k", "seed", "seed_k", "mu", "beta"],
)
def walk_forward_kernel(
    G, Y, penalty, units,
    state, state_b, state_n, state_k,
    seed, seed_b, seed_n, seed_k,
    mu, beta, new_state, z, lse, part_acc, part_row_max,
    nodes, blocks, row_blocks, splits,
    D: tl.constexpr, D_CHUNKS: tl.constexpr, CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    HAS_PENALTY: tl.constexpr, SCALED: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """The sweep. Grid: B x row_blocks x K_CHUNKS x splits."""
    batch, row_block, chunk, split = split_program_id(row_blocks, K_CHUNKS, splits)
    rows = row_block * BLOCK_I
    size = blocks * PACK
    size_64 = size.to(tl.int64)
    G += batch * size_64 * (D_CHUNKS * D)
    Y += (batch * K_CHUNKS + chunk) * size_64 * K
    penalty += batch * size_64
    units += batch * blocks

    g_i = load_tile(G, rows, D, BLOCK_I)  # [BLOCK_I, D]
    row_max = tl.full((BLOCK_I,), -float("inf"), penalty.dtype.element_ty)  # [BLOCK_I]
    acc = tl.zeros((BLOCK_I, K), penalty.dtype.element_ty)  # [BLOCK_I, K]
    if SCALED:
        unit, is_ones = 1.0, tl.arange(0, K) == K - 1  # [], [K]

    tiles = size // BLOCK_J
    for tile in range(split * tiles // splits, (split + 1) * tiles // splits):
        columns = tile * BLOCK_J
        if D_CHUNKS == 1:
            g_j = load_tile(G, columns, D, BLOCK_J)  # [BLOCK_J, D]
            s = dot(g_i, tl.trans(g_j), PRECISION)  # [BLOCK_I, BLOCK_J]
        else:
            s = chunked_product(G, rows, G, columns, size, D, D_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
        if HAS_PENALTY:
            s -= tl.load(penalty + columns + tl.arange(0, BLOCK_J))[None, :]  # (12)
        p, rescale, row_max = online_softmax_step(s, row_max)  # (2) [BLOCK_I, BLOCK_J], [BLOCK_I], [BLOCK_I]
        y_j = load_tile(Y, columns, K, BLOCK_J)  # [BLOCK_J, K]
        if SCALED:
            # Sums of states are kept in the unit of the current block, row sums in units of one. The change
            # of unit and the change of the maximum are one factor of acc. If p were multiplied by the unit
            # instead, weights of blocks with small states would underflow in float16 and leave the row sum.
            unit_j = tl.load(units + columns // PACK)
            to_unit_j = tl.where(is_ones, 1.0, unit * reciprocal_of_power(unit_j))  # [K]
            acc *= rescale[:, None] * to_unit_j[None, :]
            unit = unit_j
        else:
            acc *= rescale[:, None]
        acc = add_dot(acc, rounded(p, y_j.dtype, PRECISION), y_j, PRECISION)  # (3)
    if SCALED:
        acc *= tl.where(is_ones, 1.0, unit)[None, :]

    i = rows.to(tl.int64) + tl.arange(0, BLOCK_I)  # [BLOCK_I]
    if SPLIT:
        cell = ((batch * K_CHUNKS + chunk) * splits + split) * size_64 + i  # [BLOCK_I]
        tl.store(part_row_max + cell, row_max)
        tl.store(part_acc + cell[:, None] * K + tl.arange(0, K)[None, :], acc)
    else:
        _store_results(
            acc, row_max, i, batch, chunk, nodes,
            state, state_b, state_n, state_k, seed, seed_b, seed_n, seed_k,
            mu, beta, new_state, z, lse, CLASSES, K,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["state_b", "state_n", "seed_b", "seed_n", "nodes", "blocks", "splits"],
    do_not_specialize_on_alignment=["state", "state_k", "seed", "seed_k", "mu", "beta"],
)
def combine_forward_kernel(
    state, state_b, state_n, state_k,
    seed, seed_b, seed_n, seed_k,
    mu, beta, new_state, z, lse, part_acc, part_row_max,
    nodes, blocks, splits,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Combines the sums of a split sweep, in the order of the splits. Grid: B x NP / BLOCK x K_CHUNKS."""
    batch, row_block, chunk, _ = split_program_id(blocks * (PACK // BLOCK), K_CHUNKS, 1)
    i = row_block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    size = blocks.to(tl.int64) * PACK
    cell = (batch * K_CHUNKS + chunk) * splits * size + i  # [BLOCK]

    row_max = tl.full((BLOCK,), -float("inf"), part_acc.dtype.element_ty)  # [BLOCK]
    acc = tl.zeros((BLOCK, K), part_acc.dtype.element_ty)  # [BLOCK, K]
    for _ in range(splits):
        # The softmax step takes the maximum of a split as its only score. Sums of splits are stored in units
        # of one, so no unit changes here.
        part_max = tl.load(part_row_max + cell)[:, None]  # [BLOCK, 1]
        part = tl.load(part_acc + cell[:, None] * K + tl.arange(0, K)[None, :])  # [BLOCK, K]
        weight, rescale, row_max = online_softmax_step(part_max, row_max)  # [BLOCK, 1], [BLOCK], [BLOCK]
        acc = acc * rescale[:, None] + part * weight
        cell += size
    _store_results(
        acc, row_max, i, batch, chunk, nodes,
        state, state_b, state_n, state_k, seed, seed_b, seed_n, seed_k,
        mu, beta, new_state, z, lse, CLASSES, K,
    )  # fmt: skip


@triton.jit
def _store_results(
    acc, row_max, i, batch, chunk, nodes,
    state, state_b, state_n, state_k, seed, seed_b, seed_n, seed_k,
    mu, beta, new_state, z, lse,
    CLASSES: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Stores z, L_i and the new state of a block of rows, computed from the sums over all columns."""
    is_ones = (tl.arange(0, K) == K - 1)[None, :]  # [1, K]
    row_sum = tl.sum(tl.where(is_ones, acc, 0.0), axis=1)  # [rows]
    tl.store(lse + batch * nodes + i, row_max + tl.log2(row_sum) * LN2, (i < nodes) & (chunk == 0))  # (2)

    z_i = acc / row_sum[:, None]  # (3) [rows, K]
    y_i = load_classes(state + batch * state_b, i, nodes, chunk, state_n, state_k, CLASSES, K)  # [rows, K]
    s_i = load_classes(seed + batch * seed_b, i, nodes, chunk, seed_n, seed_k, CLASSES, K)  # [rows, K]
    k, has_class = class_columns(chunk, CLASSES, K)  # [K], [K]
    inside = (i[:, None] < nodes) & has_class[None, :]  # [rows, K]
    cell = (batch * nodes + i[:, None]) * CLASSES + k[None, :]  # [rows, K]
    tl.store(z + cell, z_i, inside)
    tl.store(new_state + cell, lerp(y_i, lerp(s_i, z_i, tl.load(mu)), tl.load(beta)), inside)  # (4)
