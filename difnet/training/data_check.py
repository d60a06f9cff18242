"""Checks all data before the first step, and computes the class weights."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from difnet.data import DataError, DataReport, SegmentationDataset
from difnet.data.checks.review import Examined, warnings
from difnet.data.transforms import scaled_size
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.training.run import Run
from difnet.training.setup import Data
from difnet.utils.console import Reporter
from difnet.utils.files import read_text
from difnet.utils.views import check_views

_BY_FREQUENCY = {"median-frequency": 1.0, "sqrt-median-frequency": 0.5}
"""Choices of --class-weights that the data decide, and the power of the weights. The square root keeps rare
classes from being predicted in place of frequent ones."""


def check_data(run: Run, data: Data, network: DifNet | SimDeepLab) -> Tensor | None:
    """Read all images and labels once, on the main process; return the class weights on every process.

    Returns:
        (k,) on the device of the process; None if all classes weigh the same.

    Raises:
        DataError: the data cannot be used; only the main process says why.
        ValueError: the class weights cannot be used.
    """
    num_classes = len(data.train_set.classes)
    error: Exception | None = None
    # The class weights, and a last number that is 0 if the main process found an error.
    message = torch.ones(num_classes + 1, device=run.accelerator.device)
    if run.accelerator.is_main_process:
        try:
            weights = _checked_weights(run, data, network)
            if weights is not None:
                message[:num_classes] = torch.tensor(weights)
        except ValueError as found:
            error, message[-1] = found, 0.0
    if run.accelerator.num_processes > 1:
        torch.distributed.broadcast(message, src=0)
    if error is not None:
        raise error
    if message[-1] == 0.0:
        raise DataError("the main process cannot use the data; see its message")
    return None if run.config.class_weights == "none" else message[:num_classes]


def _checked_weights(run: Run, data: Data, network: DifNet | SimDeepLab) -> list[float] | None:
    choice = run.config.class_weights
    # The option is parsed first, so that a mistake in it shows before the data are read, which may take long.
    weights = class_weights(choice, len(data.train_set.classes))
    train_report, val_report = (read_all(dataset, run.report) for dataset in (data.train_set, data.val_set))
    _report_small_scale(run, data.train_set, train_report)
    network.eval()
    check_sizes(
        data.val_set,
        val_report,
        lambda size: check_views(network, scaled_size(size, run.config.image_scale), None),
        run.report,
    )
    network.train()
    for doubt in warnings([_examined(data.train_set, train_report), _examined(data.val_set, val_report)]):
        run.report.line(doubt)
    if choice in _BY_FREQUENCY:
        power = _BY_FREQUENCY[choice]
        weights = [weight**power for weight in train_report.median_frequency_weights()]
    if weights is not None and np.count_nonzero(train_report.pixels * np.array(weights)) < 2:
        raise ValueError(
            f"--class-weights {choice} leaves weight to fewer than two of the classes that occur in the "
            "training labels: nothing can be learned; give more of them a weight above 0"
        )
    return weights


def read_all(dataset: SegmentationDataset, report: Reporter) -> DataReport:
    """Read all of `dataset` once, and print what the user should know about it.

    Raises:
        DataError: the data cannot be used.
    """
    report.line(f"checking {len(dataset)} {dataset.split} images of {dataset.name}")
    with report.bar("checking", len(dataset)) as progress:
        found = dataset.check(progress)
    for note in found.notes:
        report.line(note)
    return found


def check_sizes(
    dataset: SegmentationDataset,
    found: DataReport,
    check: Callable[[tuple[int, int]], None],
    report: Reporter,
) -> None:
    """Call `check` with every size (height, width) that occurs among the images of `dataset`.

    Raises:
        DataError: `check` raised ValueError for a size; the message names an image of that size.
    """
    with report.bar("checking sizes", len(found.sizes)) as progress:
        for done, (size, index) in enumerate(sorted(found.sizes.items()), start=1):
            try:
                check(size)
            except ValueError as error:
                raise DataError(f"{dataset.split} image {dataset.item_name(index)}: {error}") from error
            progress(done)


def _report_small_scale(run: Run, train_set: SegmentationDataset, found: DataReport) -> None:
    """Print a line if --scale can shrink a side of a training image to fewer than eight pixels."""
    (height, width), index = min(found.sizes.items(), key=lambda item: min(item[0]))
    low = run.config.image_scale * run.recipe.scale[0]
    if low < 1.0 and min(height, width) * low < 8.0:
        small = f"{max(1, round(height * low))} x {max(1, round(width * low))}"
        run.report.line(
            f"--scale {low:g} shrinks training images such as {train_set.item_name(index)}, of "
            f"{height} x {width} pixels, to {small}; raise it if that shows too little"
        )


def _examined(dataset: SegmentationDataset, report: DataReport) -> Examined:
    return Examined(dataset, dict(enumerate(report.findings)))


def class_weights(choice: str, num_classes: int) -> list[float] | None:
    """Parse the option ``--class-weights``; None if it is none, or if the data decide.

    Raises:
        ValueError: the option or its file does not hold one non-negative number for each class.
    """
    if choice == "none" or choice in _BY_FREQUENCY:
        return None
    weights, source = _numbers(choice), f"--class-weights {choice}"
    if weights is None:
        source = f"the file of --class-weights, {choice},"
        try:
            weights = _numbers(read_text(Path(os.path.expanduser(choice))), source)
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f"--class-weights {choice} is neither none, {', '.join(_BY_FREQUENCY)}, numbers, nor "
                f"a readable file ({error})"
            ) from error
        if weights is None:
            raise ValueError(f"{source} must hold nothing but numbers")
    if len(weights) != num_classes or not all(weight == 0.0 or 1e-20 <= weight <= 1e20 for weight in weights):
        # The bounds keep weighted sums over many pixels in the range of float32.
        raise ValueError(
            f"{source} must hold {num_classes} non-negative numbers, one per class, those above 0 between "
            f"1e-20 and 1e20, but holds {len(weights)}: {weights}"
        )
    return weights


def _numbers(text: str, source: str = "--class-weights") -> list[float] | None:
    """Parse numbers separated by commas, spaces or line ends; None if `text` holds anything else.

    Raises:
        ValueError: the separators differ, which may mean decimal commas, or indices beside the weights.
    """
    text = text.strip().rstrip(",")
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        return None
    separators = re.findall(r"[\s,]+", text.rstrip())
    if len({("," in separator, "\n" in separator) for separator in separators}) > 1:
        raise ValueError(
            f"{source} separates numbers in several ways, {text[:40]!r}; write one number a line or all "
            "on one line with commas, each with a decimal point"
        )
    return numbers
