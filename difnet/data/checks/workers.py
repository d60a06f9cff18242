"""Examines the items of a data set on all cores."""

import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from difnet.data.checks.finding import Finding
from difnet.data.errors import DataError
from difnet.data.sampling import make_loader

if TYPE_CHECKING:
    from difnet.data.base import SegmentationDataset

_FEW = 8
"""Items for which it is not worth to start a process."""

_CHUNK = 16
"""Items that a process examines before it sends what it found."""

Found = Finding | DataError


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def examine_all(dataset: "SegmentationDataset", indices: Sequence[int]) -> Iterator[tuple[int, Found]]:
    """Yield each index with what was found of the item, or why it cannot be used.

    Much of the time goes into Python and into parts of numpy that hold its global lock. So processes do the
    work where they can be forked, and threads elsewhere: a process that is started anew would import the
    user's script again, which may not be made for it.

    Raises:
        DataError: a process ended before its work was done.
    """
    workers = min(cores(), len(indices) // _FEW)
    if workers < 2:
        yield from ((index, _examine(dataset, index)) for index in indices)
    elif multiprocessing.get_start_method() != "fork" or multiprocessing.current_process().daemon:
        with ThreadPoolExecutor(workers) as pool:
            yield from zip(indices, pool.map(partial(_examine, dataset), indices), strict=True)
    else:
        yield from _in_processes(dataset, indices, workers)


def _in_processes(
    dataset: "SegmentationDataset", indices: Sequence[int], workers: int
) -> Iterator[tuple[int, Found]]:
    size = min(_CHUNK, math.ceil(len(indices) / (4 * workers)))
    chunks = [indices[start : start + size] for start in range(0, len(indices), size)]
    loader = make_loader(_Examination(dataset), workers, batch_size=None, sampler=chunks, collate_fn=_as_is)
    try:
        for chunk, found in zip(chunks, loader, strict=True):
            yield from zip(chunk, found, strict=True)
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise DataError(
            f"{dataset.name} {dataset.split}: a process that checks the data was ended from outside; if "
            "memory ran out, make room or allow fewer cores (taskset), and run the command again, which "
            "goes on from there"
        ) from error


class _Examination(Dataset[list[Found]]):
    """What is found of a sequence of items, which is the index."""

    def __init__(self, dataset: "SegmentationDataset"):
        self.dataset = dataset

    def __getitem__(self, chunk: Sequence[int]) -> list[Found]:
        return [_examine(self.dataset, index) for index in chunk]


def _examine(dataset: "SegmentationDataset", index: int) -> Found:
    try:
        return dataset.examine(index)
    except DataError as error:
        return DataError(str(error))  # without the traceback, which would keep the pixels in memory
    except MemoryError:
        raise
    except Exception as error:
        raise RuntimeError(f"{dataset.split} {dataset.item_name(index)} of {dataset.name}") from error


def _as_is(found: list[Found]) -> list[Found]:
    """Leave what a process sends as it is; PyTorch would make tensors of arrays."""
    return found
