"""Examines items of a data set on all cores."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from difnet.data.checks.finding import Finding
from difnet.data.errors import DataError

if TYPE_CHECKING:
    from difnet.data.base import SegmentationDataset


def examine_all(
    dataset: "SegmentationDataset", indices: Sequence[int]
) -> Iterator[tuple[int, Finding | DataError]]:
    """Yield each index with what was found of the item, or why it cannot be used."""

    def examine(index: int) -> Finding | DataError:
        try:
            return dataset.examine(index)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool:
        yield from zip(indices, pool.map(examine, indices), strict=True)
