"""The named cases of the benchmark, and their inputs."""

from typing import NamedTuple

import torch

from difnet_kernels.testing import Inputs, make_inputs

FEATURE_WIDTH = 64
FORWARD, FORWARD_BACKWARD = MODES = ("forward", "forward+backward")


class Case(NamedTuple):
    """Sizes of a cascade: B images of N nodes, T walks, k classes. Features are 64 wide."""

    name: str
    batch: int
    nodes: int
    walks: int
    classes: int
    modes: tuple[str, ...] = MODES
    """The modes that are measured by default."""
    sharpness: str = "mixed"
    """The default features. "pooled" ones are like those of the network's similarity branch."""

    @property
    def pairs(self) -> int:
        """Pairs of nodes, over all images and walks."""
        return self.walks * self.batch * self.nodes**2

    def make_inputs(self, sharpness: str, dtype: torch.dtype, device: torch.device) -> Inputs:
        """Features of a named sharpness in `dtype`, all other inputs in float32. The state is the seed."""
        made = make_inputs(self.batch, self.nodes, FEATURE_WIDTH, self.classes, self.walks, sharpness)
        made = made.to(dtype, torch.float32)
        return Inputs(
            [feature.to(device) for feature in made.features],
            made.seed.to(device),
            made.mu.to(device),
            made.beta.to(device),
            made.seed.to(device),
            None,
        )


SWEEP, SPEED = "sweep", "native-speed"
CASES = {
    "paper-inference": [Case("paper-inference", 1, 64 * 64, 5, 21, (FORWARD,), "pooled")],
    "paper-training": [Case("paper-training", 16, 41 * 41, 5, 21, (FORWARD_BACKWARD,), "pooled")],
    "context": [Case("context", 1, 64 * 64, 5, 60)],
    "camvid": [Case("camvid", 1, 45 * 60, 5, 11)],
    "native-walk": [
        Case("native-walk", 1, 64 * 64, 1, 21),
        Case("native-walk", 16, 41 * 41, 1, 21),
        Case("native-walk", 1, 128 * 128, 1, 21),
    ],
    SPEED: [
        Case(SPEED, 1, 64 * 64, 1, 21),
        Case(SPEED, 1, 64 * 64, 1, 21, sharpness="pooled"),
        Case(SPEED, 1, 128 * 128, 1, 21),
        Case(SPEED, 16, 41 * 41, 1, 21, sharpness="pooled"),
        Case(SPEED, 1, 45 * 60, 1, 11),
        Case(SPEED, 1, 64 * 64, 1, 60),
        Case(SPEED, 1, 1024, 1, 21),
        Case(SPEED, 1, 256, 1, 21),
        Case(SPEED, 1, 64, 1, 21),
        Case(SPEED, 8, 64, 5, 6),  # a training step of `make demo`: crops of 64 pixels
    ],
    "full-resolution": [Case("full-resolution", 1, 505 * 505, 1, 21, (FORWARD,))],
    "tiny": [Case("tiny", 1, 150, 2, 5)],
}
NAMES = (*CASES, SWEEP)
DEFAULT = ("paper-inference", "paper-training", SWEEP)


def cases_of(name: str, device: torch.device) -> list[Case]:
    """The cases of a name.

    "sweep" is one walk at growing N: up to 65,536 nodes on a CPU (4,096 with gradients), up to 2^20 on a GPU.
    """
    if name != SWEEP:
        return CASES[name]
    if device.type != "cpu":
        return [Case(SWEEP, 1, 2**exponent, 1, 21) for exponent in range(10, 21)]
    sizes = (2**10, 2**12, 2**14, 2**16)
    return [Case(SWEEP, 1, n, 1, 21, MODES if n < 2**14 else (FORWARD,)) for n in sizes]
