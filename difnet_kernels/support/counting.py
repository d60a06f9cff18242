"""Formulas for `torch.utils.flop_counter.FlopCounterMode`: it counts the matrix products of the reference."""

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
    """Count the products of the requested gradients. Computing the scores again does not count."""
    batch, nodes, width = feature
    need_feature, need_state, _seed, _mu, _beta, need_bias = args[-1]
    per_pair = 2 * width * need_feature + grad[-1] * (need_state + (need_feature or need_bias))
    return 2 * batch * nodes**2 * per_pair


def product_flops(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    """Count a matrix product with broadcast leading axes."""
    images = math.prod(torch.broadcast_shapes(left[:-2], right[:-2]))
    return 2 * images * left[-2] * left[-1] * right[-1]


def register_when_imported(formulas: Formulas) -> None:
    """Register the operators' formulas with PyTorch's counter as soon as a program imports the counter.

    Importing it here would import Triton, or warn that Triton is missing.
    """
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER], formulas)
    else:
        sys.meta_path.insert(0, _Finder(formulas))


def _register(counter: ModuleType, formulas: Formulas) -> None:
    for operator, formula in formulas.items():
        counter.register_flop_formula(operator)(formula)


class _Finder(MetaPathFinder):
    """Lets the other finders find the counter, and registers the formulas after its import."""

    def __init__(self, formulas: Formulas):
        self.formulas = formulas
        self.searching = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != COUNTER or self.searching:
            return None
        self.searching = True  # find_spec below asks every finder, including this one
        try:
            spec = find_spec(name)
        finally:
            self.searching = False
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
