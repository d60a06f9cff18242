"""Settings of a network: how its walks differ from the paper's, and the checks of whole numbers."""

import dataclasses
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Affinity = Literal["dot", "gaussian", "cosine"]
Gates = Literal["learned", "mu-fixed", "tied"]


@dataclass(frozen=True)
class DiffusionOptions:
    """How the walks of a `DifNet` work; the defaults are the paper's.

    Raises:
        ValueError: a value is out of its range.
        TypeError: a value is of another type.
    """

    affinity: Affinity = "dot"
    """The score of nodes i and j, before the division by the temperature: "dot" is f_i . f_j. "gaussian" is
    -|f_i - f_j|^2 / 2. "cosine" is d cos(f_i, f_j), the dot product of features scaled to length sqrt(d).
    By "dot", a node with long features has a high score with every node, and by the others it has not."""
    temperature: float = 1.0
    """All scores are divided by it. sqrt(d) = 8 is usual in attention."""
    learn_temperature: bool = False
    """Learn the logarithm of the temperature of each walk."""
    gates: Gates = "learned"
    """"learned" is a mu and a beta for each walk. "mu-fixed" keeps every mu at 1/2. "tied" is one mu and one
    beta for all walks."""
    importance: bool = True
    """Weight the score map by the importance map M; if not, the seed is the score map."""
    detach_seed: bool = False
    """Stop the gradient of the walks at the seed. The seed branch then learns from a loss of the seed alone,
    as a network without walks does, and the walks learn to improve what it predicts."""
    shared_transition: bool = False
    """One matrix P for all walks: that of the last walk."""
    reach: float = 0.0
    """If positive, half the square of the distance of two nodes over the reach is subtracted from their
    score, so that P is local. It is in pixels of the image that the network is given. Each walk learns its
    reach from this start. At 0, P ignores distance."""
    node_stride: int = 8
    """Pixels from one node to the next: 8, 4, 2 or 1. Below 8, the seed is upsampled to the nodes before it
    is diffused, and so are features that are coarser than the nodes."""

    def __post_init__(self) -> None:
        for name, choices in (("affinity", get_args(Affinity)), ("gates", get_args(Gates))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, lowest in (("temperature", "a positive number"), ("reach", "0 or a positive number")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: expected a number, got {value!r}")
            if not 0.0 <= value < math.inf or (value == 0.0 and name == "temperature"):
                raise ValueError(f"{name}: expected {lowest}, got {value}")
        if whole_number(self.node_stride) not in (1, 2, 4, 8):
            raise ValueError(f"node_stride: expected 8, 4, 2 or 1, got {self.node_stride!r}")
        object.__setattr__(self, "node_stride", int(self.node_stride))
        for name in ("learn_temperature", "importance", "detach_seed", "shared_transition"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")

    @staticmethod
    def make(values: "DiffusionOptions | Mapping[str, Any] | None") -> "DiffusionOptions":
        """Return options from options, from a mapping of some of them, or the paper's from None.

        Raises:
            ValueError, TypeError: a key is unknown, or a value is not possible.
        """
        if isinstance(values, DiffusionOptions):
            return values
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(f"diffusion: expected DiffusionOptions or a mapping, got {values!r}")
        known = [field.name for field in dataclasses.fields(DiffusionOptions)]
        unknown = [key for key in values or {} if key not in known]
        if unknown:
            raise ValueError(f"diffusion: no option {unknown[0]!r}; known are {', '.join(known)}")
        return DiffusionOptions(**(values or {}))

    def changes(self) -> dict[str, Any]:
        """Return the options that differ from the paper's."""
        paper = dataclasses.asdict(DiffusionOptions())
        return {name: value for name, value in dataclasses.asdict(self).items() if value != paper[name]}


def whole_number(value: Any) -> int | None:
    """Convert an integer of any library to Python's; None for anything else, booleans included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def positive_whole_number(argument: str, value: Any) -> int:
    """Convert a positive integer of any library to Python's.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is below 1.
    """
    count = whole_number(value)
    if count is None:
        raise TypeError(f"{argument}: expected an integer, got {value!r}")
    if count < 1:
        raise ValueError(f"{argument}: expected at least 1, got {count}")
    return count
