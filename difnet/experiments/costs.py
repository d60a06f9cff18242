"""What a run costs: optimizer steps, evaluations, and the operations of both, counted without computing."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from difnet.data import DataError
from difnet.data.options import reading_of
from difnet.data.registry import create_pair
from difnet.data.transforms import scaled_size
from difnet.experiments.plan import DataSize, Experiment
from difnet.modeling.factory import create_model
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.training.config import TrainConfig
from difnet.training.engine import SegmentationLoss, loss_weights, training_losses


class Cost(NamedTuple):
    """The cost of one run. Two operations are one multiply-add of a matrix product or a convolution.

    Attributes:
        parameters: number of parameters of the network.
        steps: optimizer steps.
        step_flops: operations of one optimizer step, forward and backward, with the whole batch.
        evaluations: passes over the validation images, with the one after the training.
        image: (height, width) of a validation image, as the network sees it.
        image_flops: operations of the network for one such image.
        images: number of validation images.
    """

    parameters: int
    steps: int
    step_flops: int
    evaluations: int
    image: tuple[int, int]
    image_flops: int
    images: int

    def flops(self, first_step: int = 0) -> float:
        """Return the operations of the run from `first_step` on."""
        share = 1.0 - first_step / self.steps
        evaluated = self.evaluations * self.images * self.image_flops
        return share * (float(self.steps * self.step_flops) + evaluated)


def data_size(config: TrainConfig, experiment: Experiment, *, estimate: bool = False) -> DataSize:
    """Return the size of the data of a configuration.

    Args:
        config: the settings.
        experiment: with the published numbers.
        estimate: take published numbers if the configuration names no folder.

    Raises:
        DataError, ValueError: the data cannot be found.
    """
    if estimate and config.data_root is None and config.dataset in experiment.published:
        return experiment.published[config.dataset]
    train_set, val_set = create_pair(config.dataset, config.data_root, reading=reading_of(config))
    height, width = val_set.read(0)[0].shape[-2:]
    return DataSize(len(train_set), len(val_set), (height, width), len(train_set.classes))


def cost_of(config: TrainConfig, data: DataSize) -> Cost:
    """Count the cost of a run on the meta device, which takes about a second.

    Raises:
        DataError: the batch is larger than the training set.
        ValueError: the network cannot be built, or does not take such images.
    """
    config = config.resolved()
    recipe = config.settings()
    per_epoch = data.train // recipe.batch_size
    if per_epoch < 1:
        raise DataError(
            f"--batch-size {recipe.batch_size} is larger than the {data.train} training images; lower it"
        )
    steps = config.max_steps or recipe.epochs * per_epoch
    network = build(config, data.classes)
    image = scaled_size(data.image, config.image_scale)
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        steps=steps,
        step_flops=training_flops(network, config, recipe.batch_size),
        evaluations=1 + math.ceil(steps / (config.eval_every * per_epoch)),
        image=image,
        image_flops=inference_flops(network, image),
        images=data.val,
    )


def build(config: TrainConfig, classes: int, device: str = "meta") -> DifNet | SimDeepLab:
    """Build the network of a resolved configuration with random weights."""
    with torch.device(device):
        return create_model(**replace(config, pretrained=False).network(classes))


def inference_flops(network: DifNet | SimDeepLab, size: tuple[int, int]) -> int:
    """Count the operations for one image of `size` = (height, width); the network is on the meta device.

    Raises:
        ValueError: the network does not take such images.
    """
    network.eval()
    network.check_size(size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, *size, device="meta"))
    return int(counter.get_total_flops())


def training_flops(network: DifNet | SimDeepLab, config: TrainConfig, batch: int) -> int:
    """Count the operations of forward and backward of `batch` crops; the network is on the meta device.

    PyTorch's count of the backward of a convolution ignores groups, so it is too large for grouped ones.

    Raises:
        ValueError: the network cannot be trained on such crops.
    """
    recipe = config.settings()
    network.train()
    network.check_size((recipe.crop, recipe.crop), batch=batch)
    with FlopCounterMode(display=False) as counter:
        losses(network, torch.empty(batch, 3, recipe.crop, recipe.crop, device="meta"), config).backward()
    network.zero_grad()
    return int(counter.get_total_flops())


def losses(network: DifNet | SimDeepLab, image: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Compute what a training minimises, with class 0 everywhere; `config` is resolved."""
    label = image.new_zeros(image.shape[0], *image.shape[-2:], dtype=torch.int64)
    weights = loss_weights(config.settings(), network)
    total, _ = training_losses(network, image, label, SegmentationLoss(), **weights)
    return total
