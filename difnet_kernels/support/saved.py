"""What the forward of a walk saves for its backward."""

from typing import NamedTuple

from torch import Tensor


class SavedWalk(NamedTuple):
    """Tensors of one walk, in the order in which the backward operators take them."""

    feature: Tensor
    state: Tensor
    seed: Tensor
    z: Tensor
    lse: Tensor
    mu: Tensor
    beta: Tensor
    node_bias: Tensor | None
