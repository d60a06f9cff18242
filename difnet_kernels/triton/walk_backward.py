r"""What a walk's backward needs every pair of nodes for: dF, P^T a and the gradient of the node bias.

With P_ij = exp(S_ij - h_j - L_i), S = G G^T symmetric, a block of rows I owns its outputs and meets every
block of columns J once. Both halves of dS + dS^T come from that one tile of scores:

    W_ij  = P_ij (a_i . y_j - delta_i) + P_ji (a_j . y_i - delta_j)
    dF_i  = sum_j W_ij g_j + dc_i centre          dy_i = sum_j P_ji a_j + (1 - beta) g_i
    dc_i  = sum_j P_ji (a_j . y_i - delta_j)      (rows of dS sum to zero, so this is also the row sum of W)

Nothing is added to memory that another program writes: no atomics, the same bits every time. P_ij and P_ji
are at most 1, so two exponentials need no guard: scores, penalties and logarithms meet as in the forward,
with the same rounding, and exponents are added to what is left. 16-bit states and a come divided by powers
of two, one per block of nodes (pack.py); sums are kept in units of the image's largest, and multiplied out
at the end.
"""

import triton
import triton.language as tl

from difnet_kernels.triton.primitives import (
    LOG2E,
    PACK,
    add_dot,
    dot,
    largest_of,
    load_tile,
    product,
    rounded,
)

# P is at most 1 and multiplied as float16, whose digits end at 2^-14 and numbers at 2^16: P^T a is summed
# from 2^14 P.
RAISED: tl.constexpr = tl.constexpr(14)


