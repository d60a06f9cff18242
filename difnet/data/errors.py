"""Errors of the data on disk, how many of them are shown, and the number of pixels without a class."""

VOID = 255
"""Label value of pixels without a class, which the loss and every metric ignore."""


class DataError(ValueError):
    """The data on disk cannot be used; the message names file, value and remedy."""

    def __init__(self, message: str):
        # In a data-loading worker, PyTorch puts a traceback before the message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def listed(items: list[str], shown: int = 5) -> str:
    """Join the first `shown` items, and say how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def raise_all(errors: list[str], where: str, shown: int = 10) -> None:
    """Raise a `DataError` that lists the first `shown` errors, if there are any."""
    if not errors:
        return
    lines = [f"{where}: {len(errors)} item(s) cannot be used", *(f"  {error}" for error in errors[:shown])]
    if len(errors) > shown:
        lines.append(f"  ... and {len(errors) - shown} more")
    raise DataError("\n".join(lines))
