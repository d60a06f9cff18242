r"""The specification: the random walk as plain PyTorch, with the transition matrix stored.

One walk over N nodes with embeddings F (N, d). The numbers on the right are equations of docs/math.md,
which derives the gradients and says where each backend computes each equation. The paper is "DifNet:
Semantic Segmentation by Diffusion Networks" (NeurIPS 2018).

    S_ij = f_i . f_j + c_j                              (1)  scores
    P    = softmax over each row of S                   (2)  transition matrix: paper, Eq. 4
    z    = P y                                          (3)
    y'   = beta (mu z + (1 - mu) s) + (1 - beta) y      (4)  update of the state: paper, Eq. 5

The paper's Eq. 5 is (4) here, and its derivative is (5) to (11) of docs/math.md. `difnet_kernels.blockwise`
computes them line by line. This file leaves derivatives of any order to automatic differentiation, and stores
P, B N^2 numbers for each walk. Every other backend must agree with it. `product` is a matrix product that
autocast does not change.

| public argument | in kernels | shape      | meaning                                             |
| --------------- | ---------- | ---------- | --------------------------------------------------- |
| `feature`       | F, f_i     | (B, N, d)  | embedding of every node, Psi(f) in the paper        |
| `state`         | y          | (B, N, k)  | what is diffused                                    |
| `seed`          | s          | (B, N, k)  | score map times importance map                      |
| `mu`            | mu         | ()         | share of the walk; the seed has 1 - mu              |
| `beta`          | beta       | ()         | share of the update; the old state has 1 - beta     |
| `node_bias`     | c_j        | (B, N)     | log prior of a node, added to column j              |
|                 | S, P       | (B, N, N)  | scores and transition matrix                        |
|                 | L (`lse`)  | (B, N)     | logarithm of the row sums of exp(S)                 |
|                 | z          | (B, N, k)  | P y                                                 |
|                 | g          | (B, N, k)  | gradient of the loss with respect to y'             |
|                 | a          | (B, N, k)  | beta mu g; docs/math.md, section 2                  |
|                 | delta      | (B, N)     | a_i . z_i of each row; docs/math.md, section 2      |

i is the row whose state is updated, j the column that is summed over. They are not a query and a key:
both are rows of the same features, so F F^T is symmetric.
"""

import torch
from torch import Tensor

from difnet_kernels.support.autocast import product


def transition_matrix(feature: Tensor, node_bias: Tensor | None = None) -> Tensor:
    """P = softmax(F F^T + 1 c^T), (B, N, N), in float32 at least."""
    feature = _at_least_float32(feature)
    return torch.softmax(_scores(feature, feature, node_bias), dim=-1)  # (2)


def random_walk(
    feature: Tensor, state: Tensor, seed: Tensor, mu: Tensor, beta: Tensor, node_bias: Tensor | None = None
) -> Tensor:
    """One walk with P stored. The dtypes are those of `difnet_kernels.ops`."""
    z = product(transition_matrix(feature, node_bias).to(state.dtype), state)  # (3)
    return beta * (mu * z + (1 - mu) * seed) + (1 - beta) * state  # (4)


def transition_rows(feature: Tensor, nodes: Tensor, node_bias: Tensor | None = None) -> Tensor:
    """Rows `nodes` (B, n) of P, (B, n, N)."""
    feature = _at_least_float32(feature)
    rows = feature.gather(1, nodes[..., None].expand(-1, -1, feature.shape[-1]))
    return torch.softmax(_scores(rows, feature, node_bias), dim=-1)  # (2)


def _scores(rows: Tensor, columns: Tensor, node_bias: Tensor | None) -> Tensor:
    scores = product(rows, columns.mT)
    return scores if node_bias is None else scores + node_bias[:, None, :]  # (1)


def _at_least_float32(feature: Tensor) -> Tensor:
    return feature.to(torch.promote_types(feature.dtype, torch.float32))