@triton.jit(
    do_not_specialize=["nodes", "blocks", "row_blocks", "splits", "grad_b", "grad_n"],
    do_not_specialize_on_alignment=["grad", "beta", "grad_k"],
)
def walk_backward_kernel(
    G, Y, A, penalty, lse, delta, exponents_y, exponents_a, centre, grad, beta,
    grad_feature, grad_state, grad_bias, part_feature, part_state, part_bias,
    nodes, blocks, row_blocks, splits, grad_b, grad_n, grad_k,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr, CHUNKS: tl.constexpr,
    HAS_PENALTY: tl.constexpr, SCALED: tl.constexpr, CENTRED: tl.constexpr,
    NEED_FEATURE: tl.constexpr, NEED_STATE: tl.constexpr, NEED_BIAS: tl.constexpr,
    SPLIT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """The sweep. Grid: B x row_blocks x CHUNKS x splits, the last fastest.

    A program writes one chunk of the columns of dF and one of dy; CHUNKS is the larger of the two counts.
    """
    pid = tl.program_id(0)
    split, pid = pid % splits, pid // splits
    chunk, pid = pid % CHUNKS, pid // CHUNKS
    rows, batch = (pid % row_blocks) * BLOCK_I, (pid // row_blocks).to(tl.int64)
    size = blocks * PACK
    size_64 = size.to(tl.int64)
    G += batch * size_64 * (D_CHUNKS * D)
    Y += batch * size_64 * (K_CHUNKS * K)
    A += batch * size_64 * (K_CHUNKS * K)
    penalty += batch * size_64
    lse += batch * size_64
    delta += batch * size_64
    exponents_y += batch * blocks
    exponents_a += batch * blocks
    d_chunk, k_chunk = chunk % D_CHUNKS, chunk % K_CHUNKS

    i = rows + tl.arange(0, BLOCK_I)
    g_i = load_tile(G, rows, D, BLOCK_I)
    y_i = load_tile(Y, rows, K, BLOCK_I)
    a_i = load_tile(A, rows, K, BLOCK_I)
    l_i, delta_i = tl.load(lse + i), tl.load(delta + i)
    if HAS_PENALTY:
        h_i = tl.load(penalty + i)[:, None]
    if SCALED:
        e_y, e_a = largest_of(exponents_y, blocks), largest_of(exponents_a, blocks)
        e_y_i, e_a_i = tl.load(exponents_y + rows // PACK), tl.load(exponents_a + rows // PACK)
        # W is kept in units of 2^e_w. |W| < 4 k 2^(e_y + e_a), which the float16 of float16 features must
        # hold, and with as many digits as it can where P is flat and W small.
        room = 8 if CLASSES < 64 else 4
        e_w = e_y + e_a - room
        # The range of bfloat16 holds quiet blocks too; float16 follows the blocks at hand.
        e_t = e_w

    of_feature = tl.zeros((BLOCK_I, D), delta.dtype.element_ty)
    of_state = tl.zeros((BLOCK_I, K), delta.dtype.element_ty)
    of_bias = tl.zeros((BLOCK_I,), delta.dtype.element_ty)

    tiles = size // BLOCK_J
    for tile in range(split * tiles // splits, (split + 1) * tiles // splits):
        columns = tile * BLOCK_J
        j = columns + tl.arange(0, BLOCK_J)
        # g_j (BLOCK_J, D); s, p_ij, p_ji, w (BLOCK_I, BLOCK_J)
        if D_CHUNKS == 1:
            g_j = load_tile(G, columns, D, BLOCK_J)
            s = dot(g_i, tl.trans(g_j), PRECISION)
        else:
            s = product(G, rows, G, columns, size, D, D_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
        l_j, delta_j = tl.load(lse + j)[None, :], tl.load(delta + j)[None, :]
        if HAS_PENALTY:
            h_j = tl.load(penalty + j)[None, :]
        if K_CHUNKS == 1:
            y_j = load_tile(Y, columns, K, BLOCK_J)
            a_j = load_tile(A, columns, K, BLOCK_J)
        else:
            a_j = load_tile(A + k_chunk * size_64 * K, columns, K, BLOCK_J)

        p_ji = ((s - h_i if HAS_PENALTY else s) - l_j) * LOG2E
        if SCALED:
            e_y_j, e_a_j = tl.load(exponents_y + columns // PACK), tl.load(exponents_a + columns // PACK)
            p_ji += e_a_j - e_a + RAISED
            if G.dtype.element_ty == tl.float16:
                old, e_t = e_t, tl.maximum(tl.maximum(e_y_i + e_a_j, e_y_j + e_a_i) - room, e_w - 60)
                of_feature *= tl.exp2(old - e_t)
            row_ji = e_y_i + e_a - e_t - RAISED
        p_ji = tl.exp2(p_ji)
        if NEED_STATE:
            of_state = add_dot(of_state, rounded(p_ji, a_j.dtype, PRECISION), a_j, PRECISION)
        if NEED_FEATURE or NEED_BIAS:
            # dS_ji first and then dS_ij, so that few tiles are alive at once.
            if K_CHUNKS == 1:
                w = dot(y_i, tl.trans(a_j), PRECISION)
            else:
                w = product(Y, rows, A, columns, size, K, K_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
            if SCALED:
                w = (w * tl.exp2(row_ji) - delta_j * tl.exp2(row_ji - e_y_i)) * p_ji
            else:
                w = (w - delta_j) * p_ji
            if NEED_BIAS or CENTRED:
                of_bias += tl.sum(w, axis=1) * (tl.exp2(e_t - e_w) if SCALED else 1.0)
        if NEED_FEATURE:
            if K_CHUNKS == 1:
                ds_ij = dot(a_i, tl.trans(y_j), PRECISION)
            else:
                ds_ij = product(A, rows, Y, columns, size, K, K_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
            p_ij = ((s - h_j if HAS_PENALTY else s) - l_i[:, None]) * LOG2E
            if SCALED:
                p_ij += e_y_j + e_a_i - e_t
                w += (ds_ij - (delta_i * tl.exp2(-e_y_j))[:, None]) * tl.exp2(p_ij)
            else:
                w += (ds_ij - delta_i[:, None]) * tl.exp2(p_ij)
            if D_CHUNKS > 1:
                g_j = load_tile(G + d_chunk * size_64 * D, columns, D, BLOCK_J)
            of_feature = add_dot(of_feature, rounded(w, g_j.dtype, PRECISION), g_j, PRECISION)

    if SCALED:
        of_feature, of_bias = _scale(of_feature, e_t), _scale(of_bias, e_w)
        of_state = _scale(of_state, e_a - RAISED)
    i = i.to(tl.int64)
    if SPLIT:
        cell = ((batch * CHUNKS + chunk) * splits + split) * size_64 + i
        if NEED_FEATURE:
            tl.store(part_feature + cell[:, None] * D + tl.arange(0, D)[None, :], of_feature)
        if NEED_FEATURE or NEED_BIAS:
            tl.store(part_bias + cell, of_bias)
        if NEED_STATE:
            tl.store(part_state + cell[:, None] * K + tl.arange(0, K)[None, :], of_state)
    else:
        _finish(
            of_feature, of_state, of_bias, i, batch, chunk, centre, grad, beta,
            grad_feature, grad_state, grad_bias, nodes, grad_b, grad_n, grad_k,
            WIDTH, D, D_CHUNKS, CLASSES, K, K_CHUNKS, CENTRED, NEED_FEATURE, NEED_STATE, NEED_BIAS,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["nodes", "blocks", "splits", "grad_b", "grad_n"],
    do_not_specialize_on_alignment=["grad", "beta", "grad_k"],
)
def combine_backward_kernel(
    centre, grad, beta, grad_feature, grad_state, grad_bias, part_feature, part_state, part_bias,
    nodes, blocks, splits, grad_b, grad_n, grad_k,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr, CHUNKS: tl.constexpr,
    CENTRED: tl.constexpr, NEED_FEATURE: tl.constexpr, NEED_STATE: tl.constexpr, NEED_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the parts of a split sweep in their order. Grid: B x CHUNKS x NP / BLOCK, the last fastest."""
    row_blocks = blocks * (PACK // BLOCK)
    pid = tl.program_id(0)
    i, pid = (pid % row_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), pid // row_blocks
    chunk, batch = pid % CHUNKS, (pid // CHUNKS).to(tl.int64)
    size = blocks.to(tl.int64) * PACK
    cell = (batch * CHUNKS + chunk) * splits * size + i

    of_feature = tl.zeros((BLOCK, D), centre.dtype.element_ty)
    of_state = tl.zeros((BLOCK, K), centre.dtype.element_ty)
    of_bias = tl.zeros((BLOCK,), centre.dtype.element_ty)
    for _ in range(splits):
        if NEED_FEATURE:
            of_feature += tl.load(part_feature + cell[:, None] * D + tl.arange(0, D)[None, :])
        if NEED_FEATURE or NEED_BIAS:
            of_bias += tl.load(part_bias + cell)
        if NEED_STATE:
            of_state += tl.load(part_state + cell[:, None] * K + tl.arange(0, K)[None, :])
        cell += size
    _finish(
        of_feature, of_state, of_bias, i, batch, chunk, centre, grad, beta,
        grad_feature, grad_state, grad_bias, nodes, grad_b, grad_n, grad_k,
        WIDTH, D, D_CHUNKS, CLASSES, K, K_CHUNKS, CENTRED, NEED_FEATURE, NEED_STATE, NEED_BIAS,
    )  # fmt: skip


@triton.jit
def _scale(x, e):
    """x 2^e, in two steps, since the power alone may be beyond float32."""
    half = tl.floor(e * 0.5)
    return x * tl.exp2(half) * tl.exp2(e - half)


@triton.jit
def _finish(
    of_feature, of_state, of_bias, i, batch, chunk, centre, grad, beta,
    grad_feature, grad_state, grad_bias, nodes, grad_b, grad_n, grad_k,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    CENTRED: tl.constexpr, NEED_FEATURE: tl.constexpr, NEED_STATE: tl.constexpr, NEED_BIAS: tl.constexpr,
):  # fmt: skip
    inside = i < nodes
    if NEED_FEATURE:
        d = chunk * D + tl.arange(0, D)
        if CENTRED:
            m = tl.load(centre + batch * (D_CHUNKS * D) + d, chunk < D_CHUNKS, 0.0)
            of_feature += of_bias[:, None] * m[None, :]
        cell = (batch * nodes + i[:, None]) * WIDTH + d[None, :]
        tl.store(
            grad_feature + cell,
            rounded(of_feature, grad_feature.dtype.element_ty, "ieee"),
            inside[:, None] & (d < WIDTH)[None, :],
        )
    if NEED_BIAS:
        tl.store(grad_bias + batch * nodes + i, of_bias, inside & (chunk == 0))
    if NEED_STATE:
        q = tl.arange(0, K)
        k = (chunk * (K - 1) + q).to(tl.int64)
        inside_k = inside[:, None] & ((q < K - 1) & (k < CLASSES))[None, :]
        g = tl.load(grad + batch * grad_b + i[:, None] * grad_n + k[None, :] * grad_k, inside_k, 0.0)
        dy = of_state + (1 - tl.load(beta)) * g
        tl.store(grad_state + (batch * nodes + i[:, None]) * CLASSES + k[None, :], dy, inside_k)
