"""Losses, one epoch of training, evaluation: functions of their arguments, without files or printing."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from difnet.data.errors import VOID
from difnet.measures.segmentation import Evaluation, SegmentationMetrics
from difnet.measures.walks import label_shares
from difnet.modeling.base import Details
from difnet.modeling.network import DifNet, SimDeepLab, has_walks
from difnet.modeling.resampling import upsample_bilinear
from difnet.training.recipes import Recipe
from difnet.utils.views import Views
from difnet_kernels import random_walk


class SegmentationLoss(nn.Module):
    """Cross-entropy over the labelled pixels; 255 is ignored.

    The logits are flattened to (pixels, k) first: on CUDA the loss over rows has a deterministic
    implementation, the loss over 2-D maps has none. A batch without a labelled pixel has loss 0, not NaN.

    Args:
        class_weights: (k,), the weight of each class in the mean; None for equal weights.
    """

    def __init__(self, class_weights: Tensor | None = None):
        super().__init__()
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the mean loss (0-d) of logits (B, k, H, W) against label (B, H, W)."""
        rows = logits.float().permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
        target = label.reshape(-1)
        loss = nn.functional.cross_entropy(
            rows, target, weight=self.class_weights, ignore_index=VOID, reduction="sum"
        )
        labelled = target != VOID
        if self.class_weights is None:
            total = labelled.sum().to(loss.dtype)
        else:
            total = (self.class_weights[torch.where(labelled, target, 0)] * labelled).sum()
        return loss / torch.where(total > 0, total, 1.0)


def loss_weights(recipe: Recipe, network: nn.Module) -> dict[str, float]:
    """Return the weights of the losses that a network has beside that of its logits."""
    if not has_walks(network):
        return {}
    return {"seed_loss": recipe.seed_loss, "transition_loss": recipe.transition_loss}


def training_losses(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    loss_function: SegmentationLoss,
    *,
    seed_loss: float = 0.0,
    transition_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Compute the losses of one micro-batch.

    Args:
        model: a network of this package, which may be wrapped.
        image: (B, 3, H, W) in [0, 1].
        label: (B, H, W), int64, 255 is void.
        loss_function: of logits.
        seed_loss: weight of the loss of the upsampled seed. The gradient of the logits reaches the seed
            branch only after the walks have averaged it.
        transition_loss: weight of `loss_of_transitions`.

    Returns:
        The sum to be minimised, and the loss of the logits alone; both 0-d.
    """
    if not (seed_loss > 0.0 or transition_loss > 0.0):
        loss = loss_function(model(image), label)
        return loss, loss
    details = model(image, details=True)
    total = loss = loss_function(details.logits, label)
    if seed_loss > 0.0:
        seed = upsample_bilinear(details.seed, (label.shape[-2], label.shape[-1]))
        total = total + seed_loss * loss_function(seed, label)
    if transition_loss > 0.0:
        total = total + transition_loss * loss_of_transitions(details, label)
    return total, loss


def loss_of_transitions(
    details: Details, label: Tensor, *, visible: float = 0.25, smoothing: float = 1e-4
) -> Tensor:
    """Cross-entropy of the labels that each walk carries from some nodes to the others, mean over the walks.

    A random part of the nodes shows its label. One step of a walk from these nodes alone gives each hidden
    node a distribution over the classes, and its own label is the target. So the features learn which nodes
    belong to one class, whatever the seed is. If a node could take its own label, the identity would be the
    best P. The affinities of Bertasius et al. (CVPR 2017) are supervised by labels too, but of all pairs.

    Args:
        details: of a network with walks, on images of the size of the label.
        label: (B, H, W), int64, 255 is void. The label of a node is the distribution of classes among the
            pixels of its cell.
        visible: share of the nodes that show their label; at least one does in each image. They are drawn
            from torch's global generator.
        smoothing: added to the weight of each class, so that a class that no visible node has costs a finite
            amount.

    Returns:
        0-d; 0 if no hidden node has a label.
    """
    count, grid = details.seed.shape[1], (details.seed.shape[-2], details.seed.shape[-1])
    target = label_shares(label, count, grid, details.seed.dtype)  # (B, N, k)
    draw = torch.rand(target.shape[:2], device=target.device)  # (B, N)
    shown = (draw < visible) | (draw == draw.amin(1, keepdim=True))
    weight = target * ~shown[..., None]
    total = weight.sum()
    one = target.new_ones(())
    losses = []
    device = label.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    for features, bias in details.transitions:
        if autocast:  # Accelerate makes float32 of what a network returns; its walks had this dtype
            features = features.to(torch.get_autocast_dtype(device))
        hidden = torch.zeros_like(draw) if bias is None else bias
        hidden = torch.where(shown, hidden, -torch.inf)
        carried = random_walk(features, target, target, one, one, node_bias=hidden)  # P target
        share = (carried + smoothing) / (carried.sum(-1, keepdim=True) + count * smoothing)
        losses.append(-(weight * share.log()).sum() / torch.where(total > 0, total, 1.0))
    return torch.stack(losses).mean()


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
    weights: Mapping[str, float],
    is_logged: Callable[[int], bool] = lambda step: False,
) -> Iterator["StepResult"]:
    """Train on `batches`, and yield the result of each optimizer step.

    Args:
        model, optimizer: prepared by `accelerator`; each parameter group has its rate in "base_lr".
        batches: micro-batches of (image (B, 3, H, W) in [0, 1], label (B, H, W) int64).
        loss_function: on the accelerator's device.
        step: optimizer steps done so far.
        lr_factor: maps the number of steps done to the factor of "base_lr".
        weights: of the losses beside that of the logits, see `loss_weights`.
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
                total, loss = training_losses(model, image, label, loss_function, **weights)
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
    views: Views | None = None,
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
