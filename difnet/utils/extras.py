"""One clear error if a package of the ``[train]`` extra is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def train_extra() -> Iterator[None]:
    """Wrap imports of optional packages; name the missing one and the remedy.

    Raises:
        ImportError: a package imported inside the block is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("difnet", "difnet_kernels"):
            raise
        raise ImportError(
            f"difnet needs the package {error.name!r}, which is not installed; "
            "install the training extra: pip install 'difnet-kernels[train]'",
            name=error.name,
        ) from error
