"""Diffusion of predictions over an image by learned random walks: exact, memory-linear, on every machine."""

from difnet_kernels.backends import backends
from difnet_kernels.functional import cascaded_random_walk, random_walk, transition_rows
from difnet_kernels.support.errors import BackendError, DoubleBackwardError, ForwardModeError

__all__ = [
    "BackendError",
    "DoubleBackwardError",
    "ForwardModeError",
    "backends",
    "cascaded_random_walk",
    "random_walk",
    "transition_rows",
]
