"""The named cases, and the inputs they stand for."""

from typing import NamedTuple

import torch

from difnet_kernels.testing import Inputs, make_inputs

WIDTH = 64


class Case(NamedTuple):
    """Sizes of a cascade: B images of N nodes, T walks, k classes; features are 64 wide."""

    name: str
    batch: int
    nodes: int
    walks: int
    classes: int

    @property
    def pairs(self) -> int:
        """Pairs of nodes over all images and walks."""
        return self.walks * self.batch * self.nodes**2

    def inputs(self, sharpness: str, dtype: torch.dtype, device: torch.device) -> Inputs:
        """Features of a named sharpness in `dtype`, all else in float32, on `device`."""
        made = make_inputs(self.batch, self.nodes, WIDTH, self.classes, self.walks, sharpness)
        made = made._replace(state=made.seed).to(dtype, torch.float32)
        return Inputs(
            [feature.to(device) for feature in made.features],
            made.seed.to(device),
            made.mu.to(device),
            made.beta.to(device),
            made.seed.to(device),
            None,
        )


CASES = {
    "paper-inference": [Case("paper-inference", 1, 64 * 64, 5, 21)],
    "paper-training": [Case("paper-training", 16, 41 * 41, 5, 21)],
    "context": [Case("context", 1, 64 * 64, 5, 60)],
    "camvid": [Case("camvid", 1, 45 * 60, 5, 11)],
    "full-resolution": [Case("full-resolution", 1, 505 * 505, 1, 21)],
}
SWEEP = [2**exponent for exponent in range(10, 21)]


def cases(name: str, device: torch.device) -> list[Case]:
    """The cases of a name; "sweep" ends at N = 16,384 on a CPU by default, at a million on a GPU."""
    if name != "sweep":
        return CASES[name]
    largest = 2**14 if device.type == "cpu" else 2**20
    return [Case("sweep", 1, nodes, 1, 21) for nodes in SWEEP if nodes <= largest]
