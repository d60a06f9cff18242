"""Loss, one epoch of training, evaluation: functions of their arguments, without files or printing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from difnet.data.transforms import scaled_size
from difnet.measures.losses import SegmentationLoss, training_losses
from difnet.measures.segmentation import Evaluation, SegmentationMetrics
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.modeling.resampling import upsample_bilinear

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)


class StepResult(NamedTuple):
    """What one optimizer step of training gives.

    Attributes:
        step: number of optimizer steps done.
        loss: mean cross-entropy of the logits over the micro-batches (0-d).
        gradient_norms: see `gradient_norms`; empty at most steps.
    """

    step: int
    loss: Tensor
    gradient_norms: dict[str, Tensor]


def gradient_norms(network: nn.Module) -> dict[str, Tensor]:
    """Return the Euclidean norm (0-d) of the gradient of each part of the network, such as "mu_logit".

    They show what reaches the seed branch, the embeddings Psi, mu and beta. A part without gradient is left
    out.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(name.partition(".")[0], []).append(parameter.grad)
    return {name: nn.utils.get_total_norm(gradients) for name, gradients in parts.items()}


def poly(step: int, steps: int, power: float) -> float:
    """Return the learning-rate factor (1 - step / steps)^power of step 0, 1, ..., steps - 1."""
    return (1.0 - step / steps) ** power


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_function: SegmentationLoss,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    *,
    step: int,
    lr_factor: Callable[[int], float],
    seed_loss: float = 0.0,
    transition_loss: float = 0.0,
    is_logged: Callable[[int], bool] = lambda step: False,
) -> Iterator["StepResult"]:
    """Train on `batches`, and yield the result of each optimizer step.

    Args:
        model, optimizer: prepared by `accelerator`; each parameter group has its rate in "base_lr".
        batches: micro-batches of (image (B, 3, H, W) in [0, 1], label (B, H, W) int64).
        loss_function: on the accelerator's device.
        step: optimizer steps done so far.
        lr_factor: maps the number of steps done to the factor of "base_lr".
        seed_loss, transition_loss: weights of further losses, see `training_losses`.
        is_logged: whether the norms of the gradients are wanted after that number of steps.
    """
    step_losses: list[Tensor] = []
    for image, label in batches:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(step)
        with accelerator.accumulate(model):
            image = image.to(accelerator.device, non_blocking=True)
            label = label.to(accelerator.device, non_blocking=True)
            with accelerator.autocast():  # the walks of the losses run as those of the network
                total, loss = training_losses(
                    model,
                    image,
                    label,
                    loss_function,
                    seed_loss=seed_loss,
                    transition_loss=transition_loss,
                )
            accelerator.backward(total)
            norms = {}
            if accelerator.sync_gradients and is_logged(step + 1):
                accelerator.unscale_gradients(optimizer)
                norms = gradient_norms(accelerator.unwrap_model(model))
            optimizer.step()
            optimizer.zero_grad()
        step_losses.append(loss.detach())
        if accelerator.sync_gradients:
            step += 1
            yield StepResult(step, torch.stack(step_losses).mean(), norms)
            step_losses.clear()


class NotFiniteError(ValueError):
    """A logit is NaN or infinite, so the class with the largest logit is not defined."""

    def __init__(self) -> None:
        super().__init__("the logits of the network are NaN or infinite, as after a training that diverged")


@torch.inference_mode()
def evaluate(
    model: DifNet | SimDeepLab,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    views: "Views | None" = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Compute metrics of `model` on `batches`: of its logits, its seed, and the state after each walk.

    Args:
        model: on `device`.
        batches: (image (B, 3, H, W) in [0, 1], label (B, H, W) int64).
        device: where to compute.
        views: average these views; metrics of seed and walks are then left out.
        progress: called with the number of images done.

    Raises:
        NotFiniteError: a logit is NaN or infinite.
    """
    model.eval()
    final, seed = (SegmentationMetrics(model.num_classes).to(device) for _ in range(2))
    count = len(model.walk_sources) if isinstance(model, DifNet) and views is None else 0
    states = [SegmentationMetrics(model.num_classes).to(device) for _ in range(count)]
    mu, beta = torch.empty(0), torch.empty(0)
    finite = torch.tensor(True, device=device)
    done = 0
    for image, label in batches:
        image, label = image.to(device, non_blocking=True), label.to(device, non_blocking=True)
        if views is not None:
            outputs = views.probabilities(model, image)
        else:
            size = (label.shape[-2], label.shape[-1])
            details = model(image, details=True)
            mu, beta, outputs = details.mu, details.beta, details.logits
            seed.update(model.upsample(details.seed.float(), size).argmax(1), label)
            for metric, state in zip(states, details.states, strict=True):
                metric.update(model.upsample(state.float(), size).argmax(1), label)
        final.update(outputs.argmax(1), label)
        finite &= outputs.isfinite().all()
        done += image.shape[0]
        if progress is not None:
            progress(done)
    if not finite:
        raise NotFiniteError
    return Evaluation(
        final=final.compute(),
        seed=seed.compute() if views is None else None,
        states=[metric.compute() for metric in states],
        mu=mu.tolist(),
        beta=beta.tolist(),
    )


class Views:
    """Test-time augmentation: class probabilities averaged over scales and mirroring.

    Args:
        scales: factors of the input's size.
        flip: also average over the mirrored image.
    """

    def __init__(self, scales: Sequence[float] = SCALES, flip: bool = False):
        self.scales = tuple(scales)
        self.flip = flip

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (h, w) of an image of `size` = (H, W) at each scale."""
        return [scaled_size(size, scale) for scale in self.scales]

    def probabilities(self, model: nn.Module, image: Tensor) -> Tensor:
        """Average the class probabilities, (B, k, H, W), of image (B, 3, H, W) in [0, 1]."""
        height, width = image.shape[-2:]
        total: Tensor | None = None
        count = 0
        for size in self.sizes((height, width)):
            scaled = resize_antialiased(image, size)
            for mirrored in (False, True) if self.flip else (False,):
                logits = model(scaled.flip(-1) if mirrored else scaled).float()
                probabilities = upsample_bilinear(logits, (height, width)).softmax(1)
                probabilities = probabilities.flip(-1) if mirrored else probabilities
                total = probabilities if total is None else total + probabilities
                count += 1
        if total is None:
            raise ValueError("scales: expected at least one factor, got none")
        return total / count


def make_views(multi_scale: bool, flip: bool, image_scale: float = 1.0) -> Views | None:
    """Make the views of --multi-scale, --flip and --image-scale; None if they leave the image as it is."""
    if not (multi_scale or flip) and image_scale == 1.0:
        return None
    return Views([image_scale * scale for scale in (SCALES if multi_scale else (1.0,))], flip)


def check_views(model: DifNet | SimDeepLab, size: tuple[int, int], views: Views | None) -> None:
    """Check that `model` takes images of `size` = (H, W), and its views.

    Raises:
        ValueError: it does not; the message names backbone, size and remedy.
    """
    for view in [size] if views is None else views.sizes(size):
        try:
            model.check_size(view)
        except ValueError as error:
            if view == size:
                raise
            raise ValueError(
                f"a view of {size[0]} x {size[1]} pixels (--multi-scale and --image-scale resize pictures): "
                f"{error}"
            ) from error


def resize_antialiased(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image (B, c, H, W) to `size`, as training resizes its images."""
    if tuple(image.shape[-2:]) == size:
        return image
    return nn.functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
