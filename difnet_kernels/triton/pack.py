r"""What a sweep reads, in one layout: contiguous, padded, in the dtype of the matrix units.

    G   (B, D_CHUNKS, NP, D)   features: centred where they are float32 or float64, else as given
    h   (B, NP)                penalty of the scores, -(c_j + centre . g_j) with c the node bias; inf beyond N
    Y   (B, K_CHUNKS, NP, K)   state; forward, the last column of a chunk holds ones: row sums come with P y
    A   (B, K_CHUNKS, NP, K)   a = beta mu g, backward only

NP is N rounded up to whole blocks of PACK nodes. Rows beyond N are zero, the ones too, so sweeps need no
masks.

16-bit features keep their products exact: centring would round them again. Their states are held in float16,
eight times finer than bfloat16, divided by 2^e with one e per block of nodes: range comes from e, not from
the dtype.

The centre of float32 features is sum_i f_i/|f_i| / sum_i 1/|f_i|: their mean when lengths are alike, as
after a max pool, and one pass and deaf to a few huge rows, which would pull a mean away from all others.

The sign of h is what keeps a score the same in every sweep: Triton turns a sum with a product into the
product's initial accumulator where nothing else uses the product, which rounds otherwise.
"""

import triton
import triton.language as tl

from difnet_kernels.triton.primitives import (
    PACK,
    exponent_of,
    lerp,
    power_of_two,
    round_to_tf32,
    size_of,
)


