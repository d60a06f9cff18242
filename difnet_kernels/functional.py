"""The public functions: they check arguments, choose a backend and dtypes, and run the walks.

The mathematics is in `difnet_kernels.reference`, and docs/math.md says where each equation is computed.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from difnet_kernels import blockwise, reference
from difnet_kernels.autograd import cascade, same_layout
from difnet_kernels.backends import choose
from difnet_kernels.checks import (
    check_feature,
    check_features,
    check_like,
    check_node_bias,
    check_nodes,
    check_share,
    check_shares,
    check_tensor,
    log_prior,
)
from difnet_kernels.support.sharding import over_images


def cascaded_random_walk(
    features: Sequence[Tensor] | Tensor,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    *,
    state: Tensor | None = None,
    node_bias: Tensor | None = None,
    return_states: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""T random walks over the nodes of each image, one after the other.

    Equations (2) and (4) of docs/math.md, which are Eqs. 4 and 5 of the DifNet paper:

        P_t     = softmax(F_t F_t^T + 1 c_t^T)                                  (2)  each row; never stored
        y_{t+1} = beta_t (mu_t P_t y_t + (1 - mu_t) s) + (1 - beta_t) y_t       (4)

    Args:
        features: F_t, a sequence of T tensors (B, N, d_t), or one tensor (T, B, N, d). Their dtype decides
            the matrix arithmetic. For float32, so does torch.set_float32_matmul_precision. The
            forward reads that setting once, or the compiler does when it makes a graph. Scores and sums are
            float32 at least. The scores are not scaled.
        seed: s, (B, N, k).
        mu: (T,) on the inputs' device: the share of the walk; the seed has 1 - mu. A share lies in [0, 1],
            which is not checked, because a check would synchronise with the device. Any finite number works.
        beta: (T,) like `mu`: the share of the update; the old state has 1 - beta.
        state: y_0, (B, N, k); `seed` by default.
        node_bias: c_t, (B, N) for all walks or (T, B, N): added to column j of the scores, a log prior of
            the nodes. -inf masks a node, and an image whose nodes are all masked gives NaN. -|f_j|^2 / 2
            makes the affinity Gaussian in the features. A boolean tensor is a mask, as in
            `torch.nn.functional.scaled_dot_product_attention`: True keeps a node, False masks it.
        return_states: also return y_1 .. y_T.
        backend: a name from `difnet_kernels.backends()`. None takes the one that the environment variable
            DIFNET_BACKEND names, or else the best one that can run.

    Returns:
        y_T, (B, N, k) in the dtype of `seed`. With `return_states` the pair (y_T, states) with states of
        shape (T, B, N, k). If any input is float64, everything is computed in float64. With T = 0 the result
        is the initial state.

    The result is differentiable once with respect to every tensor, in memory linear in N.
    `backend="reference"` stores P and is differentiable any number of times, in reverse and in forward mode.
    Under `torch.vmap`, one call computes the images of all calls. The same inputs give the same bits.

    All tensors may be DTensors of one mesh. Every process then walks over its own images, those of its shard
    of `seed`, and the results are sharded over images. Shards along other axes are gathered first.

    Raises:
        ValueError: a shape, length or device does not fit.
        TypeError: an argument is not a dense floating-point tensor.
        BackendError: the requested backend is unknown or cannot run here.
        DoubleBackwardError: a second derivative was taken with a backend other than "reference".
        ForwardModeError: a forward-mode derivative was taken with a backend other than "reference".
    """
    check_tensor("seed", seed, ("B", "N", "k"))
    features = check_features(features, seed)
    num_walks = len(features)
    check_shares("mu", mu, num_walks, seed)
    check_shares("beta", beta, num_walks, seed)
    if state is not None:
        check_tensor("state", state, ("B", "N", "k"))
        check_like("state", state, seed.shape, seed, "the shape of seed (B, N, k)")
    if node_bias is not None:
        node_bias = check_node_bias(node_bias, seed, num_walks)

    backend = choose(backend, seed.device)
    state = seed if state is None else state
    dtype = _value_dtype(*features, seed, mu, beta, state, *(() if node_bias is None else (node_bias,)))
    if dtype == torch.float64:
        features = [feature.to(dtype) for feature in features]
    # Even a conversion that changes nothing takes time beside a walk over few nodes.
    values = [x if x is None or x.dtype == dtype else x.to(dtype) for x in (seed, mu, beta, state, node_bias)]
    image_axes = (0, None, None, 0, 1, *(0 for _ in features))
    states = over_images(partial(_run, backend), [*values, *features], image_axes) if features else []
    final = states[-1] if states else state.clone()
    if final.dtype != seed.dtype:
        final = final.to(seed.dtype)
    if not return_states:
        return final
    return final, torch.stack(states).to(seed.dtype) if states else final.new_empty(0, *final.shape)


