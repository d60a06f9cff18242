"""Evaluate a trained network:

    python -m difnet.evaluate --checkpoint RUN --dataset camvid --data-root DIR
    python -m difnet.evaluate --checkpoint RUN --dataset camvid --data-root DIR --multi-scale --flip
    python -m difnet.evaluate --checkpoint RUN --dataset camvid --data-root DIR --measures

Write ``python -m difnet.evaluate --help`` for all options.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from difnet.utils.extras import train_extra

with train_extra():
    from difnet.data import SegmentationDataset, create_dataset, eval_transform, evaluation_batches
    from difnet.data.base import Transform
    from difnet.data.folder import CONVERTED
    from difnet.data.options import Reading, UnusedOption, reading_of, saved_form, saved_reading
    from difnet.data.registry import DatasetName
    from difnet.data.transforms import scaled_size
    from difnet.measures.collect import format_measures, measure
    from difnet.measures.segmentation import format_record
    from difnet.modeling.weights import load_for_pictures
    from difnet.training.data_check import check_sizes, read_all
    from difnet.training.engine import evaluate
    from difnet.utils.console import DEVICE_DEFAULT, Reporter, parse, run_command
    from difnet.utils.devices import default_device
    from difnet.utils.files import is_within, prepare_file, write_atomically
    from difnet.utils.options import shown_default
    from difnet.utils.pictures import image_scale_of
    from difnet.utils.views import check_views, make_views


_LOOKED_AT = 8
"""Number of images of which --measures looks at the walks."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Reading):
    """Evaluate a trained network on the validation images of a data set.

    Labels are read as in training, but for the options that are given.
    """

    checkpoint: Path
    """Run folder (its best weights), weights file, or name of a trained network."""
    dataset: DatasetName = "scenes"
    """Data set, as in training."""
    data_root: Annotated[Path | None, shown_default("none")] = None
    """Folder of the data, for all but scenes."""
    split: Literal["val", "train"] = "val"
    """Split to evaluate."""
    image_scale: Annotated[float | None, shown_default("as in training")] = None
    """Resize all images and labels by this factor. Metrics are of the resized labels."""
    multi_scale: bool = False
    """Average class probabilities over scales 0.5, 0.75, 1, 1.25 and 1.5."""
    flip: bool = False
    """Average class probabilities with those of the mirrored image."""
    measures: bool = False
    """Also compute boundary scores, fragments and what the walks look at."""
    batch_size: int = 1
    """Images per batch; images of different sizes go to different batches. It changes only speed."""
    workers: int = 2
    """Data-loading processes; 0 loads in the main process. It changes only speed."""
    device: Annotated[str | None, DEVICE_DEFAULT] = None
    """Device, such as cuda or cpu."""
    out: Annotated[Path | None, shown_default("not written")] = None
    """File for the metrics as JSON. It may replace an earlier report, but no file of the run or the data."""


