r"""One walk backward: the gradients that need every pair of nodes, dF, dy and dc, and those that need none.

A program owns the gradients of a block of rows I and visits every block of columns J once. With
P_ij = exp(g_i . g_j - h_j - L_i), one tile of the symmetric product G G^T gives both halves of W = dS + dS^T:

    W_ij  = P_ij (a_i . y_j - delta_i) + P_ji (a_j . y_i - delta_j)
    dF_i  = sum_j W_ij g_j + dc_i m
    dy_i  = sum_j P_ji a_j + (1 - beta) grad_i
    dc_i  = sum_j P_ji (a_j . y_i - delta_j)      (rows of dS sum to zero, so this is also the row sum of W)

where g_i is a row of G, grad_i a row of the upstream gradient, and m the centre. pack.py computes a = beta mu
grad and delta_i = a_i . z_i. No program adds to memory that another one writes: there are no atomics, and the
same inputs give the same bits.

P_ij and P_ji are at most 1, so neither of their exponentials can overflow. The penalty is subtracted from the
score first, as in the forward, so that both passes round the difference alike. The logarithm is subtracted
next. With 16-bit features, y and a are divided by powers of two, one per block of nodes (pack.py). Their
exponents are added to the exponent of P after these subtractions. The sums have units, powers of two that
they are multiplied by at the end. A unit is the same for a whole image, but dF of float16 features has one
that follows the two current blocks.
"""

import triton
import triton.language as tl

from difnet_kernels.triton.primitives import (
    LOG2E,
    PACK,
    add_dot,
    chunked_product,
    class_columns,
    dot,
    lerp,
    load_classes,
    load_tile,
    max_exponent,
    rounded,
    scale_by_power,
    split_program_id,
)

# float16 is subnormal below 2^-14 and overflows at 2^16. P <= 1 is multiplied by 2^14 before it is cast, so
# that weights down to 2^-28 keep all bits of a float16.
P_EXPONENT: tl.constexpr = tl.constexpr(14)


