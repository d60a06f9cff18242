"""The training loop: steps, checkpoints, evaluations, and the end of a run."""

import math
import time
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from difnet.data import SeededView, evaluation_batches, make_loader
from difnet.data.options import reading_of, saved_form
from difnet.measures.segmentation import format_mean, format_record
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.weights import save_model
from difnet.training.engine import (
    NotFiniteError,
    SegmentationLoss,
    StepResult,
    evaluate,
    loss_weights,
    poly,
    train_one_epoch,
)
from difnet.training.run import Run
from difnet.training.run_folder import RunError
from difnet.training.setup import Data, make_optimizer
from difnet.training.state import State, write_state
from difnet.utils.console import Interrupted, StopSignal
from difnet.utils.files import prepare_folder
from difnet.utils.pictures import save_overlays


class Trainer:
    """Trains a network to the last step of a run.

    Args:
        run: the run, whose progress is updated.
        data: the data of the run.
        network: on any device; it is moved to the device of the process.
        class_weights: (k,) of the loss, or None.
    """

    def __init__(self, run: Run, data: Data, network: DifNet | SimDeepLab, class_weights: Tensor | None):
        config, accelerator = run.config, run.accelerator
        self.run, self.data = run, data
        self.loss_function = SegmentationLoss(class_weights).to(accelerator.device)
        self.network = network.to(memory_format=torch.channels_last) if config.channels_last else network
        self.plain_optimizer = make_optimizer(run, self.network)
        torch.manual_seed(config.seed + accelerator.process_index)
        # The same network and optimizer, wrapped for several processes and mixed precision.
        self.model, self.optimizer = accelerator.prepare(self.network, self.plain_optimizer)

    def restore(self, state: State) -> None:
        """Continue from a checkpoint.

        Raises:
            RunError: the checkpoint is damaged, or belongs to other settings or classes.
        """
        run, classes = self.run, self.data.train_set.classes
        known = state.header.get("classes", classes)  # earlier versions did not save them
        if known != classes:
            raise RunError(
                f"{run.folder.path} was trained on the classes {', '.join(known)}; the data "
                f"have {', '.join(classes)}; continue it with the data it was trained on"
            )
        state.restore_model(self.network)
        state.restore_optimizer(self.plain_optimizer)
        state.restore_random_states(run.accelerator.process_index, run.accelerator.device)
        run.step = state.header["step"]
        self._restore_records()
        if run.accelerator.scaler is not None and state.header.get("scaler"):
            run.accelerator.scaler.load_state_dict(state.header["scaler"])

    def train(self) -> None:
        """Train to the last step, with checkpoints and evaluations on the way.

        Raises:
            Interrupted: the first SIGINT or SIGTERM ends the run after the current step, with a checkpoint.
            KeyboardInterrupt: a second signal ends it at once.
            RunError: the loss, the weights or the logits are NaN or infinite.
        """
        run, config, sampler = self.run, self.run.config, self.data.sampler
        weights = loss_weights(run.recipe, self.network)
        batches = make_loader(
            SeededView(self.data.train_set, config.seed),
            config.workers,
            batch_sampler=sampler,
            pin_memory=run.accelerator.device.type == "cuda",
        )
        self.began, self.first_step = time.monotonic(), run.step  # for the estimate of the time left
        with StopSignal() as stop, run.report.bar("training", run.steps) as progress:
            if self._evaluation_due() and run.record.get("step") != run.step:
                self.evaluate()  # the run stopped before this evaluation, or its weights were lost
            while run.step < run.steps:
                epoch, done = divmod(run.step, sampler.steps_per_epoch)
                sampler.start_at(epoch, done)
                for result in train_one_epoch(
                    self.model,
                    batches,
                    self.loss_function,
                    self.optimizer,
                    run.accelerator,
                    step=run.step,
                    lr_factor=lambda step: poly(step, run.steps, config.poly_power),
                    weights=weights,
                    is_logged=lambda step: step % config.log_every == 0,
                ):
                    run.step = result.step
                    progress(run.step)
                    self._after_step(result, self._on_any_process(stop.received))
                    if run.step == run.steps:
                        break

    def save(self) -> None:
        """Write a checkpoint, with the random states of every process.

        Raises:
            RunError: a weight is NaN or infinite. The loss of the step is computed before its update, so it
                does not show this.
        """
        run, accelerator = self.run, self.run.accelerator
        if not all(tensor.isfinite().all() for tensor in self.network.state_dict().values()):
            raise run.diverged(f"the weights are NaN or infinite after step {run.step}")
        device = accelerator.device
        states = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        states = {name: accelerator.gather(state[None].to(device)) for name, state in states.items()}
        if accelerator.is_main_process:
            header = {
                "step": run.step,
                "classes": self.data.train_set.classes,
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            }
            write_state(run.folder.state_file, self.network, self.plain_optimizer, states, header)

    def evaluate(self) -> None:
        """Save the weights as last.safetensors, evaluate them, and log the result.

        If their mean IoU is the best so far, the weights are also saved as best.safetensors. The result is
        logged last, so a run that stops before that evaluates again when it continues.

        Raises:
            RunError: a logit is NaN or infinite.
        """
        run, accelerator, val_set = self.run, self.run.accelerator, self.data.val_set
        metadata = {
            "classes": val_set.classes,
            "palette": val_set.palette.tolist(),
            "dataset": run.config.dataset,
            "reading": saved_form(reading_of(run.config)),
            "resolution": run.recipe.crop,
            "image_scale": run.config.image_scale,
            "step": run.step,
        }
        if accelerator.is_main_process:
            save_model(self.network, run.folder.path / "last.safetensors", metadata=metadata)
        world, rank = accelerator.num_processes, accelerator.process_index
        if world > 1:  # each process has its own batch statistics; all must evaluate the same network
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)
        share = Subset(val_set, range(rank, len(val_set), world))
        batches = evaluation_batches(share, run.config.workers, run.recipe.eval_batch_size)
        with run.report.bar("evaluating", len(share)) as progress, accelerator.autocast():
            try:
                found = evaluate(self.network, batches, accelerator.device, progress=progress)
            except NotFiniteError as error:
                raise RunError(
                    f"validation after step {run.step}: {error}; start again with a lower --lr "
                    f"(it was {run.recipe.lr})"
                    + ("; best.safetensors is of an earlier step" if run.best else "")
                ) from error
        run.record = {"kind": "val", "step": run.step, **found.as_record(val_set.classes)}
        is_best = not run.best or run.record["mean_iou"] > run.best["mean_iou"]
        run.best = run.record if is_best else run.best
        if accelerator.is_main_process:
            if is_best:
                metadata |= {name: run.record[name] for name in ("mean_iou", "mean_iou_classes", "iou")}
                save_model(self.network, run.folder.path / "best.safetensors", metadata=metadata)
            run.folder.log(run.record)
            accelerator.log(_scalars(run.record), step=run.step)
            run.report.line(f"validation after step {run.step}\n{format_record(run.record)}")

    def finish(self) -> None:
        """Save overlays, print where the results are, and end the group of processes."""
        run, accelerator = self.run, self.run.accelerator
        if accelerator.is_main_process:
            folder = run.folder.path / "overlays"
            prepare_folder(folder)
            save_overlays(self.network, self.data.val_set, folder, run.config.overlays, accelerator.device)
        run.report.line(
            f"done: mean IoU {format_mean(run.record)}, best {format_mean(run.best)}; "
            f"weights, metrics and overlays in {run.folder.path}"
        )
        accelerator.end_training()

    def _after_step(self, result: StepResult, stop: bool) -> None:
        """Log, save and evaluate where they are due; raise `Interrupted` if a signal stops the run."""
        run, config = self.run, self.run.config
        evaluates = self._evaluation_due()
        saves = stop or evaluates or run.step % config.checkpoint_every == 0
        if saves or run.step % config.log_every == 0:
            self._log_step(float(run.accelerator.reduce(result.loss, "mean")), result.gradient_norms)
        if saves:
            self.save()
        if evaluates and not (stop and run.step < run.steps):  # else `train` does it on --resume
            self.evaluate()
        if stop and run.step < run.steps:
            raise Interrupted(
                f"stopped after step {run.step} of {run.steps} with a checkpoint, nothing is lost; "
                f"continue with --resume {run.folder.path}"
            )

    def _evaluation_due(self) -> bool:
        every = self.run.config.eval_every * self.data.sampler.steps_per_epoch
        return self.run.step > 0 and (self.run.step >= self.run.steps or self.run.step % every == 0)

    def _log_step(self, loss: float, gradient_norms: dict[str, Tensor]) -> None:
        run = self.run
        if not math.isfinite(loss):
            raise run.diverged(f"the loss is {loss} at step {run.step}")
        rate = self.plain_optimizer.param_groups[-1]["lr"]
        # Of the main process: all have the same gradients. JSON has no NaN.
        norms = {name: value for name, it in gradient_norms.items() if math.isfinite(value := float(it))}
        if run.accelerator.is_main_process:
            record = {"kind": "train", "step": run.step, "loss": loss, "lr": rate}
            run.folder.log(record | ({"gradient_norms": norms} if norms else {}))
        scalars = {"train/loss": loss, "train/lr": rate}
        scalars |= {f"train/gradient_norm/{name}": value for name, value in norms.items()}
        run.accelerator.log(scalars, step=run.step)
        # The pace includes evaluations and checkpoints, because the remaining steps have them too.
        pace = (time.monotonic() - self.began) / (run.step - self.first_step)
        left = timedelta(seconds=round(pace * (run.steps - run.step)))
        run.report.line(
            f"step {run.step}/{run.steps}  loss {loss:.4f}  lr {rate:.2e}  {pace:.2f} s/step  {left} left"
        )

    def _restore_records(self) -> None:
        """Restore the records of the last and the best evaluation.

        If last.safetensors or best.safetensors cannot be read, the last record stays empty. An evaluation
        that is due at the current step is then repeated, which writes the file again.
        """
        run = self.run
        records = run.folder.evaluations(run.step)
        last, best = (run.folder.weights_metadata(name) for name in ("last", "best"))
        run.record = records[-1] if records and last is not None and best is not None else {}
        if best is None:
            if records:
                mean = format_mean(max(records, key=lambda record: record["mean_iou"]))
                run.report.line(
                    f"{run.folder.path / 'best.safetensors'} is missing or damaged: the weights of the "
                    f"best evaluation so far ({mean}) are lost; the best from step {run.step} on replace them"
                )
        elif isinstance(best.get("mean_iou"), float) and best.get("step", run.step + 1) <= run.step:
            run.best = best  # not from metrics.jsonl, which may be incomplete or lost
        else:  # the weights are of a later step, or of an earlier version that did not save their metrics
            run.best = max(records, key=lambda record: record["mean_iou"], default={})

    def _on_any_process(self, flag: bool) -> bool:
        """Whether `flag` is set on any process, so that all of them stop at the same step."""
        accelerator = self.run.accelerator
        if accelerator.num_processes == 1:
            return flag
        count = torch.tensor(float(flag), device=accelerator.device)
        return bool(accelerator.reduce(count, "sum") > 0)


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    """The metrics of an evaluation by the names that TensorBoard shows."""
    names = ("mean_iou", "mean_iou_classes", "accuracy", "seed_mean_iou", "seed_mean_iou_classes")
    scalars = {f"val/{name}": record[name] for name in names}
    scalars |= {f"val/iou/{name}": value for name, value in record["iou"].items() if value is not None}
    for name in ("mu", "beta", "walk_mean_iou", "walk_mean_iou_classes"):
        scalars |= {f"val/{name}/{walk + 1}": value for walk, value in enumerate(record[name])}
    return scalars
