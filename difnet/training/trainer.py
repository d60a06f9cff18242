"""A training run from its configuration to its last checkpoint."""

import contextlib
import errno
import math
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor
from torch.utils.data import Subset

from difnet.data import (
    DataError,
    SeededView,
    SegmentationDataset,
    StepSampler,
    create_dataset,
    eval_transform,
    evaluation_batches,
    make_loader,
    train_transform,
)
from difnet.data.base import DataReport, Split, Transform
from difnet.modeling.factory import create_model
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.weights import init_from, save_model
from difnet.training.config import TrainConfig, class_weights
from difnet.training.engine import (
    NotFiniteError,
    SegmentationLoss,
    check_views,
    evaluate,
    poly,
    train_one_epoch,
)
from difnet.training.metrics import format_mean, format_record
from difnet.training.run_folder import RunError, RunFolder, State, describe_start, differences
from difnet.utils.console import Interrupted, Reporter, StopSignal, is_memory_error
from difnet.utils.files import WriteError, prepare_folder, writing
from difnet.utils.pictures import save_overlays
from difnet_kernels.info import describe_backend


class Trainer:
    """Everything a run holds; `run` is the story.

    Args:
        config: resolved; `config.out` is the run folder, to create, or to continue if `config.resume` is set.

    Raises:
        DataError, RunError, ValueError: something must be corrected first; the message says what.
        Interrupted: SIGINT came before the first step.
    """

    def __init__(self, config: TrainConfig):
        assert config.out is not None
        self.config, self.recipe = config, config.recipe()
        self.accelerator = _accelerator(config)
        self.report = Reporter(self.accelerator.is_main_process)
        self.train_set = self._dataset(
            "train", train_transform(self.recipe.crop, self.recipe.scale, config.flip)
        )
        self.val_set = self._dataset("val", eval_transform())
        self.sampler = StepSampler(
            len(self.train_set),
            self.recipe.batch_size,
            config.seed,
            processes=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
            accumulation=config.accumulation,
        )
        self.steps = config.max_steps or self.recipe.epochs * self.sampler.steps_per_epoch
        self.step = 0
        self.record: dict[str, Any] = {}  # of the last evaluation, and of the best one
        self.best: dict[str, Any] = {}
        try:
            self._start(config.out)
        except KeyboardInterrupt:
            raise self._interrupted() from None

    def run(self) -> dict[str, Any]:
        """Train to the last step; return the record of the last evaluation.

        Raises:
            Interrupted: the first SIGINT or SIGTERM ends the run after a step, with a checkpoint; a second
                one at once.
            RunError: the loss diverged, the folder cannot be written to, the data can no longer be read, or
                memory ran out.
        """
        config, sampler = self.config, self.sampler
        view = SeededView(self.train_set, config.seed)
        batches = make_loader(
            view, config.workers, batch_sampler=sampler, pin_memory=_pinned(self.accelerator)
        )
        self.began, self.first = time.monotonic(), self.step
        try:
            with StopSignal() as stop, self.report.bar("training", self.steps) as progress:
                if self._evaluation_due() and self.record.get("step") != self.step:
                    self._evaluate()  # the run ended between a checkpoint and its evaluation
                while self.step < self.steps:
                    epoch, done = divmod(self.step, sampler.steps_per_epoch)
                    sampler.start_at(epoch, done)
                    for step, loss in train_one_epoch(
                        self.model,
                        batches,
                        self.loss_function,
                        self.optimizer,
                        self.accelerator,
                        step=self.step,
                        lr_factor=lambda step: poly(step, self.steps, config.poly_power),
                    ):
                        self.step = step
                        progress(step)
                        self._after_step(loss, self._anyone(stop.received))
                        if self.step == self.steps:
                            break
            self._finish()
        except OSError as error:
            raise self._storage_error(error) from error
        except KeyboardInterrupt:
            raise self._interrupted() from None
        except DataError as error:
            raise RunError(f"step {self.step}: {error}; {self.run_folder.kept()}") from error
        except (Interrupted, RunError):
            raise
        except Exception as error:
            if is_memory_error(error):
                raise RunError(
                    f"memory ran out at step {self.step}; lower --eval-batch-size, or in a new run "
                    f"--batch-size or --crop; {self.run_folder.kept()}"
                ) from error
            with contextlib.suppress(OSError):  # the error itself is what its user must see
                self.report.line(f"an error ended the run at step {self.step}; {self.run_folder.kept()}")
            raise
        finally:
            self.run_folder.close()
        return self.record

    def _dataset(self, split: Split, transform: Transform) -> SegmentationDataset:
        config = self.config
        return create_dataset(
            config.dataset,
            config.data_root,
            split,
            transform=transform,
            void_value=config.void_value,
            label_offset=config.label_offset,
        )

    def _start(self, folder: Path) -> None:
        """Open the run folder and prepare the run; a new one that cannot begin leaves its folder free."""
        config, main = self.config, self.accelerator.is_main_process
        self.run_folder = RunFolder(folder)
        if main:
            self.run_folder = RunFolder.open(folder) if config.resume else RunFolder.create(folder, config)
        try:
            self.report.line(f"run folder {folder}")
            self._prepare()
        except BaseException as error:
            if isinstance(error, Exception) and main and not config.resume:
                self.run_folder.abandon()
            self.run_folder.close()
            raise

    def _prepare(self) -> None:
        """Build the model, check the data, build the optimizer, and load the state of a continued run."""
        config, main = self.config, self.accelerator.is_main_process
        state = self.run_folder.load_state() if config.resume is not None else None
        model = self._build_model(new=state is None)
        weights = self._check_data(model)
        self.loss_function = SegmentationLoss(weights).to(self.accelerator.device)
        walks = describe_backend(self.accelerator.device) if getattr(model, "walks", None) else "none"
        self.network = model.to(memory_format=torch.channels_last) if config.channels_last else model
        self.plain_optimizer = self._make_optimizer()
        torch.manual_seed(config.seed + self.accelerator.process_index)
        self.model, self.optimizer = self.accelerator.prepare(self.network, self.plain_optimizer)
        if state is not None:
            self._load(state)
        elif config.resume is not None:
            self.report.line("no checkpoint was written yet: starting from the first step")
        if main:
            self.run_folder.cut_log(self.step)
            environment = describe_start(walks, self.accelerator.num_processes)
            environment["images"] = f"{len(self.train_set)} training, {len(self.val_set)} validation"
            starts = self.run_folder.add_environment(environment)
            for difference in differences(starts[-2], starts[-1]) if len(starts) > 1 else []:
                self.report.line(f"changed since the last start, so not bitwise the same: {difference}")
        with writing(self.run_folder.path / "tensorboard"):
            self.accelerator.init_trackers(
                "tensorboard",
                init_kwargs={"tensorboard": {"purge_step": self.step + 1 if self.step else None}},
            )
        self.report.line(
            f"{config.model} on {config.dataset}: {len(self.train_set)} training and {len(self.val_set)} "
            f"validation images, {len(self.train_set.classes)} classes, steps {self.step} to {self.steps}, "
            f"batch {self.recipe.batch_size}, device {self.accelerator.device}, walks by {walks}; "
            f"a checkpoint every {config.checkpoint_every} steps, after evaluations and on Ctrl-C"
        )
        if config.init_from is not None and state is None:
            self._save()  # so that the run can go on without that file

    def _build_model(self, new: bool) -> DifNet | SimDeepLab:
        """The network, if it takes the crops; with the weights that a new run starts from."""
        config, micro = self.config, self.sampler.micro
        set_seed(config.seed)
        try:
            model = create_model(
                config.model,
                len(self.train_set.classes),
                aspp=config.aspp,
                walks=config.walks,
                pretrained=config.pretrained and new,
            )
        except RuntimeError as error:
            raise RunError(str(error)) from error
        try:
            model.check_size((self.recipe.crop, self.recipe.crop), batch=micro)
        except ValueError as error:
            raise RunError(
                f"crops of --crop {self.recipe.crop} in micro-batches of {micro} (--batch-size over "
                f"processes and --accumulation) cannot be trained on: {error}"
            ) from error
        if config.init_from is not None and new:
            self.report.line(init_from(model, config.init_from, classes=self.train_set.classes))
        return model

    def _check_data(self, model: DifNet | SimDeepLab) -> Tensor | None:
        """Read all labels once, in the main process; return class weights on every process."""
        classes = len(self.train_set.classes)
        error: Exception | None = None
        weights = torch.ones(classes + 1, device=self.accelerator.device)
        if self.accelerator.is_main_process:
            try:
                chosen = class_weights(self.config.class_weights, classes)
                reports = [self.report.check(dataset) for dataset in (self.train_set, self.val_set)]
                self._tell_small(reports[0])
                model.eval()
                self.report.check_sizes(self.val_set, reports[1], lambda size: check_views(model, size, None))
                model.train()
                self.report.shared_images(self.val_set, *reports)
                if self.config.class_weights == "median-frequency":
                    chosen = reports[0].median_frequency_weights()
                if chosen is not None:
                    if np.count_nonzero(reports[0].pixels * np.array(chosen)) < 2:
                        raise ValueError(
                            f"--class-weights {self.config.class_weights} leaves weight to fewer than two of "
                            "the classes that occur in the training labels: nothing can be learned; give "
                            "more of them a weight above 0"
                        )
                    weights[:classes] = torch.tensor(chosen)
            except ValueError as found:
                error, weights[-1] = found, 0.0
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast(weights, src=0)
        if error is not None:
            raise error
        if weights[-1] == 0.0:
            raise DataError("the main process found the data unusable; see its message")
        return None if self.config.class_weights == "none" else weights[:classes]

    def _tell_small(self, found: DataReport) -> None:
        """Print a line where --scale leaves less than eight pixels of a side of a training image."""
        (height, width), index = min(found.sizes.items(), key=lambda item: min(item[0]))
        low = self.recipe.scale[0]
        if low < 1.0 and min(height, width) * low < 8.0:
            small = f"{max(1, round(height * low))} x {max(1, round(width * low))}"
            self.report.line(
                f"--scale {low:g} shrinks training images such as {self.train_set.item_name(index)}, of "
                f"{height} x {width} pixels, to {small}; raise it if that shows too little"
            )

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, recipe = self.config, self.recipe
        groups = self.network.parameter_groups(recipe.lr, head_lr_multiplier=config.head_lr_multiplier)
        groups = [{**group, "base_lr": group["lr"]} for group in groups]
        if recipe.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=recipe.weight_decay)
        return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)

    def _after_step(self, loss: Tensor, stop: bool) -> None:
        """Log, evaluate and save as the step demands; leave by `Interrupted` when asked to stop."""
        config, evaluates = self.config, self._evaluation_due()
        saves = stop or evaluates or self.step % config.checkpoint_every == 0
        if saves or self.step % config.log_every == 0:
            self._log_loss(float(self.accelerator.reduce(loss, "mean")))
        if saves:
            self._save()
        if evaluates and not (stop and self.step < self.steps):  # --resume evaluates first
            self._evaluate()
        if stop and self.step < self.steps:
            raise Interrupted(
                f"stopped after step {self.step} of {self.steps} with a checkpoint, nothing is lost; "
                f"continue with --resume {self.run_folder.path}"
            )

    def _evaluation_due(self) -> bool:
        every = self.config.eval_every * self.sampler.steps_per_epoch
        return self.step > 0 and (self.step >= self.steps or self.step % every == 0)

    def _log_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss} at step {self.step}")
        rate = self.plain_optimizer.param_groups[-1]["lr"]
        if self.accelerator.is_main_process:
            self.run_folder.log({"kind": "train", "step": self.step, "loss": loss, "lr": rate})
        self.accelerator.log({"train/loss": loss, "train/lr": rate}, step=self.step)
        # Evaluations and checkpoints count, since those to come take their time as well.
        pace = (time.monotonic() - self.began) / (self.step - self.first)
        left = timedelta(seconds=round(pace * (self.steps - self.step)))
        self.report.line(
            f"step {self.step}/{self.steps}  loss {loss:.4f}  lr {rate:.2e}  {pace:.2f} s/step  {left} left"
        )

    def _diverged(self, what: str) -> RunError:
        written = self.run_folder.state_file.is_file()
        kept = f"The last checkpoint in {self.run_folder.path} is untouched"
        return RunError(
            f"{what}; start again with a lower --lr "
            f"(it was {self.recipe.lr}). {kept if written else 'No checkpoint was written yet'}"
        )

    def _evaluate(self) -> None:
        """Save the weights, evaluate, save them as best if they are, and log last.

        A run that ends before the log has the record evaluates again when it goes on."""
        metadata = {
            "classes": self.val_set.classes,
            "palette": self.val_set.palette.tolist(),
            "dataset": self.config.dataset,
            "void_value": self.config.void_value,
            "label_offset": self.config.label_offset,
            "resolution": self.recipe.crop,
            "step": self.step,
        }
        if self.accelerator.is_main_process:
            save_model(self.network, self.run_folder.path / "last.safetensors", metadata=metadata)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if world > 1:  # batch statistics differ between processes until the next forward
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)
        share = Subset(self.val_set, range(rank, len(self.val_set), world))
        batches = evaluation_batches(share, self.config.workers, self.recipe.eval_batch_size)
        with self.report.bar("evaluating", len(share)) as progress, self.accelerator.autocast():
            try:
                found = evaluate(self.network, batches, self.accelerator.device, progress=progress)
            except NotFiniteError as error:
                raise RunError(
                    f"validation after step {self.step}: {error}; start again with a lower --lr "
                    f"(it was {self.recipe.lr})"
                    + ("; best.safetensors is of an earlier step" if self.best else "")
                ) from error
        self.record = {"kind": "val", "step": self.step, **found.as_record(self.val_set.classes)}
        best = not self.best or self.record["mean_iou"] > self.best["mean_iou"]
        self.best = self.record if best else self.best
        if not self.accelerator.is_main_process:
            return
        if best:
            metadata |= {name: self.record[name] for name in ("mean_iou", "mean_iou_classes", "iou")}
            save_model(self.network, self.run_folder.path / "best.safetensors", metadata=metadata)
        self.run_folder.log(self.record)
        names = ("mean_iou", "mean_iou_classes", "accuracy", "seed_mean_iou", "seed_mean_iou_classes")
        scalars = {f"val/{name}": self.record[name] for name in names}
        scalars |= {
            f"val/iou/{name}": value for name, value in self.record["iou"].items() if value is not None
        }
        for name in ("mu", "beta", "walk_mean_iou", "walk_mean_iou_classes"):
            scalars |= {f"val/{name}/{walk + 1}": value for walk, value in enumerate(self.record[name])}
        self.accelerator.log(scalars, step=self.step)
        self.report.line(f"validation after step {self.step}\n{format_record(self.record)}")

    def _save(self) -> None:
        """Write the state to continue from; every process gives its random state.

        Raises:
            RunError: the weights are no numbers, of which the loss before the step tells nothing.
        """
        if not all(tensor.isfinite().all() for tensor in self.network.state_dict().values()):
            raise self._diverged(f"the weights are NaN or infinite after step {self.step}")
        device = self.accelerator.device
        states = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        states = {name: self.accelerator.gather(state[None].to(device)) for name, state in states.items()}
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            header = {
                "step": self.step,
                "classes": self.train_set.classes,
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            self.run_folder.save_state(self.network, self.plain_optimizer, states, header)

    def _load(self, state: State) -> None:
        """Continue from the last whole state."""
        known = state.header.get("classes", self.train_set.classes)  # older runs do not hold them
        if known != self.train_set.classes:
            raise RunError(
                f"{self.run_folder.path} was trained on the classes {', '.join(known)}; the data "
                f"have {', '.join(self.train_set.classes)}; continue it with the data it was trained on"
            )
        state.restore_model(self.network)
        state.restore_optimizer(self.plain_optimizer)
        state.restore_random_states(self.accelerator.process_index, self.accelerator.device)
        self.step = state.header["step"]
        self._find_records()
        if self.accelerator.scaler is not None and state.header.get("scaler"):
            self.accelerator.scaler.load_state_dict(state.header["scaler"])

    def _find_records(self) -> None:
        """Take up the last evaluation and the best one; where weights of theirs are gone, evaluate again."""
        records = self.run_folder.evaluations(self.step)
        last, best = (self.run_folder.saved_with(name) for name in ("last", "best"))
        self.record = records[-1] if records and last is not None and best is not None else {}
        if best is None:
            if records:
                mean = format_mean(max(records, key=lambda record: record["mean_iou"]))
                self.report.line(
                    f"{self.run_folder.path / 'best.safetensors'} is missing or damaged: the weights of the "
                    f"best evaluation so far ({mean}) are lost; the best from step {self.step} on replace it"
                )
        elif isinstance(best.get("mean_iou"), float) and best.get("step", self.step + 1) <= self.step:
            self.best = best  # metrics.jsonl may have been cut or lost
        else:  # weights of an earlier version do not tell
            self.best = max(records, key=lambda record: record["mean_iou"], default={})

    def _finish(self) -> None:
        """Save overlays and say where everything is."""
        if self.accelerator.is_main_process:
            folder = self.run_folder.path / "overlays"
            prepare_folder(folder)
            save_overlays(self.network, self.val_set, folder, self.config.overlays, self.accelerator.device)
        self.report.line(
            f"done: mean IoU {format_mean(self.record)}, best {format_mean(self.best)}; "
            f"weights, metrics and overlays in {self.run_folder.path}"
        )
        self.accelerator.end_training()  # ends the process group, and with it the roles

    def _anyone(self, flag: bool) -> bool:
        """Whether `flag` is set on any process: all of them must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        count = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(count, "sum") > 0)

    def _storage_error(self, error: OSError) -> RunError:
        kept = self.run_folder.kept()
        if isinstance(error, WriteError):
            return RunError(f"step {self.step}: {error}; {kept}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            remedy = "free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "make the folder writable again"
        else:
            return RunError(f"the system refused at step {self.step}: {error}; {kept}")
        return RunError(
            f"{self.run_folder.path} could not be written at step {self.step}: {error}; {remedy}: {kept}"
        )

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped at once, {self.step} of {self.steps} steps done; {self.run_folder.kept()}"
        )


def _accelerator(config: TrainConfig) -> Accelerator:
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("--precision fp16 needs a CUDA or ROCm device; use bf16 or no on this machine")
    if config.deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # PyTorch's condition for its use of cuBLAS
        torch.use_deterministic_algorithms(True)
    return Accelerator(
        # Without the flag, processes on a machine without an accelerator would each train on their own.
        cpu=torch.accelerator.current_accelerator(check_available=True) is None,
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulation,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(config.out), logging_dir=str(config.out)),
    )


def _pinned(accelerator: Accelerator) -> bool:
    return accelerator.device.type == "cuda"
