"""Errors with names of their own, so that callers can catch them."""


class BackendError(RuntimeError):
    """A backend was asked for by name and is unknown or cannot run here."""


class DoubleBackwardError(RuntimeError):
    """A second derivative was asked of a backend that has only the first."""

    def __init__(self) -> None:
        super().__init__(
            f"the random walk's hand-written backward cannot itself be differentiated; {_REFERENCE}. Where "
            "torch.compile takes a gradient inside of the graph and no second one is wanted, give it inputs "
            "that require no gradients: detach them"
        )


class ForwardModeError(RuntimeError):
    """A forward-mode derivative was asked of a backend that has only the reverse-mode one."""

    def __init__(self) -> None:
        super().__init__(
            "the random walk's kernels have no forward-mode derivative (jvp, jacfwd, hessian); " + _REFERENCE
        )


_REFERENCE = (
    'pass backend="reference", which supports derivatives of any order and mode (and stores P, N x N)'
)
