"""The named cases, and the inputs they stand for."""

from typing import NamedTuple

import torch

from difnet_kernels.testing import Inputs, make_inputs

WIDTH = 64
FORWARD, TRAINING = MODES = ("forward", "forward+backward")


class Case(NamedTuple):
    """Sizes of a cascade: B images of N nodes, T walks, k classes; features are 64 wide."""

    name: str
    batch: int
    nodes: int
    walks: int
    classes: int
    modes: tuple[str, ...] = MODES
    """What is measured unless asked otherwise."""
    sharpness: str = "mixed"
    """Of the features, unless asked otherwise: `pooled` is what the network's similarity branch gives."""

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
    "paper-inference": [Case("paper-inference", 1, 64 * 64, 5, 21, (FORWARD,), "pooled")],
    "paper-training": [Case("paper-training", 16, 41 * 41, 5, 21, (TRAINING,), "pooled")],
    "context": [Case("context", 1, 64 * 64, 5, 60)],
    "camvid": [Case("camvid", 1, 45 * 60, 5, 11)],
    "native-walk": [
        Case("native-walk", 1, 64 * 64, 1, 21),
        Case("native-walk", 16, 41 * 41, 1, 21),
        Case("native-walk", 1, 128 * 128, 1, 21),
    ],
    "full-resolution": [Case("full-resolution", 1, 505 * 505, 1, 21, (FORWARD,))],
    "tiny": [Case("tiny", 1, 150, 2, 5)],
}
DEFAULT = ("paper-inference", "paper-training", "sweep")
NAMES = (*CASES, "sweep")


def cases(name: str, device: torch.device) -> list[Case]:
    """The cases of a name; "sweep" goes to N = 65,536 on a CPU (4,096 with gradients), to 2^20 on a GPU."""
    if name != "sweep":
        return CASES[name]
    if device.type != "cpu":
        return [Case("sweep", 1, 2**exponent, 1, 21) for exponent in range(10, 21)]
    sizes = (2**10, 2**12, 2**14, 2**16)
    return [Case("sweep", 1, n, 1, 21, MODES if n < 2**14 else (FORWARD,)) for n in sizes]
