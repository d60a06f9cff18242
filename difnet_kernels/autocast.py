"""Autocast turned off, on devices that have it and on those that have not."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within it, operations on the device compute in the types of their inputs."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # torch.autocast rejects some device types, such as meta
