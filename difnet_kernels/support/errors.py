"""Errors that callers may want to catch by name."""


class BackendError(RuntimeError):
    """The requested backend is unknown or cannot run here."""


class DoubleBackwardError(RuntimeError):
    """A second derivative was taken with a backend that has only the first."""

    def __init__(self) -> None:
        super().__init__(
            f"the random walk's hand-written backward cannot itself be differentiated; {_REFERENCE}. If "
            "torch.compile takes a gradient inside of the graph and you need no second one, inputs of the "
            "graph must not require gradients: detach them"
        )


class ForwardModeError(RuntimeError):
    """A forward-mode derivative was taken with a backend that has only the reverse mode."""

    def __init__(self) -> None:
        super().__init__(
            "the random walk's kernels have no forward-mode derivative (jvp, jacfwd, hessian); " + _REFERENCE
        )


_REFERENCE = (
    'pass backend="reference", which supports derivatives of any order and mode (and stores P, N x N)'
)
