r"""Packing kernels write the arrays that a sweep reads, contiguous, padded, in the dtype of its products.

    G   (B, D_CHUNKS, NP, D)   features; float32 and float64 ones are centred, (12)
    h   (B, NP)                penalty of a column, -(c_j + m . g_j) with c the node bias and m the centre;
                               infinite beyond N
    Y   (B, K_CHUNKS, NP, K)   state; in the forward the last column of a chunk holds ones, so that row sums
                               come out of the product P y
    A   (B, K_CHUNKS, NP, K)   a = beta mu g, in the backward

NP is N rounded up to whole blocks of PACK nodes. Rows beyond N are zero, in the column of ones too, so sweeps
need no masks. One program packs one block of nodes.

16-bit features are not centred: their products are exact in float32, and centring would round them again.
With them y and a are packed in float16, which has three bits more than bfloat16 but less range. So they are
divided by 2^e, with one e for each block of nodes.

The centre of float32 and float64 features is sum_i f_i/|f_i| / sum_i 1/|f_i|. If all lengths |f_i| are equal,
it is the mean. After max pooling they nearly are. One kernel computes it, and a few huge rows cannot move it
far.

The penalty is subtracted, not added as a bias. Triton folds an addition into the product's initial
accumulator if the product has no other use. It would do so only in the forward, and the two passes would
round scores differently.
"""

import triton
import triton.language as tl

from difnet_kernels.triton.primitives import (
    PACK,
    ceil_log2,
    finite_abs,
    load_classes,
    power_of_two,
    round_to_tf32,
    scale_by_power,
)


