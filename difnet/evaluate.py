"""Evaluate a trained network:

    python -m difnet.evaluate --checkpoint RUN --dataset camvid --data-root DIR
    python -m difnet.evaluate --checkpoint RUN --dataset camvid --data-root DIR --multi-scale --flip

Write ``python -m difnet.evaluate --help`` for all options.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difnet.utils.extras import train_extra

with train_extra():
    import torch

    from difnet.data import create_dataset, eval_transform, evaluation_batches
    from difnet.data.base import VOID
    from difnet.modeling.weights import load_for_pictures
    from difnet.training.config import EvaluateConfig
    from difnet.training.engine import check_views, evaluate, make_views
    from difnet.training.metrics import format_record
    from difnet.utils.console import Reporter, parse, run_command
    from difnet.utils.files import is_within, prepare_file, write_atomically


def default_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the best one present.

    Raises:
        ValueError: PyTorch does not know the name, or the device is absent.
    """
    best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name is None:
        return best
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add(1).item()  # of the meta device, which computes nothing, an error
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        present = " or ".join(dict.fromkeys((best.type, "cpu")))
        raise ValueError(
            f"--device {name} cannot be used on this machine: {reason}; choose {present}"
        ) from error
    return device


def evaluate_checkpoint(config: EvaluateConfig, report: Reporter | None = None) -> dict[str, Any]:
    """Metrics of a checkpoint on a data set; see `difnet.training.metrics.Evaluation.as_record`.

    Raises:
        DataError: the data cannot be used.
        ValueError: the data's classes are not those of the checkpoint, or a setting is out of its range.
    """
    if config.workers < 0 or config.batch_size < 1:
        raise ValueError(
            f"--workers must not be negative and --batch-size must be positive, got {config.workers} and "
            f"{config.batch_size}"
        )
    report = report or Reporter(enabled=False)
    model, metadata = load_for_pictures(config.checkpoint, default_device(config.device))
    void_value, label_offset = _numbering(config, metadata)
    dataset = create_dataset(
        config.dataset,
        config.data_root,
        config.split,
        transform=eval_transform(),
        void_value=void_value,
        label_offset=label_offset,
    )
    known = metadata.get("classes")
    if known is not None and not isinstance(known, list):
        raise ValueError(
            f"{config.checkpoint}: its metadata hold classes = {known!r}, expected a list of names; save it "
            "with such a list or none, and choose the data it was trained for"
        )
    if known is not None and known != dataset.classes:
        raise ValueError(
            f"{config.checkpoint} was trained on the classes {', '.join(map(str, known))}; "
            f"{config.dataset} has {', '.join(dataset.classes)}; choose the data it was trained for"
        )
    if len(dataset.classes) != model.num_classes:
        raise ValueError(
            f"{config.checkpoint} has {model.num_classes} classes, {config.dataset} has "
            f"{len(dataset.classes)}; choose the data it was trained for"
        )
    if (void_value, label_offset) != ((VOID,), 0):
        numbers = ", ".join(map(str, void_value)) or "no number"
        report.line(
            f"{config.data_root} is read with {numbers} as void and {label_offset} as the first class; "
            "--void-value and --label-offset change this"
        )
    views = make_views(config.multi_scale, config.flip)
    found_data = report.check(dataset)
    report.check_sizes(dataset, found_data, lambda size: check_views(model, size, views))
    batches = evaluation_batches(dataset, config.workers, config.batch_size)
    device = next(model.parameters()).device
    with report.bar("evaluating", len(dataset)) as progress:
        found = evaluate(model, batches, device, views=views, progress=progress)
    return found.as_record(dataset.classes)


def _numbering(config: EvaluateConfig, metadata: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    """Void numbers and offset of the labels: as the options say, else as in training on a folder.

    Raises:
        ValueError: those that were saved with the weights are no such numbers.
    """
    known = metadata if config.dataset == "folder" else {}
    void, offset = config.void_value, config.label_offset
    if void is None:
        saved = known.get("void_value")
        if saved is not None and not (isinstance(saved, list) and all(type(it) is int for it in saved)):
            raise _bad_number(config, "void_value", saved, "a list of whole numbers")
        void = (VOID,) if saved is None else tuple(saved)
    if offset is None:
        saved = known.get("label_offset")
        if saved is not None and type(saved) is not int:
            raise _bad_number(config, "label_offset", saved, "a whole number")
        offset = 0 if saved is None else saved
    return void, offset


def _bad_number(config: EvaluateConfig, key: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        f"{config.checkpoint}: its metadata hold {key} = {value!r}, expected {expected}; give "
        f"--{key.replace('_', '-')}"
    )


def _check_out(config: EvaluateConfig, out: Path) -> None:
    """See that the metrics replace no file of the checkpoint, a run or the data; an earlier report they may.

    Raises:
        ValueError: they would.
    """
    if not out.is_file() or _is_report(out):
        return
    roots = {"--checkpoint": config.checkpoint, "--data-root": config.data_root}
    folder = out.resolve().parent
    if (folder / "config.json").is_file():
        roots["the run"] = folder
    for name, root in roots.items():
        if root is not None and is_within(out, root):
            raise ValueError(
                f"--out {out} is a file of {name} {root} and no report of metrics, which alone may be "
                "replaced there; choose another --out"
            )


def _is_report(path: Path) -> bool:
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        return False
    # The lines of a run's log have a "kind" besides.
    return isinstance(record, dict) and {"mean_iou", "iou"} <= record.keys() and "kind" not in record


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    config = parse(EvaluateConfig, arguments, "evaluate", __doc__)

    def command() -> None:
        report = Reporter()
        if config.out is not None:
            prepare_file(config.out)
            _check_out(config, config.out)
        record = evaluate_checkpoint(config, report)
        report.line(f"{config.checkpoint} on {config.dataset} {config.split}\n{format_record(record)}")
        if config.out is not None:
            write_atomically(config.out, json.dumps(record, indent=2, allow_nan=False) + "\n")

    return run_command(command, "difnet.evaluate")


if __name__ == "__main__":
    sys.exit(main())
