"""The device that a command computes on."""

import torch


def default_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, or the best one present.

    Raises:
        ValueError: PyTorch does not know the name, or the device is absent.
    """
    best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name is None:
        return best
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add(1).item()  # the meta device fails here, because it computes nothing
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        present = " or ".join(dict.fromkeys((best.type, "cpu")))
        raise ValueError(
            f"--device {name} cannot be used on this machine: {reason}; choose {present}"
        ) from error
    return device
