"""What `torch.utils.flop_counter.FlopCounterMode` counts for the operators: the reference's products."""

import math
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

COUNTER = "torch.utils.flop_counter"
Shape = Sequence[int]
Formulas = dict[Any, Callable[..., int]]


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


def product_flops(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    """Count a product of matrices."""
    images = math.prod(torch.broadcast_shapes(left[:-2], right[:-2]))
    return 2 * images * left[-2] * left[-1] * right[-1]


def register_when_imported(formulas: Formulas) -> None:
    """Register the formulas of operators with PyTorch's counter once a program imports it.

    It is not imported here, because it imports Triton, or warns where there is none.
    """
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER], formulas)
    else:
        sys.meta_path.insert(0, _Finder(formulas))


def _register(counter: ModuleType, formulas: Formulas) -> None:
    for operator, formula in formulas.items():
        counter.register_flop_formula(operator)(formula)


class _Finder(MetaPathFinder):
    """Finds the counter as it is found without it, and registers the formulas after its import."""

    def __init__(self, formulas: Formulas):
        self.formulas = formulas
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
            _register(module, self.formulas)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