def evaluate_checkpoint(config: EvaluateConfig, report: Reporter | None = None) -> dict[str, Any]:
    """Compute metrics of a checkpoint on a data set, in the form of `Evaluation.as_record`.

    With `measures`, the result of `difnet.measures.collect.measure` is added as "measures".

    Raises:
        DataError: the data cannot be used.
        ValueError: the data's classes are not those of the checkpoint, or a setting is out of its range.
        NotFiniteError: a logit is NaN or infinite.
    """
    if config.workers < 0 or config.batch_size < 1:
        raise ValueError(
            f"--workers must not be negative and --batch-size must be positive, got {config.workers} and "
            f"{config.batch_size}"
        )
    if config.measures and (config.multi_scale or config.flip):
        raise ValueError(
            "--measures are of the seed, states and logits of single images, which --multi-scale and --flip "
            "average; leave these out, or --measures"
        )
    report = report or Reporter(enabled=False)
    model, metadata = load_for_pictures(config.checkpoint, default_device(config.device))
    converted = config.data_root is not None and (config.data_root / CONVERTED).is_file()
    saved = {} if converted else metadata  # such a folder needs no option
    reading = saved_reading(saved, config.dataset, config.checkpoint, reading_of(config))
    image_scale = image_scale_of(metadata, config.image_scale, config.checkpoint)
    dataset, reading = _open(config, reading, eval_transform(image_scale))
    _check_classes(config, metadata.get("classes"), model.num_classes, dataset.classes)
    if reading.given():
        options = ", ".join(f"{name} {value}" for name, value in saved_form(reading).items())
        report.line(f"{config.data_root} is read with {options}, as in training unless options change it")
    views = make_views(config.multi_scale, config.flip)
    data_report = read_all(dataset, report)
    check_sizes(
        dataset,
        data_report,
        lambda size: check_views(model, scaled_size(size, image_scale), views),
        report,
    )
    batches = evaluation_batches(dataset, config.workers, config.batch_size)
    device = next(model.parameters()).device
    with report.bar("evaluating", len(dataset)) as progress:
        found = evaluate(model, batches, device, views=views, progress=progress)
    record = found.as_record(dataset.classes)
    if config.measures:
        # One at a time: batches of equal sizes would change the order. Neighbours are often much alike, so
        # the images on which the walks are looked at are spread over the data set.
        images, count = evaluation_batches(dataset, config.workers, 1), len(dataset)
        looked_at = {number * count // _LOOKED_AT for number in range(_LOOKED_AT)}
        with report.bar("measuring", count) as progress:
            record["measures"] = measure(
                model, images, device, dataset.classes, looked_at=looked_at, progress=progress
            )
    return record


def _open(
    config: EvaluateConfig, reading: Reading, transform: Transform
) -> tuple[SegmentationDataset, Reading]:
    """Open the data set; return it, and how it is read.

    Options of the training that change nothing for these data are left out. Those of the command are not.
    """
    try:
        dataset = create_dataset(
            config.dataset, config.data_root, config.split, transform=transform, reading=reading
        )
        return dataset, reading
    except UnusedOption as error:
        if getattr(config, error.option) is not None:
            raise
        return _open(config, replace(reading, **{error.option: None}), transform)


def _check_classes(config: EvaluateConfig, known: Any, num_classes: int, classes: list[str]) -> None:
    """Check that a network of `num_classes` classes, called `known` in its metadata, fits the data.

    Raises:
        ValueError: it does not.
    """
    if known is not None and not isinstance(known, list):
        raise ValueError(
            f"{config.checkpoint}: its metadata hold classes = {known!r}, expected a list of names; save it "
            "with such a list or without classes, and choose the data it was trained for"
        )
    if known is not None and known != classes and sorted(map(str, known)) == sorted(classes):
        raise ValueError(
            f"{config.checkpoint} was trained on the same classes in another order, "
            f"{', '.join(map(str, known))}; {config.dataset} has {', '.join(classes)}: number the labels as "
            "in training, or train on these data"
        )
    if known is not None and known != classes:
        raise ValueError(
            f"{config.checkpoint} was trained on the classes {', '.join(map(str, known))}; "
            f"{config.dataset} has {', '.join(classes)}; choose the data it was trained for"
        )
    if len(classes) != num_classes:
        raise ValueError(
            f"{config.checkpoint} has {num_classes} classes, {config.dataset} has "
            f"{len(classes)}; choose the data it was trained for"
        )


def _check_out(config: EvaluateConfig, out: Path) -> None:
    """Check that `out` does not replace a file of the checkpoint, a run or the data, except a report.

    Raises:
        ValueError: it would.
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
                f"--out {out} is a file of {name} {root}; only reports of metrics may be replaced there; "
                "choose another --out"
            )


def _is_report(path: Path) -> bool:
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        return False
    # The records in a run's metrics.jsonl also have a "kind".
    return isinstance(record, dict) and {"mean_iou", "iou"} <= record.keys() and "kind" not in record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(EvaluateConfig, arguments, "evaluate", __doc__)

    def command() -> None:
        report = Reporter()
        if config.out is not None:
            prepare_file(config.out)
            _check_out(config, config.out)
        record = evaluate_checkpoint(config, report)
        report.line(f"{config.checkpoint} on {config.dataset} {config.split}\n{format_record(record)}")
        if "measures" in record:
            report.line(format_measures(record["measures"]))
        if config.out is not None:
            write_atomically(config.out, json.dumps(record, indent=2, allow_nan=False) + "\n")

    return run_command(command, "difnet.evaluate")


if __name__ == "__main__":
    sys.exit(main())