def random_walk(
    feature: Tensor,
    state: Tensor,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    *,
    node_bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """One walk: beta (mu P y + (1 - mu) s) + (1 - beta) y, equation (4) of docs/math.md.

    Dtypes, derivatives and errors are those of `cascaded_random_walk`.

    Args:
        feature: F, (B, N, d).
        state: y, (B, N, k).
        seed: s, (B, N, k).
        mu: tensor of one element.
        beta: tensor of one element.
        node_bias: c, (B, N), or a boolean mask.
        backend: as for `cascaded_random_walk`.

    Returns:
        The new state, (B, N, k) in the dtype of `seed`.
    """
    check_tensor("seed", seed, ("B", "N", "k"))
    check_feature("feature", feature, seed)
    check_share("mu", mu)
    check_share("beta", beta)
    if node_bias is not None:
        check_tensor("node_bias", node_bias, ("B", "N"))
    result = cascaded_random_walk(
        [feature],
        seed,
        mu.reshape(1),
        beta.reshape(1),
        state=state,
        node_bias=node_bias,
        backend=backend,
    )
    assert isinstance(result, Tensor)
    return result


def transition_rows(
    feature: Tensor, nodes: Tensor, *, node_bias: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Rows of the transition matrix P, equation (2) of docs/math.md, for chosen nodes.

    Row i shows from which nodes node i takes its new state.

    Args:
        feature: F, (B, N, d).
        nodes: integer tensor (n,), the same for every image, or (B, n). The host reads its values.
        node_bias: c, (B, N), or a boolean mask, as for `cascaded_random_walk`.
        backend: as for `cascaded_random_walk`. "reference" multiplies the features as they are, every other
            backend centres them first.

    Returns:
        (B, n, N), differentiable, float64 for float64 inputs, else float32. Each row sums to 1, or is NaN
        where `node_bias` masks every node.

    Raises:
        IndexError: a node is outside 0 .. N - 1.
        ValueError, TypeError, BackendError: as for `cascaded_random_walk`.
    """
    check_tensor("feature", feature, ("B", "N", "d"))
    batch, count, _ = feature.shape
    if node_bias is not None:
        check_tensor("node_bias", node_bias, ("B", "N"))
        check_like("node_bias", node_bias, (batch, count), feature, "(B, N) of feature")
        node_bias = log_prior(node_bias)
    nodes = check_nodes(nodes, feature)
    backend = choose(backend, feature.device)
    dtype = _value_dtype(feature, *(() if node_bias is None else (node_bias,)))
    rows = reference.transition_rows if backend == "reference" else blockwise.transition_rows
    bias = None if node_bias is None else node_bias.to(dtype)
    (result,) = over_images(lambda *x: [rows(*x)], [feature.to(dtype), nodes, bias], (0, 0, 0))
    return result


def _run(
    backend: str,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    state: Tensor,
    node_bias: Tensor | None,
    *features: Tensor,
) -> list[Tensor]:
    """y_1 .. y_T from checked inputs in their working dtypes."""
    if backend != "reference" and seed.shape[0] > 0:  # a process may hold no image of a DTensor
        outputs = cascade(backend, seed, mu, beta, state, node_bias, *features)
        return list(outputs[: len(features)])
    states = []
    seed, state = same_layout(seed), same_layout(state)
    for t, feature in enumerate(features):
        bias = None if node_bias is None else node_bias[t]
        state = reference.random_walk(same_layout(feature), state, seed, mu[t], beta[t], bias)
        states.append(state)
    return states


def _value_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of states and scores: float64 if any input is, else float32."""
    return torch.float64 if torch.float64 in [x.dtype for x in tensors] else torch.float32
