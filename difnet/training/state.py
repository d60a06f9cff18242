"""state.safetensors, from which an interrupted run continues: weights, optimizer, random states, progress."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from difnet.training.run_folder import RunError
from difnet.utils.files import write_atomically
from difnet.utils.weights_file import checksum

FORMAT = 1


class State(NamedTuple):
    """The content of a state file.

    Attributes:
        path: the file.
        tensors: "model.*", "optimizer.INDEX.*" and "rng.*" by name.
        header: progress and scalars.
    """

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any]

    def restore_model(self, model: nn.Module) -> None:
        """Load all weights and buffers.

        Raises:
            RunError: they belong to another network.
        """
        saved, built = _below(self.tensors, "model."), model.state_dict()
        for name in [*built, *saved]:
            if name not in saved or name not in built or saved[name].shape != built[name].shape:
                raise self._other_settings(
                    "network", "model, aspp, walk_sources and the options of the walks", name
                )
        model.load_state_dict(saved)

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Load the per-parameter state; the groups keep the settings of the configuration.

        Raises:
            RunError: the state belongs to another optimizer or to other parameters.
        """
        state: dict[int, dict[str, Any]] = {}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        adam = isinstance(optimizer, torch.optim.AdamW)
        keys = {"step", "exp_avg", "exp_avg_sq"} if adam else {"momentum_buffer"}
        for name, tensor in _below(self.tensors, "optimizer.").items():
            index, _, key = name.partition(".")
            if key not in keys or not index.isdecimal() or int(index) >= len(parameters):
                raise self._other_settings("optimizer", "optimizer", f"optimizer.{name}")
            if tensor.shape != (() if key == "step" else parameters[int(index)].shape):
                raise _damaged(self.path, f"optimizer.{name} is of shape {tuple(tensor.shape)}")
            state.setdefault(int(index), {})[key] = tensor
        for number, values in state.items():
            for key in keys - values.keys():
                raise _damaged(self.path, f"optimizer.{number}.{key} is missing")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def restore_random_states(self, process: int, device: torch.device) -> None:
        """Restore the random states of process number `process`.

        A process that the saved run did not have keeps its own.

        Raises:
            RunError: the file does not hold valid random states.
        """
        states = _below(self.tensors, "rng.")
        try:
            if process < len(states["cpu"]):
                # Of a tensor that starts inside its storage, torch.set_rng_state reads beyond the end.
                torch.set_rng_state(states["cpu"][process].clone())
                if "cuda" in states and device.type == "cuda":
                    torch.cuda.set_rng_state(states["cuda"][process], device)
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise _damaged(self.path, f"rng, the random states: {error}") from error

    def _other_settings(self, what: str, keys: str, tensor: str) -> RunError:
        return RunError(
            f"{self.path} was saved with another {what} than {self.path.with_name('config.json')} describes "
            f"(as {tensor} shows); restore {keys} in that file, or start a new run"
        )


def write_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random_states: dict[str, Tensor],
    header: dict[str, Any],
) -> None:
    """Replace the state file.

    Args:
        path: the file.
        model, optimizer: not wrapped.
        random_states: "cpu" and, with CUDA, "cuda": (processes, bytes) uint8.
        header: progress and scalars that JSON can hold.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        # A value of None (the momentum before the first step) is left out, and so restored as None.
        tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items() if value is not None}
    tensors |= {f"rng.{name}": value for name, value in random_states.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "checksum": checksum(plain), **header}
    metadata = {"difnet.state": json.dumps(header, allow_nan=False)}
    write_atomically(path, save(plain, metadata))


def read_state(path: Path) -> State | None:
    """Read the state file; None if there is none, because the run stopped before its first checkpoint.

    Raises:
        RunError: the file is damaged, or another version wrote it.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["difnet.state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(header, dict):
        raise _damaged(path, f"its header is {header!r}")
    if header.get("format") != FORMAT:
        raise RunError(
            f"{path} has format {header.get('format')}, this version reads {FORMAT}; "
            "continue the run with the version that wrote it (see environment.json)"
        )
    found = checksum(tensors)
    if header.get("checksum", found) != found:  # earlier versions wrote no checksum
        raise _damaged(path, f"its checksum is {found}, but {header['checksum']} was saved")
    step, classes = header.get("step"), header.get("classes", [])  # some earlier versions wrote no classes
    if not isinstance(step, int) or step < 0:
        raise _damaged(path, f"its header holds step = {step!r}")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _damaged(path, f"its header holds classes = {classes!r}")
    return State(path, tensors, header)


def _damaged(file: Path, reason: str) -> RunError:
    return RunError(f"{file} is damaged ({reason}); restore it from a copy, or start a new run")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
