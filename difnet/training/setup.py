"""The parts of a training run that exist before its first step: devices, data, network, optimizer, logs."""

import os
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed

from difnet.data import SegmentationDataset, StepSampler, eval_transform, train_transform
from difnet.data.options import reading_of
from difnet.data.registry import create_pair
from difnet.modeling.factory import create_model
from difnet.modeling.network import DifNet, SimDeepLab, has_walks
from difnet.modeling.weights import init_from
from difnet.training.config import TrainConfig
from difnet.training.run import Run
from difnet.training.run_folder import RunError, describe_start, differences
from difnet.utils.files import writing
from difnet_kernels.info import describe_backend


class Data(NamedTuple):
    """The data of a run.

    Attributes:
        train_set, val_set: the two splits, with the transforms of training and of evaluation.
        sampler: decides which training images each step of this process uses.
    """

    train_set: SegmentationDataset
    val_set: SegmentationDataset
    sampler: StepSampler


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Set up devices and processes.

    Raises:
        ValueError: the precision is not available on this machine.
    """
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("--precision fp16 needs a CUDA or ROCm device; use bf16 or no on this machine")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch requires it for cuBLAS
        torch.use_deterministic_algorithms(True)
    return Accelerator(
        # Without the flag, processes on a machine without an accelerator would each train on their own.
        cpu=torch.accelerator.current_accelerator(check_available=True) is None,
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulation,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(config.out), logging_dir=str(config.out)),
    )


def open_data(config: TrainConfig, accelerator: Accelerator) -> Data:
    """Find the data of both splits, without reading the images.

    Raises:
        DataError: the data on disk cannot be used.
        ValueError: an option does not fit the data.
    """
    recipe = config.settings()
    low, high = (config.image_scale * factor for factor in recipe.scale)
    transforms = (train_transform(recipe.crop, (low, high), config.flip), eval_transform(config.image_scale))
    train_set, val_set = create_pair(config.dataset, config.data_root, transforms, reading_of(config))
    sampler = StepSampler(
        len(train_set),
        recipe.batch_size,
        config.seed,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        accumulation=config.accumulation,
    )
    return Data(train_set, val_set, sampler)


def build_network(run: Run, data: Data, *, new: bool) -> DifNet | SimDeepLab:
    """Build the network and check that it takes the crops.

    Args:
        run, data: the run and its data.
        new: load the weights from which a new run starts; a continued run has its own.

    Raises:
        RunError: pretrained weights cannot be read, or the network cannot be trained on the crops.
        ValueError: a setting of the network is out of range, or --init-from does not fit it.
    """
    config, crop, micro_batch = run.config, run.recipe.crop, data.sampler.micro
    set_seed(config.seed)
    try:
        options = config.network(len(data.train_set.classes))
        network = create_model(**options | {"pretrained": options["pretrained"] and new})
    except RuntimeError as error:
        raise RunError(str(error)) from error
    try:
        network.check_size((crop, crop), batch=micro_batch)
    except ValueError as error:
        raise RunError(
            f"crops of --crop {crop} in micro-batches of {micro_batch} (--batch-size over "
            f"processes and --accumulation) cannot be trained on: {error}"
        ) from error
    if config.init_from is not None and new:
        run.report.line(init_from(network, config.init_from, classes=data.train_set.classes))
    return network


def walk_backend_of(run: Run, network: DifNet | SimDeepLab) -> str:
    """Name the operator's backend that computes the walks of the network, or "none".

    Raises:
        BackendError: an environment variable asks for a backend that cannot run here.
    """
    if has_walks(network):
        return describe_backend(run.accelerator.device)
    return "none"


def make_optimizer(run: Run, network: DifNet | SimDeepLab) -> torch.optim.Optimizer:
    """Make the optimizer; each parameter group keeps its initial learning rate in "base_lr"."""
    config, recipe = run.config, run.recipe
    groups = network.parameter_groups(
        recipe.lr,
        weight_decay=recipe.weight_decay,
        head_lr_multiplier=config.head_lr_multiplier,
        gate_lr_multiplier=recipe.gate_lr_multiplier,
    )
    groups = [{**group, "base_lr": group["lr"]} for group in groups]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum)
    return torch.optim.AdamW(groups)


def open_logs(run: Run, data: Data, walk_backend: str) -> None:
    """Cut the logs back to the current step, record the environment, and print what will be trained."""
    config, accelerator, report = run.config, run.accelerator, run.report
    images = f"{len(data.train_set)} training, {len(data.val_set)} validation"
    if accelerator.is_main_process:
        run.folder.cut_log(run.step)
        environment = describe_start(walk_backend, accelerator.num_processes) | {"images": images}
        starts = run.folder.add_environment(environment)
        for difference in differences(starts[-2], starts[-1]) if len(starts) > 1 else []:
            report.line(f"changed since the last start, so not bitwise the same: {difference}")
    with writing(run.folder.path / "tensorboard"):
        accelerator.init_trackers(
            "tensorboard",
            init_kwargs={"tensorboard": {"purge_step": run.step + 1 if run.step else None}},
        )
    report.line(
        f"{config.model} on {config.dataset}: {len(data.train_set)} training and {len(data.val_set)} "
        f"validation images, {len(data.train_set.classes)} classes, steps {run.step} to {run.steps}, "
        f"batch {run.recipe.batch_size}, device {accelerator.device}, walks by {walk_backend}; "
        f"a checkpoint every {config.checkpoint_every} steps, at evaluations and on Ctrl-C"
    )
