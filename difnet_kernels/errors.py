"""Errors with names of their own, so that callers can catch them."""


class BackendError(RuntimeError):
    """A backend was asked for by name and is unknown or cannot run here."""


class DoubleBackwardError(RuntimeError):
    """A second derivative was asked of a backend that has only the first."""


class ForwardModeError(RuntimeError):
    """A forward-mode derivative was asked of a backend that has only the reverse one."""