@triton.jit(
    do_not_specialize=["feature_b", "feature_n", "nodes", "blocks"],
    do_not_specialize_on_alignment=["feature", "feature_d"],
)
def centre_kernel(
    feature, feature_b, feature_n, feature_d,
    sums, weights,
    nodes, blocks,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Per block of nodes: sum_i f_i / |f_i|, (B, blocks, D_CHUNKS D), and sum_i 1 / |f_i|, (B, blocks)."""
    block, batch = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)  # [PACK]
    f_i = feature + batch * feature_b + i[:, None] * feature_n  # [PACK, 1]
    square = tl.zeros((PACK,), sums.dtype.element_ty)  # [PACK]
    for chunk in range(D_CHUNKS):
        d = (chunk * D + tl.arange(0, D)).to(tl.int64)  # [D]
        inside = (i[:, None] < nodes) & (d[None, :] < WIDTH)  # [PACK, D]
        f = tl.load(f_i + d[None, :] * feature_d, inside, 0.0)  # [PACK, D]
        square += tl.sum(f * f, axis=1)
    inverse = tl.where(i < nodes, 1 / tl.sqrt(square), 0.0)  # [PACK]
    tl.store(weights + batch * blocks + block, tl.sum(inverse, axis=0))
    # A row of zeros adds nothing to the first sum, but its weight is infinite. So the centre of its image is
    # zero, which is also the limit as a row becomes zero.
    direction = tl.where(square > 0, inverse, 0.0)  # [PACK]
    for chunk in range(D_CHUNKS):
        d = (chunk * D + tl.arange(0, D)).to(tl.int64)  # [D]
        inside = (i[:, None] < nodes) & (d[None, :] < WIDTH)  # [PACK, D]
        f = tl.load(f_i + d[None, :] * feature_d, inside, 0.0)  # [PACK, D]
        tl.store(sums + (batch * blocks + block) * (D_CHUNKS * D) + d, tl.sum(f * direction[:, None], axis=0))


@triton.jit
def _centre_chunk(sums, weights, batch, blocks, d, D: tl.constexpr, D_CHUNKS: tl.constexpr):
    """The centre of one image in the columns d, [D], from the sums of its blocks."""
    total, weight = tl.zeros((D,), sums.dtype.element_ty), tl.zeros((), sums.dtype.element_ty)  # [D], []
    for first in range(0, blocks, 16):
        n = first + tl.arange(0, 16)  # [16]
        offsets = (batch * blocks + n[:, None]) * (D_CHUNKS * D) + d[None, :]  # [16, D]
        total += tl.sum(tl.load(sums + offsets, (n < blocks)[:, None], 0.0), axis=0)
        weight += tl.sum(tl.load(weights + batch * blocks + n, n < blocks, 0.0), axis=0)
    return total / weight


@triton.jit
def _pack_features(
    feature, feature_b, feature_n, feature_d,
    node_bias, node_bias_b, node_bias_n,
    sums, weights, G, penalty, centre,
    batch, block, nodes, blocks,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    HAS_NODE_BIAS: tl.constexpr, CENTRED: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """Stores G, h and, once per image, the centre."""
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)  # [PACK]
    size = blocks.to(tl.int64) * PACK
    f_i = feature + batch * feature_b + i[:, None] * feature_n  # [PACK, 1]
    h = tl.zeros((PACK,), penalty.dtype.element_ty)  # [PACK]
    if HAS_NODE_BIAS:
        h -= tl.load(node_bias + batch * node_bias_b + i * node_bias_n, i < nodes, 0.0)
    for chunk in range(D_CHUNKS):
        d = (chunk * D + tl.arange(0, D)).to(tl.int64)  # [D]
        inside = (i[:, None] < nodes) & (d[None, :] < WIDTH)  # [PACK, D]
        g = tl.load(f_i + d[None, :] * feature_d, inside, 0.0)  # [PACK, D]
        if CENTRED:
            m = _centre_chunk(sums, weights, batch, blocks, d, D, D_CHUNKS)  # [D]
            if block == 0:
                tl.store(centre + batch * (D_CHUNKS * D) + d, m)
            g = tl.where(inside, g - m[None, :], 0.0)
            h -= tl.sum(g * m[None, :], axis=1)  # (12)
        if TF32:
            g = round_to_tf32(g)
        tl.store(G + ((batch * D_CHUNKS + chunk) * size + i[:, None]) * D + tl.arange(0, D)[None, :], g)
    if HAS_NODE_BIAS or CENTRED:
        tl.store(penalty + batch * size + i, tl.where(i < nodes, h, float("inf")))


@triton.jit
def _zero_if_masked(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS: tl.constexpr):
    """States of masked nodes (node_bias = -inf) become zero, so that they do not enter the block's scale.

    NaN and infinite states are kept.
    """
    if HAS_NODE_BIAS:
        c = tl.load(node_bias + batch * node_bias_b + i * node_bias_n, i < nodes, 0.0)  # [PACK]
        return tl.where((c == -float("inf"))[:, None] & (tl.abs(y) < float("inf")), 0.0, y)  # [PACK, K]
    else:
        return y


@triton.jit
def _store_packed(Y, batch, chunk, size, i, y, exponent, nodes, ONES: tl.constexpr, K: tl.constexpr,
                  K_CHUNKS: tl.constexpr, SCALED: tl.constexpr, TF32: tl.constexpr):  # fmt: skip
    """Stores y 2^-exponent, [PACK, K], in the dtype of Y; returns what was stored."""
    column = tl.arange(0, K)[None, :]  # [1, K]
    if SCALED:
        y = scale_by_power(y, -exponent)
    if ONES:
        y = tl.where((column == K - 1) & (i[:, None] < nodes), 1.0, y)
    if TF32:
        y = round_to_tf32(y)
    packed = y.to(Y.dtype.element_ty)  # [PACK, K]
    tl.store(Y + ((batch * K_CHUNKS + chunk) * size + i[:, None]) * K + column, packed)
    return packed.to(y.dtype)


@triton.jit(
    do_not_specialize=[
        "feature_b", "feature_n", "node_bias_b", "node_bias_n", "state_b", "state_n", "nodes", "blocks",
    ],
    do_not_specialize_on_alignment=["feature", "feature_d", "node_bias", "state", "state_k"],
)  # fmt: skip
def pack_forward_kernel(
    feature, feature_b, feature_n, feature_d,
    node_bias, node_bias_b, node_bias_n,
    state, state_b, state_n, state_k,
    sums, weights, G, penalty, centre, Y, units,
    nodes, blocks,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    HAS_NODE_BIAS: tl.constexpr, CENTRED: tl.constexpr, SCALED: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """Stores G, h, the centre, and Y with the powers of two it is divided by: units (B, blocks)."""
    block, batch = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    _pack_features(
        feature, feature_b, feature_n, feature_d, node_bias, node_bias_b, node_bias_n,
        sums, weights, G, penalty, centre, batch, block, nodes, blocks,
        WIDTH, D, D_CHUNKS, HAS_NODE_BIAS, CENTRED, TF32,
    )  # fmt: skip
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)  # [PACK]
    size = blocks.to(tl.int64) * PACK
    state += batch * state_b
    exponent = 0.0
    if SCALED:
        largest = tl.zeros((PACK,), tl.float32)  # [PACK]
        for chunk in range(K_CHUNKS):
            y = load_classes(state, i, nodes, chunk, state_n, state_k, CLASSES, K)  # [PACK, K]
            y = _zero_if_masked(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
            largest = tl.maximum(largest, tl.max(finite_abs(y), axis=1))
        # Scaled states are at most 2^15. The exponent is limited to -30 .. 60, because the sweep multiplies
        # its sums by the ratio of two units. That is then at most 2^90, so that the sums do not overflow.
        exponent = tl.minimum(tl.maximum(ceil_log2(tl.max(largest, axis=0)) - 15, -30.0), 60.0)
        tl.store(units + batch * blocks + block, power_of_two(exponent))
    for chunk in range(K_CHUNKS):
        y = load_classes(state, i, nodes, chunk, state_n, state_k, CLASSES, K)  # [PACK, K]
        y = _zero_if_masked(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
        _store_packed(Y, batch, chunk, size, i, y, exponent, nodes, True, K, K_CHUNKS, SCALED, TF32)


@triton.jit(
    do_not_specialize=[
        "feature_b", "feature_n", "node_bias_b", "node_bias_n", "grad_b", "grad_n", "state_b", "state_n",
        "z_b", "z_n", "nodes", "blocks",
    ],
    do_not_specialize_on_alignment=[
        "feature", "feature_d", "node_bias", "grad", "grad_k", "state", "state_k", "z_k", "mu", "beta",
    ],
)  # fmt: skip
def pack_backward_kernel(
    feature, feature_b, feature_n, feature_d,
    node_bias, node_bias_b, node_bias_n,
    grad, grad_b, grad_n, grad_k,
    state, state_b, state_n, state_k,
    z, z_b, z_n, z_k,
    lse, mu, beta,
    sums, weights, G, penalty, centre, Y, A, delta, lse_padded, exponents_y, exponents_a,
    nodes, blocks,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    HAS_NODE_BIAS: tl.constexpr, CENTRED: tl.constexpr, SCALED: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """Stores the arrays that the sweep of the backward reads.

    They are G, h and the centre as in the forward; Y and A, with the exponents of the powers of two that they
    are divided by; delta_i = a_i . z_i / 2^(exponent of a); and `lse` padded with inf. One kernel stores all
    of them, because Y, A and delta share the loads of state and upstream gradient.
    """
    block, batch = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    _pack_features(
        feature, feature_b, feature_n, feature_d, node_bias, node_bias_b, node_bias_n,
        sums, weights, G, penalty, centre, batch, block, nodes, blocks,
        WIDTH, D, D_CHUNKS, HAS_NODE_BIAS, CENTRED, TF32,
    )  # fmt: skip
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)  # [PACK]
    size = blocks.to(tl.int64) * PACK
    beta_mu = tl.load(beta) * tl.load(mu)
    grad += batch * grad_b
    state += batch * state_b
    z += batch * z_b
    l_i = tl.load(lse + batch * nodes + i, i < nodes, float("inf"))  # [PACK]
    tl.store(lse_padded + batch * size + i, l_i)

    zero = tl.zeros((PACK,), delta.dtype.element_ty)  # [PACK]
    exponent_y, exponent_a = 0.0, 0.0
    if SCALED:
        largest_y, largest_a = zero, zero  # [PACK]
        for chunk in range(K_CHUNKS):
            y = load_classes(state, i, nodes, chunk, state_n, state_k, CLASSES, K)  # [PACK, K]
            y = _zero_if_masked(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
            largest_y = tl.maximum(largest_y, tl.max(finite_abs(y), axis=1))
            a = beta_mu * load_classes(grad, i, nodes, chunk, grad_n, grad_k, CLASSES, K)  # [PACK, K]
            largest_a = tl.maximum(largest_a, tl.max(finite_abs(a), axis=1))
        # The sweep divides delta by 2^exponent_y. The limit keeps that from overflowing for a block of zeros.
        exponent_y = tl.maximum(ceil_log2(tl.max(largest_y, axis=0)), -30.0)
        exponent_a = ceil_log2(tl.max(largest_a, axis=0))
        tl.store(exponents_y + batch * blocks + block, exponent_y)
        tl.store(exponents_a + batch * blocks + block, exponent_a)
    # a and delta of docs/math.md, section 2. delta is computed from the rounded a, which the sweep multiplies
    # too, so that its rounding cancels in a_i . y_j - delta_i.
    delta_i = zero
    for chunk in range(K_CHUNKS):
        y = load_classes(state, i, nodes, chunk, state_n, state_k, CLASSES, K)  # [PACK, K]
        y = _zero_if_masked(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
        _store_packed(Y, batch, chunk, size, i, y, exponent_y, nodes, False, K, K_CHUNKS, SCALED, TF32)
        a = beta_mu * load_classes(grad, i, nodes, chunk, grad_n, grad_k, CLASSES, K)  # [PACK, K]
        a = _store_packed(A, batch, chunk, size, i, a, exponent_a, nodes, False, K, K_CHUNKS, SCALED, TF32)
        z_i = load_classes(z, i, nodes, chunk, z_n, z_k, CLASSES, K)  # [PACK, K]
        delta_i += tl.sum(a * z_i, axis=1)
    tl.store(delta + batch * size + i, delta_i)
