r"""The specification: the random walk as plain PyTorch, with the transition matrix stored.

One walk over N nodes with embeddings F (N, d), as in Eqs. 2, 4 and 5 of "DifNet: Semantic
Segmentation by Diffusion Networks" (NeurIPS 2018):

    S_ij = f_i . f_j + c_j                                       scores
    P    = softmax over each row of S                            transition matrix
    y'   = beta (mu P y + (1 - mu) s) + (1 - beta) y             update of the state

Every other backend must agree with this file. It keeps P, B N N numbers a walk, and is
differentiable any number of times. `product` is a matrix product that autocast leaves alone.

| public argument | in kernels | shape      | meaning                                             |
| --------------- | ---------- | ---------- | --------------------------------------------------- |
| `feature`       | F, f_i     | (B, N, d)  | embedding of every node, Psi(f) in the paper         |
| `state`         | y          | (B, N, k)  | what is diffused                                     |
| `seed`          | s          | (B, N, k)  | score map times importance map                       |
| `mu`            | mu         | ()         | share of the walk against the seed                   |
| `beta`          | beta       | ()         | share of the update against the old state            |
| `node_bias`     | c_j        | (B, N)     | log prior of a node, added to column j               |
|                 | S, P       | (B, N, N)  | scores and transition matrix                         |
|                 | L (`lse`)  | (B, N)     | logarithm of the row sums of exp(S)                  |
|                 | z          | (B, N, k)  | P y                                                  |
|                 | a, delta   | (B, N, k), (B, N) | beta mu g, and its inner product with z per row |

i is the row being updated, j the column summed over. They are not a query and a key: both are
the same features, which is what makes S symmetric.
"""

import torch
from torch import Tensor

from difnet_kernels.support.autocast import product


def transition_matrix(feature: Tensor, node_bias: Tensor | None = None) -> Tensor:
    """P = softmax(F F^T + 1 c^T), (B, N, N), in float32 at least."""
    feature = _at_least_float32(feature)
    return torch.softmax(_scores(feature, feature, node_bias), dim=-1)


def random_walk(
    feature: Tensor, state: Tensor, seed: Tensor, mu: Tensor, beta: Tensor, node_bias: Tensor | None = None
) -> Tensor:
    """One walk with P stored. The dtypes are those of `difnet_kernels.ops`."""
    z = product(transition_matrix(feature, node_bias).to(state.dtype), state)
    return beta * (mu * z + (1 - mu) * seed) + (1 - beta) * state


def transition_rows(feature: Tensor, nodes: Tensor, node_bias: Tensor | None = None) -> Tensor:
    """Rows `nodes` (B, n) of P, (B, n, N)."""
    feature = _at_least_float32(feature)
    rows = feature.gather(1, nodes[..., None].expand(-1, -1, feature.shape[-1]))
    return torch.softmax(_scores(rows, feature, node_bias), dim=-1)


def _scores(rows: Tensor, columns: Tensor, node_bias: Tensor | None) -> Tensor:
    scores = product(rows, columns.mT)
    return scores if node_bias is None else scores + node_bias[:, None, :]


def _at_least_float32(feature: Tensor) -> Tensor:
    return feature.to(torch.promote_types(feature.dtype, torch.float32))
