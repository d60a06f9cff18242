"""Diffusion of predictions over an image by learned random walks: exact, memory-linear, on every machine."""

from importlib.metadata import PackageNotFoundError, version

from difnet_kernels.backends import backends
from difnet_kernels.functional import cascaded_random_walk, random_walk, transition_rows
from difnet_kernels.support.errors import BackendError, DoubleBackwardError, ForwardModeError

try:
    __version__ = version("difnet-kernels")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "BackendError",
    "DoubleBackwardError",
    "ForwardModeError",
    "__version__",
    "backends",
    "cascaded_random_walk",
    "random_walk",
    "transition_rows",
]