@triton.jit(
    do_not_specialize=["nodes", "blocks", "feature_b", "feature_n"],
    do_not_specialize_on_alignment=["feature", "feature_d"],
)
def centre_kernel(
    feature, sums, weights, nodes, blocks, feature_b, feature_n, feature_d,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Per block of nodes: sum_i f_i / |f_i|, (B, blocks, D_CHUNKS D), and sum_i 1 / |f_i|, (B, blocks)."""
    block, batch = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)
    f_i = feature + batch * feature_b + i[:, None] * feature_n
    square = tl.zeros((PACK,), sums.dtype.element_ty)
    for chunk in range(D_CHUNKS):
        d = (chunk * D + tl.arange(0, D)).to(tl.int64)
        f = tl.load(f_i + d[None, :] * feature_d, (i[:, None] < nodes) & (d[None, :] < WIDTH), 0.0)
        square += tl.sum(f * f, axis=1)
    inverse = tl.where(i < nodes, 1 / tl.sqrt(square), 0.0)
    tl.store(weights + batch * blocks + block, tl.sum(inverse, axis=0))
    # Rows of zeros have no direction; their infinite weight puts the centre at zero.
    direction = tl.where(square > 0, inverse, 0.0)
    for chunk in range(D_CHUNKS):
        d = (chunk * D + tl.arange(0, D)).to(tl.int64)
        f = tl.load(f_i + d[None, :] * feature_d, (i[:, None] < nodes) & (d[None, :] < WIDTH), 0.0)
        tl.store(sums + (batch * blocks + block) * (D_CHUNKS * D) + d, tl.sum(f * direction[:, None], axis=0))


@triton.jit
def _centre_chunk(sums, weights, batch, blocks, d, D: tl.constexpr, D_CHUNKS: tl.constexpr):
    """The centre of one image, from the sums of its blocks, for the columns d."""
    total, weight = tl.zeros((D,), sums.dtype.element_ty), tl.zeros((), sums.dtype.element_ty)
    for first in range(0, blocks, 16):
        n = first + tl.arange(0, 16)
        offsets = (batch * blocks + n[:, None]) * (D_CHUNKS * D) + d[None, :]
        total += tl.sum(tl.load(sums + offsets, (n < blocks)[:, None], 0.0), axis=0)
        weight += tl.sum(tl.load(weights + batch * blocks + n, n < blocks, 0.0), axis=0)
    return total / weight


@triton.jit
def _pack_features(
    feature, node_bias, sums, weights, G, penalty, centre, batch, block, nodes, blocks,
    feature_b, feature_n, feature_d, node_bias_b, node_bias_n,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    HAS_NODE_BIAS: tl.constexpr, CENTRED: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)
    size = blocks.to(tl.int64) * PACK
    f_i = feature + batch * feature_b + i[:, None] * feature_n
    h = tl.zeros((PACK,), penalty.dtype.element_ty)
    if HAS_NODE_BIAS:
        h -= tl.load(node_bias + batch * node_bias_b + i * node_bias_n, i < nodes, 0.0)
    for chunk in range(D_CHUNKS):
        d = (chunk * D + tl.arange(0, D)).to(tl.int64)
        inside = (i[:, None] < nodes) & (d[None, :] < WIDTH)
        g = tl.load(f_i + d[None, :] * feature_d, inside, 0.0)
        if CENTRED:
            m = _centre_chunk(sums, weights, batch, blocks, d, D, D_CHUNKS)
            if block == 0:
                tl.store(centre + batch * (D_CHUNKS * D) + d, m)
            g = tl.where(inside, g - m[None, :], 0.0)
            h -= tl.sum(g * m[None, :], axis=1)
        if TF32:
            g = round_to_tf32(g)
        tl.store(G + ((batch * D_CHUNKS + chunk) * size + i[:, None]) * D + tl.arange(0, D)[None, :], g)
    if HAS_NODE_BIAS or CENTRED:
        tl.store(penalty + batch * size + i, tl.where(i < nodes, h, float("inf")))


@triton.jit
def _load_values(
    pointer, i, nodes, chunk, stride_n, stride_k, CLASSES: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    """Chunk of the columns of (N, k), (PACK, K); zero beyond the classes and in the column of ones."""
    q = tl.arange(0, K)
    k = (chunk * (K - 1) + q).to(tl.int64)
    inside = (i[:, None] < nodes) & ((q < K - 1) & (k < CLASSES))[None, :]
    return tl.load(pointer + i[:, None] * stride_n + k[None, :] * stride_k, inside, 0.0)


@triton.jit
def _quiet_if_removed(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS: tl.constexpr):
    """Zero in place of what a removed node holds, unless that is no number: it must not set the scale."""
    if HAS_NODE_BIAS:
        c = tl.load(node_bias + batch * node_bias_b + i * node_bias_n, i < nodes, 0.0)
        return tl.where((c == -float("inf"))[:, None] & (tl.abs(y) < float("inf")), 0.0, y)
    else:
        return y


@triton.jit
def _store_packed(Y, batch, chunk, size, i, y, exponent, nodes, ONES: tl.constexpr, K: tl.constexpr,
                  K_CHUNKS: tl.constexpr, SCALED: tl.constexpr, TF32: tl.constexpr):  # fmt: skip
    """Stores values divided by 2^exponent; returns what was stored."""
    q = tl.arange(0, K)[None, :]
    if SCALED:
        # In two steps: 2^-exponent alone may be beyond float32.
        half = tl.floor(exponent * 0.5)
        y = y * tl.exp2(-half) * tl.exp2(half - exponent)
    if ONES:
        y = tl.where((q == K - 1) & (i[:, None] < nodes), 1.0, y)
    if TF32:
        y = round_to_tf32(y)
    packed = y.to(Y.dtype.element_ty)
    tl.store(Y + ((batch * K_CHUNKS + chunk) * size + i[:, None]) * K + q, packed)
    return packed.to(y.dtype)


@triton.jit(
    do_not_specialize=[
        "nodes", "blocks", "feature_b", "feature_n", "node_bias_b", "node_bias_n", "state_b", "state_n",
    ],
    do_not_specialize_on_alignment=["feature", "node_bias", "state", "feature_d", "state_k"],
)  # fmt: skip
def pack_forward_kernel(
    feature, node_bias, sums, weights, state, G, penalty, centre, Y, units, nodes, blocks,
    feature_b, feature_n, feature_d, node_bias_b, node_bias_n, state_b, state_n, state_k,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    HAS_NODE_BIAS: tl.constexpr, CENTRED: tl.constexpr, SCALED: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """G, h, centre and Y with the powers of two in it, (B, blocks); one program per block of nodes."""
    block, batch = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    _pack_features(
        feature, node_bias, sums, weights, G, penalty, centre, batch, block, nodes, blocks,
        feature_b, feature_n, feature_d, node_bias_b, node_bias_n,
        WIDTH, D, D_CHUNKS, HAS_NODE_BIAS, CENTRED, TF32,
    )  # fmt: skip
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)
    size = blocks.to(tl.int64) * PACK
    y_i = state + batch * state_b
    exponent = 0.0
    if SCALED:
        largest = tl.zeros((PACK,), tl.float32)
        for chunk in range(K_CHUNKS):
            y = _load_values(y_i, i, nodes, chunk, state_n, state_k, CLASSES, K)
            y = _quiet_if_removed(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
            largest = tl.maximum(largest, tl.max(size_of(y), axis=1))
        # States up to 2^15 after scaling; the sweep's sums change units by up to 2^90, and must not overflow.
        exponent = tl.minimum(tl.maximum(exponent_of(tl.max(largest, axis=0)) - 15, -30.0), 60.0)
        tl.store(units + batch * blocks + block, power_of_two(exponent))
    for chunk in range(K_CHUNKS):
        y = _load_values(y_i, i, nodes, chunk, state_n, state_k, CLASSES, K)
        y = _quiet_if_removed(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
        _store_packed(Y, batch, chunk, size, i, y, exponent, nodes, True, K, K_CHUNKS, SCALED, TF32)


@triton.jit(
    do_not_specialize=[
        "nodes", "blocks", "feature_b", "feature_n", "node_bias_b", "node_bias_n", "grad_b", "grad_n",
        "state_b", "state_n", "seed_b", "seed_n", "z_b", "z_n",
    ],
    do_not_specialize_on_alignment=[
        "feature", "node_bias", "grad", "state", "seed", "mu", "beta",
        "feature_d", "grad_k", "state_k", "seed_k", "z_k",
    ],
)  # fmt: skip
def pack_backward_kernel(
    feature, node_bias, sums, weights, grad, state, seed, z, lse, mu, beta,
    G, penalty, centre, Y, A, delta, lse_padded, exponents_y, exponents_a, grad_seed, partial,
    nodes, blocks, feature_b, feature_n, feature_d, node_bias_b, node_bias_n,
    grad_b, grad_n, grad_k, state_b, state_n, state_k, seed_b, seed_n, seed_k, z_b, z_n, z_k,
    WIDTH: tl.constexpr, D: tl.constexpr, D_CHUNKS: tl.constexpr,
    CLASSES: tl.constexpr, K: tl.constexpr, K_CHUNKS: tl.constexpr,
    HAS_NODE_BIAS: tl.constexpr, CENTRED: tl.constexpr, SCALED: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """As `pack_forward_kernel`, and what needs no pair of nodes; one program per block of nodes.

    a = beta mu g,  delta_i = a_i . z_i / 2^(exponent of a),  ds = beta (1 - mu) g
    partial (2, B, blocks):  beta sum g (z - s)  and  sum g (mu z + (1 - mu) s - y)  over the block
    """
    block, batch = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    _pack_features(
        feature, node_bias, sums, weights, G, penalty, centre, batch, block, nodes, blocks,
        feature_b, feature_n, feature_d, node_bias_b, node_bias_n,
        WIDTH, D, D_CHUNKS, HAS_NODE_BIAS, CENTRED, TF32,
    )  # fmt: skip
    i = block.to(tl.int64) * PACK + tl.arange(0, PACK)
    size = blocks.to(tl.int64) * PACK
    mu_t, beta_t = tl.load(mu), tl.load(beta)
    grad += batch * grad_b
    state += batch * state_b
    seed += batch * seed_b
    z += batch * z_b

    zero = tl.zeros((PACK,), delta.dtype.element_ty)
    largest_y, largest_a, of_mu, of_beta = zero, zero, zero, zero
    for chunk in range(K_CHUNKS):
        g = _load_values(grad, i, nodes, chunk, grad_n, grad_k, CLASSES, K)
        y = _load_values(state, i, nodes, chunk, state_n, state_k, CLASSES, K)
        s = _load_values(seed, i, nodes, chunk, seed_n, seed_k, CLASSES, K)
        z_i = _load_values(z, i, nodes, chunk, z_n, z_k, CLASSES, K)
        of_mu += tl.sum(g * (z_i - s), axis=1)
        of_beta += tl.sum(g * (lerp(s, z_i, mu_t) - y), axis=1)
        largest_a = tl.maximum(largest_a, tl.max(size_of(beta_t * mu_t * g), axis=1))
        y = _quiet_if_removed(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
        largest_y = tl.maximum(largest_y, tl.max(size_of(y), axis=1))
        q = tl.arange(0, K)
        k = (chunk * (K - 1) + q).to(tl.int64)
        inside = (i[:, None] < nodes) & ((q < K - 1) & (k < CLASSES))[None, :]
        tl.store(
            grad_seed + (batch * nodes + i[:, None]) * CLASSES + k[None, :], beta_t * (1 - mu_t) * g, inside
        )
    l_i = tl.load(lse + batch * nodes + i, i < nodes, float("inf"))
    tl.store(lse_padded + batch * size + i, l_i)
    cell = batch * blocks + block
    tl.store(partial + cell, beta_t * tl.sum(of_mu, axis=0))
    tl.store(partial + tl.num_programs(0) + cell, tl.sum(of_beta, axis=0))

    exponent_y, exponent_a = 0.0, 0.0
    if SCALED:
        # The sweep divides delta by 2^exponent_y, which a block of zeros must not make infinite.
        exponent_y = tl.maximum(exponent_of(tl.max(largest_y, axis=0)), -30.0)
        exponent_a = exponent_of(tl.max(largest_a, axis=0))
        tl.store(exponents_y + cell, exponent_y)
        tl.store(exponents_a + cell, exponent_a)
    delta_i = zero
    for chunk in range(K_CHUNKS):
        y = _load_values(state, i, nodes, chunk, state_n, state_k, CLASSES, K)
        y = _quiet_if_removed(y, node_bias, batch, i, nodes, node_bias_b, node_bias_n, HAS_NODE_BIAS)
        _store_packed(Y, batch, chunk, size, i, y, exponent_y, nodes, False, K, K_CHUNKS, SCALED, TF32)
        a = beta_t * mu_t * _load_values(grad, i, nodes, chunk, grad_n, grad_k, CLASSES, K)
        a = _store_packed(A, batch, chunk, size, i, a, exponent_a, nodes, False, K, K_CHUNKS, SCALED, TF32)
        # Of the rounded a, as in the sweep: then a_i . y_j - delta_i cancels where it should.
        delta_i += tl.sum(a * _load_values(z, i, nodes, chunk, z_n, z_k, CLASSES, K), axis=1)
    tl.store(delta + batch * size + i, delta_i)
