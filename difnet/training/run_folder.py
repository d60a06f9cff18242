"""The run folder: the files that a training run leaves on disk.

    config.json         the resolved settings
    environment.json    one entry per start: versions, commit, CPU, threads
    metrics.jsonl       one line per logged step and per evaluation; a continued run reads the last evaluation
    state.safetensors   everything needed to continue, see `difnet.training.state`
    last.safetensors    weights of the last evaluation
    best.safetensors    weights and metrics of the best evaluation
    tensorboard/        the same metrics as TensorBoard events
    overlays/           validation pictures
    .lock               locked by the process that writes here; the system frees it when that process ends

Every file but the two logs is replaced as a whole, so a run that is killed at any moment can be resumed. The
logs are then cut back to the step of the state. Nothing is unpickled.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from difnet.data.folder import data_folders, is_plain
from difnet.measures.segmentation import to_json
from difnet.training.config import TrainConfig
from difnet.utils.files import WriteError, file_to_write, is_within, prepare_folder, write_atomically, writing
from difnet.utils.weights_file import read_weights
from difnet_kernels.info import environment

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
    """List what differs between two starts of a run and may change results, as "name: old -> new"."""
    return [
        f"{name}: {old[name]} -> {new[name]}" for name in _COMPARED if name in old and old[name] != new[name]
    ]


class RunError(ValueError):
    """A run cannot start, or must end early; the message says why and names a remedy."""


class RunFolder:
    """One training run on disk. In a distributed run, only the main process writes to it."""

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.state_file = path / "state.safetensors"
        self.lock = FileLock(path / ".lock")
        self.is_new = False  # `create` started the run
        self.made_folder = False  # `create` made the folder

    @staticmethod
    def create(path: Path, config: TrainConfig) -> "RunFolder":
        """Make a new run folder, and lock it until `close`.

        Raises:
            RunError: the folder holds a run or a part of one, lies among the data, or cannot be written to.
        """
        run = RunFolder(path)
        if run.config_file.is_file():
            raise RunError(
                f"{path} holds a run already; continue it with --resume {path} or choose another --out"
            )
        left = [name for name in (*_FILES, *_FOLDERS) if os.path.lexists(path / name)]
        if left:  # --resume, --checkpoint and TensorBoard would take them for parts of the new run
            them = "it" if len(left) == 1 else "them"
            raise RunError(
                f"{path} holds {', '.join(left)} of another run; move {them} away or choose another --out"
            )
        if config.data_root is not None:
            scanned = config.dataset == "folder" or is_plain(config.data_root)
            for data in data_folders(config.data_root) if scanned else []:
                if is_within(path, data):
                    raise RunError(
                        f"run folder {path} is in {data}, where its pictures would be taken for data; choose "
                        "another --out"
                    )
        run.is_new, run.made_folder = True, not path.exists()
        run._lock()
        try:
            write_atomically(run.config_file, config.to_json())
        except OSError as error:
            run._remove()
            raise RunError(str(error)) from error
        return run

    @staticmethod
    def open(path: Path) -> "RunFolder":
        """Open a run to continue it: lock it until `close`, and remove leftovers of an interrupted write.

        Raises:
            RunError: there is no run, another process is writing to it, or it cannot be written to.
        """
        run = RunFolder(path)
        run.check()
        run._lock()
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

    @contextlib.contextmanager
    def removed_on_error(self) -> Iterator[None]:
        """If an error ends the block, remove what a new run wrote, so that its folder can be used again."""
        try:
            yield
        except Exception:
            if self.is_new:
                self._remove()
            raise

    def close(self) -> None:
        """Release the lock, so that another process can continue the run."""
        self.lock.release()

    def check(self) -> None:
        """Check that there is a run to continue.

        Raises:
            RunError: there is no run.
        """
        if not self.config_file.is_file():
            lack = "holds no run (config.json is missing)" if self.path.is_dir() else "is not a folder"
            raise RunError(
                f"{self.path} {lack}; --resume takes the folder of a run, "
                "training without --resume starts a new one"
            )

    def kept(self) -> str:
        """Say, in the message of a run that ends early, what is on disk and how to continue."""
        if self.state_file.is_file():
            return f"the last checkpoint is intact, continue with --resume {self.path}"
        return f"there is no checkpoint yet, --resume {self.path} starts over"

    def add_environment(self, environment: dict[str, Any]) -> list[dict[str, Any]]:
        """Append the environment of this start; return the environments of all starts so far.

        Raises:
            RunError: the file of earlier starts is damaged.
        """
        file = self.path / "environment.json"
        try:
            starts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
            starts = [*map(dict, starts), environment]
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{file} is damaged ({error}); restore it from a copy, or remove it: a run can continue "
                "without it"
            ) from error
        write_atomically(file, json.dumps(starts, indent=2) + "\n")
        return starts

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with writing(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")

    def cut_log(self, step: int) -> None:
        """Drop the lines of metrics.jsonl after `step`, which the run repeats, and incomplete lines."""
        if self.metrics_file.is_file():
            write_atomically(self.metrics_file, "".join(f"{line}\n" for line, _ in self._logged(step)))

    def evaluations(self, step: int) -> list[dict[str, Any]]:
        """Return the records of the evaluations up to `step`, oldest first.

        Raises:
            RunError: a record lacks its mean IoU or its IoU per class.
        """
        records = [record for _, record in self._logged(step) if record.get("kind") == "val"]
        for record in records:
            for key, kinds in (("mean_iou", (int, float)), ("iou", dict)):
                if not isinstance(record.get(key), kinds):
                    raise RunError(
                        f"{self.metrics_file}: the evaluation of step {record['step']} has {key} = "
                        f"{record.get(key)!r}; restore the file from a copy, or remove that line"
                    )
        return records

    def weights_metadata(self, name: str) -> dict[str, Any] | None:
        """Return the metadata in NAME.safetensors; None if the file is missing or damaged."""
        try:
            return read_weights(self.path / f"{name}.safetensors").metadata
        except (OSError, ValueError):
            return None

    def _logged(self, step: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each line of metrics.jsonl up to `step` with its record; skip lines that are incomplete."""
        if not self.metrics_file.is_file():
            return
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                if record["step"] <= step:
                    yield line, record
            except (json.JSONDecodeError, KeyError, TypeError):
                continue

    def _lock(self) -> None:
        """Check that the folder can be written to, and lock it for this process.

        Raises:
            RunError: it cannot be written to, or another process has locked it.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise RunError(
                f"run folder {self.path}: its name is not UTF-8, and TensorBoard cannot write to such a "
                "folder; choose another name"
            ) from error
        try:
            prepare_folder(self.path)
            with writing(self.path):
                try:
                    self.lock.acquire(timeout=0)
                except Timeout as error:
                    raise RunError(
                        f"another process, or another training in this one, is writing to {self.path}; wait "
                        "until it has ended, or stop it"
                    ) from error
        except WriteError as error:
            raise RunError(str(error)) from error

    def _remove(self) -> None:
        """Remove what a new run wrote, so that its folder can be used again."""
        with contextlib.suppress(OSError):  # the user must see why the run cannot begin, not this error
            for name in _FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
            Path(self.lock.lock_file).unlink(missing_ok=True)  # before another process can lock it
            self.close()
            if self.made_folder:
                self.path.rmdir()