@triton.jit(
    do_not_specialize=["grad_b", "grad_n", "nodes", "blocks", "row_blocks", "splits"],
    do_not_specialize_on_alignment=["grad", "grad_k", "beta"],
)
def walk_backward_kernel(
    G, Y, A, penalty, lse, delta, exponents_y, exponents_a, centre,
    grad, grad_b, grad_n, grad_k,
    beta, grad_feature, grad_state, grad_bias, part_feature, part_state, part_bias,
    nodes, blocks, row_blocks, splits,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr, CHUNKS: tl.constexpr,
    HAS_PENALTY: tl.constexpr, SCALED: tl.constexpr, CENTRED: tl.constexpr,
    NEED_FEATURE: tl.constexpr, NEED_STATE: tl.constexpr, NEED_BIAS: tl.constexpr,
    SPLIT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """The sweep. Grid: B x row_blocks x CHUNKS x splits.

    A program writes one chunk of the columns of dF and one of dy; CHUNKS is the larger of the two counts.
    """
    batch, row_block, chunk, split = split_program_id(row_blocks, CHUNKS, splits)
    rows = row_block * BLOCK_I
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

    i = rows + tl.arange(0, BLOCK_I)  # [BLOCK_I]
    g_i = load_tile(G, rows, D, BLOCK_I)  # [BLOCK_I, D]
    y_i = load_tile(Y, rows, K, BLOCK_I)  # [BLOCK_I, K]
    a_i = load_tile(A, rows, K, BLOCK_I)  # [BLOCK_I, K]
    l_i, delta_i = tl.load(lse + i), tl.load(delta + i)  # [BLOCK_I], [BLOCK_I]
    if HAS_PENALTY:
        h_i = tl.load(penalty + i)[:, None]  # [BLOCK_I, 1]
    if SCALED:
        e_y, e_a = max_exponent(exponents_y, blocks), max_exponent(exponents_a, blocks)
        e_y_i, e_a_i = tl.load(exponents_y + rows // PACK), tl.load(exponents_a + rows // PACK)
        # W is kept in units of 2^e_w. In the worst case |W| is 4 k 2^(e_y + e_a), or 4 k 2^headroom in these
        # units. That fits float16, which W is cast to with float16 features: below 2^16 for k < 64, and with
        # the smaller headroom for k < 1024. The larger headroom keeps more bits where P is flat and W small.
        headroom = 8 if CLASSES < 64 else 4
        e_w = e_y + e_a - headroom
        # dF is summed in units of 2^e_t. With bfloat16 features that is 2^e_w: bfloat16 has the range of
        # float32, so W keeps its bits in blocks with small gradients. With float16 it follows the two current
        # blocks.
        e_t = e_w

    dF_i = tl.zeros((BLOCK_I, D), delta.dtype.element_ty)  # [BLOCK_I, D]
    dy_i = tl.zeros((BLOCK_I, K), delta.dtype.element_ty)  # [BLOCK_I, K]
    dc_i = tl.zeros((BLOCK_I,), delta.dtype.element_ty)  # [BLOCK_I]

    tiles = size // BLOCK_J
    for tile in range(split * tiles // splits, (split + 1) * tiles // splits):
        columns = tile * BLOCK_J
        j = columns + tl.arange(0, BLOCK_J)  # [BLOCK_J]
        if D_CHUNKS == 1:
            g_j = load_tile(G, columns, D, BLOCK_J)  # [BLOCK_J, D]
            s = dot(g_i, tl.trans(g_j), PRECISION)  # [BLOCK_I, BLOCK_J]
        else:
            s = chunked_product(G, rows, G, columns, size, D, D_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
        l_j, delta_j = tl.load(lse + j)[None, :], tl.load(delta + j)[None, :]  # [1, BLOCK_J]
        if HAS_PENALTY:
            h_j = tl.load(penalty + j)[None, :]  # [1, BLOCK_J]
        if K_CHUNKS == 1:
            y_j = load_tile(Y, columns, K, BLOCK_J)  # [BLOCK_J, K]
            a_j = load_tile(A, columns, K, BLOCK_J)  # [BLOCK_J, K]
        else:
            a_j = load_tile(A + k_chunk * size_64 * K, columns, K, BLOCK_J)  # [BLOCK_J, K]

        p_ji = ((s - h_i if HAS_PENALTY else s) - l_j) * LOG2E  # [BLOCK_I, BLOCK_J]
        if SCALED:
            e_y_j, e_a_j = tl.load(exponents_y + columns // PACK), tl.load(exponents_a + columns // PACK)
            p_ji += e_a_j - e_a + P_EXPONENT
            if G.dtype.element_ty == tl.float16:
                e_t_before = e_t
                e_t = tl.maximum(tl.maximum(e_y_i + e_a_j, e_y_j + e_a_i) - headroom, e_w - 60)
                dF_i *= tl.exp2(e_t_before - e_t)
            e_ji = e_y_i + e_a - e_t - P_EXPONENT
        p_ji = tl.exp2(p_ji)  # (2)
        if NEED_STATE:
            dy_i = add_dot(dy_i, rounded(p_ji, a_j.dtype, PRECISION), a_j, PRECISION)  # (8)
        if NEED_FEATURE or NEED_BIAS:
            # dS_ji is completed before dS_ij is begun, so that few tiles occupy registers at once.
            if K_CHUNKS == 1:
                w = dot(y_i, tl.trans(a_j), PRECISION)  # [BLOCK_I, BLOCK_J]
            else:
                w = chunked_product(Y, rows, A, columns, size, K, K_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
            if SCALED:
                w = (w * tl.exp2(e_ji) - delta_j * tl.exp2(e_ji - e_y_i)) * p_ji  # (9)
            else:
                w = (w - delta_j) * p_ji  # (9)
            if NEED_BIAS or CENTRED:
                dc_i += tl.sum(w, axis=1) * (tl.exp2(e_t - e_w) if SCALED else 1.0)  # (10)
        if NEED_FEATURE:
            if K_CHUNKS == 1:
                ds_ij = dot(a_i, tl.trans(y_j), PRECISION)  # [BLOCK_I, BLOCK_J]
            else:
                ds_ij = chunked_product(A, rows, Y, columns, size, K, K_CHUNKS, BLOCK_I, BLOCK_J, PRECISION)
            p_ij = ((s - h_j if HAS_PENALTY else s) - l_i[:, None]) * LOG2E  # (2) [BLOCK_I, BLOCK_J]
            if SCALED:
                p_ij += e_y_j + e_a_i - e_t
                w += (ds_ij - (delta_i * tl.exp2(-e_y_j))[:, None]) * tl.exp2(p_ij)  # (9)
            else:
                w += (ds_ij - delta_i[:, None]) * tl.exp2(p_ij)  # (9)
            if D_CHUNKS > 1:
                g_j = load_tile(G + d_chunk * size_64 * D, columns, D, BLOCK_J)  # [BLOCK_J, D]
            dF_i = add_dot(dF_i, rounded(w, g_j.dtype, PRECISION), g_j, PRECISION)  # (11)

    if SCALED:
        dF_i, dc_i = scale_by_power(dF_i, e_t), scale_by_power(dc_i, e_w)
        dy_i = scale_by_power(dy_i, e_a - P_EXPONENT)
    i = i.to(tl.int64)
    if SPLIT:
        cell = ((batch * CHUNKS + chunk) * splits + split) * size_64 + i  # [BLOCK_I]
        if NEED_FEATURE:
            tl.store(part_feature + cell[:, None] * D + tl.arange(0, D)[None, :], dF_i)
        if NEED_FEATURE or NEED_BIAS:
            tl.store(part_bias + cell, dc_i)
        if NEED_STATE:
            tl.store(part_state + cell[:, None] * K + tl.arange(0, K)[None, :], dy_i)
    else:
        _store_gradients(
            dF_i, dy_i, dc_i, i, batch, chunk, nodes, centre, grad, grad_b, grad_n, grad_k, beta,
            grad_feature, grad_state, grad_bias,
            WIDTH, D, D_CHUNKS, CLASSES, K, K_CHUNKS, CENTRED, NEED_FEATURE, NEED_STATE, NEED_BIAS,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=["grad_b", "grad_n", "nodes", "blocks", "splits"],
    do_not_specialize_on_alignment=["grad", "grad_k", "beta"],
)
def combine_backward_kernel(
    centre, grad, grad_b, grad_n, grad_k,
    beta, grad_feature, grad_state, grad_bias, part_feature, part_state, part_bias,
    nodes, blocks, splits,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr, CHUNKS: tl.constexpr,
    CENTRED: tl.constexpr, NEED_FEATURE: tl.constexpr, NEED_STATE: tl.constexpr, NEED_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the sums of a split sweep, in the order of the splits. Grid: B x NP / BLOCK x CHUNKS."""
    batch, row_block, chunk, _ = split_program_id(blocks * (PACK // BLOCK), CHUNKS, 1)
    i = row_block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    size = blocks.to(tl.int64) * PACK
    cell = (batch * CHUNKS + chunk) * splits * size + i  # [BLOCK]

    dF_i = tl.zeros((BLOCK, D), centre.dtype.element_ty)  # [BLOCK, D]
    dy_i = tl.zeros((BLOCK, K), centre.dtype.element_ty)  # [BLOCK, K]
    dc_i = tl.zeros((BLOCK,), centre.dtype.element_ty)  # [BLOCK]
    for _ in range(splits):
        if NEED_FEATURE:
            dF_i += tl.load(part_feature + cell[:, None] * D + tl.arange(0, D)[None, :])
        if NEED_FEATURE or NEED_BIAS:
            dc_i += tl.load(part_bias + cell)
        if NEED_STATE:
            dy_i += tl.load(part_state + cell[:, None] * K + tl.arange(0, K)[None, :])
        cell += size
    _store_gradients(
        dF_i, dy_i, dc_i, i, batch, chunk, nodes, centre, grad, grad_b, grad_n, grad_k, beta,
        grad_feature, grad_state, grad_bias,
        WIDTH, D, D_CHUNKS, CLASSES, K, K_CHUNKS, CENTRED, NEED_FEATURE, NEED_STATE, NEED_BIAS,
    )  # fmt: skip


@triton.jit
def _store_gradients(
    dF_i, dy_i, dc_i, i, batch, chunk, nodes, centre, grad, grad_b, grad_n, grad_k, beta,
    grad_feature, grad_state, grad_bias,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    CENTRED: tl.constexpr, NEED_FEATURE: tl.constexpr, NEED_STATE: tl.constexpr, NEED_BIAS: tl.constexpr,
):  # fmt: skip
    """Stores the gradients of a block of rows, computed from the sums over all columns."""
    inside = i < nodes  # [rows]
    if NEED_FEATURE:
        d = chunk * D + tl.arange(0, D)  # [D]
        if CENTRED:
            m = tl.load(centre + batch * (D_CHUNKS * D) + d, chunk < D_CHUNKS, 0.0)  # [D]
            dF_i += dc_i[:, None] * m[None, :]  # (13)
        cell = (batch * nodes + i[:, None]) * WIDTH + d[None, :]  # [rows, D]
        tl.store(
            grad_feature + cell,
            rounded(dF_i, grad_feature.dtype.element_ty, "ieee"),
            inside[:, None] & (d < WIDTH)[None, :],
        )
    if NEED_BIAS:
        tl.store(grad_bias + batch * nodes + i, dc_i, inside & (chunk == 0))
    if NEED_STATE:
        k, has_class = class_columns(chunk, CLASSES, K)  # [K], [K]
        # One mask serves the load and the store. With `load_classes`, which has a mask of its own, registers
        # spill on sm_100 at d = k = 128.
        inside_k = inside[:, None] & has_class[None, :]  # [rows, K]
        grad_i = grad + batch * grad_b + i[:, None] * grad_n + k[None, :] * grad_k  # [rows, K]
        g = tl.load(grad_i, inside_k, 0.0)  # [rows, K]
        dy = dy_i + (1 - tl.load(beta)) * g  # (8) [rows, K]
        tl.store(grad_state + (batch * nodes + i[:, None]) * CLASSES + k[None, :], dy, inside_k)


@triton.jit(
    do_not_specialize=[
        "grad_b", "grad_n", "state_b", "state_n", "seed_b", "seed_n", "z_b", "z_n", "nodes", "blocks",
    ],
    do_not_specialize_on_alignment=[
        "grad", "grad_k", "state", "state_k", "seed", "seed_k", "z_k", "mu", "beta",
    ],
)  # fmt: skip
def seed_mu_beta_gradients_kernel(
    grad, grad_b, grad_n, grad_k,
    state, state_b, state_n, state_k,
    seed, seed_b, seed_n, seed_k,
    z, z_b, z_n, z_k,
    mu, beta, grad_seed, partial,
    nodes, blocks,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Stores ds, and for each block of nodes its terms of dmu and dbeta: partial (2, B, blocks)."""
    block, batch = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)  # [PACK]
    mu_t, beta_t = tl.load(mu), tl.load(beta)
    grad += batch * grad_b
    state += batch * state_b
    seed += batch * seed_b
    z += batch * z_b

    zero = tl.zeros((PACK,), partial.dtype.element_ty)  # [PACK]
    dmu_i, dbeta_i = zero, zero
    for chunk in range(K_CHUNKS):
        g = load_classes(grad, i, nodes, chunk, grad_n, grad_k, CLASSES, K)  # [PACK, K]
        y = load_classes(state, i, nodes, chunk, state_n, state_k, CLASSES, K)  # [PACK, K]
        s = load_classes(seed, i, nodes, chunk, seed_n, seed_k, CLASSES, K)  # [PACK, K]
        z_i = load_classes(z, i, nodes, chunk, z_n, z_k, CLASSES, K)  # [PACK, K]
        dmu_i += tl.sum(g * (z_i - s), axis=1)  # (6)
        dbeta_i += tl.sum(g * (lerp(s, z_i, mu_t) - y), axis=1)  # (7)
        k, has_class = class_columns(chunk, CLASSES, K)  # [K], [K]
        inside = (i[:, None] < nodes) & has_class[None, :]  # [PACK, K]
        ds = beta_t * (1 - mu_t) * g  # (5) [PACK, K]
        tl.store(grad_seed + (batch * nodes + i[:, None]) * CLASSES + k[None, :], ds, inside)
    cell = batch * blocks + block
    tl.store(partial + cell, beta_t * tl.sum(dmu_i, axis=0))  # (6)
    tl.store(partial + tl.num_programs(0) + cell, tl.sum(dbeta_i, axis=0))  # (7)
