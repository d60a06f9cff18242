"""Decides which items each step uses, so that a run can continue at any step.

The order of an epoch depends only on (rng_seed, epoch), the augmentation of an item only on (rng_seed, epoch,
item). So neither the number of workers nor an interruption changes the data of a step.
"""

import atexit
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    from difnet.data.base import SegmentationDataset


class Draw(NamedTuple):
    """One use of an item; the epoch decides its augmentation."""

    epoch: int
    item: int


def stable_seed(*key: int) -> int:
    """Hash integers to a 63-bit seed, equal on every machine and unrelated for neighbouring integers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class SeededView(Dataset[Any]):
    """`dataset` indexed by `Draw`: the transform draws from a generator seeded by (rng_seed, epoch, item)."""

    def __init__(self, dataset: "SegmentationDataset", rng_seed: int):
        self.dataset = dataset
        self.rng_seed = rng_seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        """Return the augmented pair; the state of the global CPU generator is restored."""
        # torch.manual_seed would also seed every accelerator.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(stable_seed(self.rng_seed, draw.epoch, draw.item))
        try:
            return self.dataset[draw.item]
        finally:
            torch.set_rng_state(state)


class StepSampler(Sampler[list[Draw]]):
    """Micro-batches of one process, from `first_step` of an epoch to its end.

    One optimizer step uses `batch_size` items: `accumulation` micro-batches on each of `processes` processes.
    Items that do not fill a whole step at the end of an epoch are left out of that epoch.

    Args:
        length: number of items.
        batch_size: items per optimizer step, over all processes and micro-batches.
        rng_seed: the random seed of the run.
        processes, rank: number of processes of the distributed run, and the number of this one.
        accumulation: micro-batches per step and process.

    Raises:
        ValueError: the batch does not divide, or is larger than the data set.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        rng_seed: int,
        *,
        processes: int = 1,
        rank: int = 0,
        accumulation: int = 1,
    ):
        if batch_size < 1 or batch_size % (processes * accumulation):
            raise ValueError(
                f"batch_size {batch_size} must be a multiple of processes x accumulation = "
                f"{processes} x {accumulation}; it counts the images of one optimizer step over all of them"
            )
        if length < batch_size:
            raise ValueError(
                f"batch_size {batch_size} is larger than the {length} training images; lower --batch-size"
            )
        self.length, self.batch_size, self.rng_seed = length, batch_size, rng_seed
        self.rank, self.accumulation = rank, accumulation
        self.micro = batch_size // (processes * accumulation)
        self.epoch, self.first_step = 0, 0

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole optimizer steps in one epoch."""
        return self.length // self.batch_size

    def start_at(self, epoch: int, first_step: int) -> None:
        """Let the next iteration begin at step `first_step` of `epoch`."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.first_step) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(stable_seed(self.rng_seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        share = self.micro * self.accumulation
        for step in range(self.first_step, self.steps_per_epoch):
            start = step * self.batch_size + self.rank * share
            for micro in range(self.accumulation):
                first = start + micro * self.micro
                yield [Draw(self.epoch, index) for index in order[first : first + self.micro]]


def evaluation_batches(
    dataset: Dataset[Any], workers: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every item once, in batches of up to `batch_size` neighbours of equal size."""
    loader = make_loader(dataset, workers, batch_size=batch_size, collate_fn=_stack_by_size)
    return chain.from_iterable(loader)


def _stack_by_size(items: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    groups: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for item in items:
        groups.setdefault(item[0].shape, []).append(item)
    return [
        (torch.stack([image for image, _ in group]), torch.stack([label for _, label in group]))
        for group in groups.values()
    ]


_ending = multiprocessing.RawValue("b", 0)


@atexit.register
def _announce_the_end() -> None:
    """Let workers obey SIGTERM: at exit, `multiprocessing` sends it to them and waits for their end."""
    _ending.value = 1


def _prepare_worker(ending: Any, _worker: int) -> None:
    # Both signals may reach the whole process group, but the main process decides how to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(1) if ending.value else None)
    torch.set_num_threads(1)


def make_loader(dataset: Dataset[Any], workers: int, **options: Any) -> DataLoader[Any]:
    """Make a `DataLoader` that does not use the global generator; its workers ignore Ctrl-C."""
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=partial(_prepare_worker, _ending),
        generator=torch.Generator(),
        **options,
    )
