"""The run folder: what a training run leaves on disk, and how it goes on after an interruption.

    config.json         the resolved settings
    environment.json    one entry per start: versions, commit, CPU, threads
    metrics.jsonl       one line per logged step and per evaluation, by which a continued run knows the best
    state.safetensors   everything needed to continue: weights, optimizer, random states, progress
    last.safetensors    weights of the latest evaluation, best.safetensors of the best one
    tensorboard/        the same metrics as TensorBoard events
    overlays/           validation pictures
    .lock               held by the process that writes here, and freed by the system when that ends

Every file but the two logs is replaced as a whole, so that a kill at any moment leaves a run that resumes;
the logs are cut back to the step of the state. Nothing is unpickled.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from difnet.modeling.weights import checksum, read_weights
from difnet.training.config import TrainConfig
from difnet.training.metrics import to_json
from difnet.utils.files import WriteError, file_to_write, is_within, prepare_folder, write_atomically, writing
from difnet_kernels.info import environment

FORMAT = 1

_FOLDERS = ("tensorboard", "overlays")
_FILES = (
    *("config.json", "environment.json", "metrics.jsonl"),
    *("state.safetensors", "last.safetensors", "best.safetensors"),
)
_PACKAGES = (
    *("difnet-kernels", "torch", "torchvision", "timm"),
    *("accelerate", "torchmetrics", "numpy", "pillow"),
)
_COMPARED = ("packages", "commit", "cpu", "cpu_capability", "threads", "gpus", "processes", "walks", "images")


def describe_start(walk_backend: str, processes: int = 1) -> dict[str, Any]:
    """Time, command, versions, commit, CPU, GPUs, processes and the backend of the walks, as plain values."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        **environment(_PACKAGES),
        "processes": processes,
        "walks": walk_backend,
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What may change the arithmetic between two starts of a run, as "name: old -> new"."""
    return [
        f"{name}: {old[name]} -> {new[name]}" for name in _COMPARED if name in old and old[name] != new[name]
    ]


class RunError(ValueError):
    """A run cannot be started or continued; the message names file and remedy."""


class State(NamedTuple):
    """What `RunFolder.load_state` read.

    Attributes:
        path: the file.
        tensors: "model.*", "optimizer.INDEX.*" and "rng.*" by name.
        header: progress and scalars.
    """

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any]

    def restore_model(self, model: nn.Module) -> None:
        """Load the weights and buffers, all of them.

        Raises:
            RunError: they are of another network.
        """
        saved, built = _below(self.tensors, "model."), model.state_dict()
        for name in [*built, *saved]:
            if name not in saved or name not in built or saved[name].shape != built[name].shape:
                raise self._other_settings("network", "model, aspp and walks", name)
        model.load_state_dict(saved)

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Load the per-parameter state; the groups keep the settings of the configuration.

        Raises:
            RunError: it is of another optimizer, or of other parameters.
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
        """Go on with the random numbers of a process; one that was not there has its own.

        Raises:
            RunError: the file does not hold them.
        """
        states = _below(self.tensors, "rng.")
        try:
            if process < len(states["cpu"]):
                torch.set_rng_state(states["cpu"][process])
                if "cuda" in states and device.type == "cuda":
                    torch.cuda.set_rng_state(states["cuda"][process], device)
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise _damaged(self.path, f"rng, the random states: {error}") from error

    def _other_settings(self, what: str, keys: str, tensor: str) -> RunError:
        return RunError(
            f"{self.path} is of another {what} than {self.path.with_name('config.json')} describes "
            f"(as {tensor} shows); restore {keys} there, or start a new run"
        )


class RunFolder:
    """One training run on disk. Only the main process of a distributed run writes to it."""

    def __init__(self, path: Path):
        self.path = path
        self.state_file = path / "state.safetensors"
        self.config_file = path / "config.json"
        self.made = False  # whether `create` made the folder
        self.metrics_file = path / "metrics.jsonl"
        self.lock = FileLock(path / ".lock")

    @staticmethod
    def create(path: Path, config: TrainConfig) -> "RunFolder":
        """Make a new run folder, and hold it until `close`.

        Raises:
            RunError: a run, or part of one, is in it already, it lies among the data, or it cannot be written
                to.
        """
        run = RunFolder(path)
        if run.config_file.is_file():
            raise RunError(
                f"{path} holds a run already; continue it with --resume {path} or choose another --out"
            )
        left = [name for name in (*_FILES, *_FOLDERS) if os.path.lexists(path / name)]
        if left:  # --resume, --checkpoint and TensorBoard would take them for this run's
            them = "it" if len(left) == 1 else "them"
            raise RunError(
                f"{path} holds {', '.join(left)} of another run; move {them} away or choose another --out"
            )
        if config.data_root is not None:
            for data in (config.data_root / "images", config.data_root / "labels"):
                if is_within(path, data):
                    raise RunError(
                        f"run folder {path} is in {data}, where its pictures would be taken for data; choose "
                        "another --out"
                    )
        run.made = not path.exists()
        run._hold()
        try:
            write_atomically(run.config_file, config.to_json())
        except OSError as error:
            run.abandon()
            raise RunError(str(error)) from error
        return run

    def abandon(self) -> None:
        """Remove what a run that cannot begin wrote, so that its folder can be used again."""
        with contextlib.suppress(OSError):  # the reason why the run cannot begin is what its user must see
            for name in _FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
            Path(self.lock.lock_file).unlink(missing_ok=True)  # while no other process can hold it
            self.close()
            if self.made:
                self.path.rmdir()

    def close(self) -> None:
        """Let other processes continue the run."""
        self.lock.release()

    def _hold(self) -> None:
        """See that this process, and no other, can write to the folder.

        Raises:
            RunError: it cannot.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise RunError(
                f"run folder {self.path}: its name is not UTF-8, and TensorBoard writes to no such folder; "
                "choose another name"
            ) from error
        try:
            prepare_folder(self.path)
            with writing(self.path):
                try:
                    self.lock.acquire(timeout=0)
                except Timeout as error:
                    raise RunError(
                        f"another process, or a Trainer of this one, is writing to {self.path}; wait "
                        "until it has ended, or stop it"
                    ) from error
        except WriteError as error:
            raise RunError(str(error)) from error

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """Open a run to continue it, hold it until `close`, and remove what an interrupted write left.

        Raises:
            RunError: there is no run, another process is writing to it, or it cannot be written to.
        """
        run = RunFolder(path)
        run.check()
        run._hold()
        try:
            for name in _FILES:
                file_to_write(path / name)
            for name in _FOLDERS:
                if (path / name).exists():
                    prepare_folder(path / name)
            for pattern in (".*.tmp", ".*.partial"):
                for leftover in (*path.glob(pattern), *(path / "overlays").glob(pattern)):
                    if leftover.is_file():
                        leftover.unlink()
        except OSError as error:
            run.close()
            raise RunError(f"run folder {path} cannot be written ({error}); make it writable") from error
        return run

    def check(self) -> None:
        """See that there is a run to continue.

        Raises:
            RunError: there is none.
        """
        if not self.config_file.is_file():
            lack = "holds no run (config.json is missing)" if self.path.is_dir() else "is not a folder"
            raise RunError(
                f"{self.path} {lack}; --resume takes the folder of a run, "
                "training without --resume starts a new one"
            )

    def kept(self) -> str:
        """For messages of a run that ends early: what is left, and how to go on from it."""
        if self.state_file.is_file():
            return f"the last checkpoint is whole, continue with --resume {self.path}"
        return f"there is no checkpoint yet, --resume {self.path} starts over"

    def add_environment(self, environment: dict[str, Any]) -> list[dict[str, Any]]:
        """Append the environment of this start; return those of all starts so far.

        Raises:
            RunError: those of earlier starts cannot be read.
        """
        file = self.path / "environment.json"
        try:
            starts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
            starts = [*map(dict, starts), environment]
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{file} is damaged ({error}); restore it from a copy, or remove it: a run goes on without"
            ) from error
        write_atomically(file, json.dumps(starts, indent=2) + "\n")
        return starts

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with writing(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")

    def cut_log(self, step: int) -> None:
        """Drop the lines of metrics.jsonl after `step`, and a torn last one: the run repeats those steps."""
        if self.metrics_file.is_file():
            write_atomically(self.metrics_file, "".join(f"{line}\n" for line, _ in self._logged(step)))

    def evaluations(self, step: int) -> list[dict[str, Any]]:
        """Records of the evaluations up to `step`, the oldest first."""
        records = [record for _, record in self._logged(step) if record.get("kind") == "val"]
        for record in records:
            for key, kinds in (("mean_iou", (int, float)), ("iou", dict)):
                if not isinstance(record.get(key), kinds):
                    raise RunError(
                        f"{self.metrics_file}: the evaluation of step {record['step']} has {key} = "
                        f"{record.get(key)!r}; restore the file from a copy, or remove that line"
                    )
        return records

    def saved_with(self, name: str) -> dict[str, Any] | None:
        """The metadata of best.safetensors or last.safetensors; None where it is missing or damaged."""
        try:
            return read_weights(self.path / f"{name}.safetensors").metadata
        except (OSError, ValueError):
            return None

    def _logged(self, step: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Lines of metrics.jsonl up to `step` and what they hold; a torn one is passed over."""
        if not self.metrics_file.is_file():
            return
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                if record["step"] <= step:
                    yield line, record
            except (json.JSONDecodeError, KeyError, TypeError):
                continue

    def save_state(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        random_states: dict[str, Tensor],
        header: dict[str, Any],
    ) -> None:
        """Replace the state to continue from.

        Args:
            model, optimizer: unwrapped.
            random_states: "cpu" and perhaps "cuda": (processes, bytes) uint8.
            header: progress and scalars, as JSON can hold them.
        """
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for index, values in optimizer.state_dict()["state"].items():
            # A value of None (momentum before the first step) is restored by its absence.
            tensors |= {
                f"optimizer.{index}.{key}": value for key, value in values.items() if value is not None
            }
        tensors |= {f"rng.{name}": value for name, value in random_states.items()}
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"format": FORMAT, "checksum": checksum(plain), **header}
        metadata = {"difnet.state": json.dumps(header, allow_nan=False)}
        write_atomically(self.state_file, save(plain, metadata))

    def load_state(self) -> State | None:
        """The last whole state, or None where the run was stopped before its first checkpoint.

        Raises:
            RunError: the file was damaged or written by another version.
        """
        if not self.state_file.is_file():
            return None
        try:
            with safe_open(self.state_file, framework="pt") as file:
                header = json.loads((file.metadata() or {})["difnet.state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise _damaged(self.state_file, str(error)) from error
        if not isinstance(header, dict):
            raise _damaged(self.state_file, f"its header is {header!r}")
        if header.get("format") != FORMAT:
            raise RunError(
                f"{self.state_file} has format {header.get('format')}, this version reads {FORMAT}; "
                "continue the run with the version that wrote it (environment.json)"
            )
        known = checksum(tensors)
        if header.get("checksum", known) != known:  # earlier versions wrote none
            raise _damaged(
                self.state_file, f"its checksum is {known}, that of what was saved {header['checksum']}"
            )
        step, classes = header.get("step"), header.get("classes", [])  # nor did all of them write the classes
        if not isinstance(step, int) or step < 0:
            raise _damaged(self.state_file, f"its header holds step = {step!r}")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise _damaged(self.state_file, f"its header holds classes = {classes!r}")
        return State(self.state_file, tensors, header)


def _damaged(file: Path, reason: str) -> RunError:
    return RunError(f"{file} is damaged ({reason}); restore it from a copy, or start a new run")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
