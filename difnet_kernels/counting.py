"""What `torch.utils.flop_counter.FlopCounterMode` counts for the operators: the reference's products."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

COUNTER = "torch.utils.flop_counter"
Shape = Sequence[int]


def forward_flops(feature: Shape, state: Shape, *_: Any, **__: Any) -> int:
    """Count the products of one walk, F F^T and P y: two operations for a multiply-add."""
    batch, nodes, width = feature
    return 2 * batch * nodes**2 * (width + state[-1])


def backward_flops(grad: Shape, feature: Shape, *args: Any, **_: Any) -> int:
    """Count the products of the gradients that are asked for. Scores that are computed again do not count."""
    batch, nodes, width = feature
    need_feature, need_state, _seed, _mu, _beta, need_bias = args[-1]
    of_states = grad[-1] * (need_state + (need_feature or need_bias))
    return 2 * batch * nodes**2 * (2 * width * need_feature + of_states)


def register_when_imported(forward: Any, backward: Any) -> None:
    """Register the formulas with PyTorch's counter once a program imports it.

    It is not imported here, because it imports Triton, or warns where there is none.
    """
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER], forward, backward)
    else:
        sys.meta_path.insert(0, _Finder(forward, backward))


def _register(counter: ModuleType, forward: Any, backward: Any) -> None:
    counter.register_flop_formula(forward)(forward_flops)
    counter.register_flop_formula(backward)(backward_flops)


class _Finder(MetaPathFinder):
    """Finds the counter as it is found without it, and registers the formulas after its import."""

    def __init__(self, forward: Any, backward: Any):
        self.operators = forward, backward
        self.asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if name != COUNTER or self.asking:
            return None
        self.asking = True  # the other finders, through the function that asks all of them
        try:
            spec = find_spec(name)
        finally:
            self.asking = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register(module, *self.operators)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
