"""record.json: everything about one finished run from which tables and pages are made.

    experiment, variant, seed, run    what was trained; `run` is its folder, below that of the experiment
    launcher, command                 the command line that trains it, with the last parts of input paths
    config                            resolved settings
    environment                       one entry per start: versions, commit, CPU, threads, GPUs
    steps, seconds, starts            optimizer steps; wall-clock time of all starts of difnet.train together,
                                      with imports, the check of the data and evaluations, or null if it was
                                      started by hand; number of starts
    parameters, flops                 of the network; operations of one optimizer step and of one image
    evaluation                        of last.safetensors on the validation images, with measures
    curve                             the evaluations, losses and norms of gradients of metrics.jsonl

It names no path of the machine.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from difnet.evaluate import EvaluateConfig, evaluate_checkpoint
from difnet.experiments.costs import Cost
from difnet.experiments.plan import Experiment, Run, plain_settings, to_arguments, without_paths
from difnet.training.config import TrainConfig
from difnet.training.run_folder import RunError, RunFolder
from difnet.utils.console import Reporter
from difnet.utils.files import write_atomically

Record = dict[str, Any]

NAME = "record.json"
_VAL_KEYS = ("step", "mean_iou", "seed_mean_iou", "walk_mean_iou", "mu", "beta")
_TRAIN_KEYS = ("step", "loss", "gradient_norms")


class Starts:
    """starts.json in a run folder: the wall-clock seconds of each start of its training."""

    def __init__(self, folder: Path):
        self.file = folder / "starts.json"
        self.seconds: list[float] = json.loads(self.file.read_text()) if self.file.is_file() else []

    def begin(self) -> None:
        """Add a start."""
        self.seconds.append(0.0)

    def note(self, seconds: float) -> None:
        """Write that the current start has lasted for `seconds` so far."""
        self.seconds[-1] = round(seconds, 1)
        write_atomically(self.file, json.dumps(self.seconds) + "\n")


def make_record(run: Run, out: Path, cost: Cost, launcher: Sequence[str], report: Reporter) -> Record:
    """Evaluate the last weights of a finished training, and collect its record.

    The last weights are evaluated, not the best: to choose weights by the validation images would favour the
    variant whose curve is noisier.

    Raises:
        DataError, NotFiniteError, RunError, ValueError: the run or the data cannot be used.
        OSError: a file cannot be read.
    """
    folder, config = out / run.folder, run.config(out).resolved()
    environments = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    starts, logged = Starts(folder), read_log(folder)
    plain = replace(without_paths(run.config(out)), out=run.folder)
    return {
        "experiment": run.experiment.name,
        "variant": run.variant.name,
        "seed": run.seed,
        "run": run.folder.as_posix(),
        "launcher": " ".join(os.path.basename(it) if os.path.isabs(it) else it for it in launcher),
        "command": ["python", "-m", "difnet.train", *to_arguments(plain)],
        "config": plain_settings(config),
        "environment": [{k: v for k, v in it.items() if k != "command"} for it in environments],
        "steps": cost.steps,
        "seconds": round(sum(starts.seconds), 1) if starts.seconds else None,
        "starts": len(starts.seconds),
        "parameters": cost.parameters,
        "flops": {
            "step": cost.step_flops,
            "batch": config.batch_size,
            "crop": config.crop,
            "image": cost.image_flops,
            "image_size": list(cost.image),
        },
        "evaluation": evaluate_last(run, out, report),
        "curve": {
            "val": [_only(it, _VAL_KEYS) for it in logged if it.get("kind") == "val"],
            "train": [_only(it, _TRAIN_KEYS) for it in logged if it.get("kind") == "train"],
        },
    }


def evaluate_last(run: Run, out: Path, report: Reporter) -> Record:
    """Compute the metrics of last.safetensors on the validation images."""
    config = run.config(out).resolved()
    request = EvaluateConfig(
        checkpoint=out / run.folder / "last.safetensors",
        dataset=config.dataset,
        data_root=config.data_root,
        batch_size=config.settings().eval_batch_size,
        workers=config.workers,
        measures=True,
    )
    return evaluate_checkpoint(request, report)


def check_folder(run: Run, out: Path) -> None:
    """Check that what the folder of a run holds was trained with the settings of the run.

    Raises:
        RunError: it was not, or the record in the folder is damaged; the message names a remedy.
        ValueError: the configuration in the folder is damaged.
    """
    folder = out / run.folder
    if (file := RunFolder(folder).config_file).is_file():
        saved = plain_settings(TrainConfig.from_json(file))
    elif (folder / NAME).is_file():
        saved = read_record(folder / NAME)["config"]
    else:
        return
    for name, planned in plain_settings(run.config(out)).items():
        if name in saved and saved[name] != planned:  # an earlier version may not have the option
            raise RunError(
                f"{folder} holds a run with {name} = {saved[name]}, the experiment needs {planned}; choose "
                "another --out, or move that folder away"
            )


def is_trained(folder: Path, steps: int) -> bool:
    """Whether the training in a run folder has done its last step and evaluated it."""
    metadata = RunFolder(folder).weights_metadata("last")
    evaluated = any(it.get("kind") == "val" and it.get("step") == steps for it in read_log(folder))
    return metadata is not None and metadata.get("step") == steps and evaluated


def read_log(folder: Path) -> list[Record]:
    """Read metrics.jsonl without lines that are incomplete; nothing if there is no such file."""
    file, records = RunFolder(folder).metrics_file, []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []:
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return records


def write_record(record: Record, folder: Path) -> None:
    """Write record.json, one line for each key.

    Raises:
        WriteError: it cannot be written.
    """
    lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in record.items()]
    write_atomically(folder / NAME, "{\n" + ",\n".join(lines) + "\n}\n")


def read_records(experiment: Experiment, out: Path) -> list[Record]:
    """Read the records of all variants of an experiment in the folder `out`, in the order of the table.

    Raises:
        RunError: a record is damaged, or belongs to another experiment, or two records of one variant have
            other settings than the seed, or two records differ in what the experiment does not vary.
    """
    varied = {"seed"} | {name for variant in experiment.variants for name in variant.changes}
    records: list[Record] = []
    for variant in experiment.variants:
        found = [read_record(file) for file in (out / variant.slug).glob(f"seed-*/{NAME}")]
        records += sorted(found, key=lambda record: record["seed"])
        for record in found:
            where = out / record["run"] / NAME
            if (record["experiment"], record["variant"]) != (experiment.name, variant.name):
                raise RunError(
                    f"{where} is of {record['experiment']}, {record['variant']}, not of {experiment.name}, "
                    f"{variant.name}; move it away"
                )
            for name, value in record["config"].items():
                # Variants may differ in what the experiment varies, runs of one variant in the seed alone.
                first = found[0] if name in varied else records[0]
                # Records of an earlier version may lack a setting.
                if name != "seed" and first["config"].get(name, value) != value:
                    raise RunError(
                        f"{where} has {name} = {value}, {out / first['run'] / NAME} has "
                        f"{first['config'].get(name)}; a table compares runs of equal settings: move one away"
                    )
    return records


def read_record(file: Path) -> Record:
    """Read a record.

    Raises:
        RunError: the file is damaged.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        for name in ("experiment", "variant", "seed", "run", "config", "evaluation", "curve", "seconds"):
            record[name]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} is not the record of a run ({error}); remove it, and run the experiment again to "
            "evaluate its weights anew"
        ) from error
    return dict(record)


def _only(record: Record, names: Sequence[str]) -> Record:
    return {name: record[name] for name in names if name in record}
