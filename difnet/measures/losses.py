"""Losses of a training: of the logits, and of the transition matrices."""

import torch
from torch import Tensor, nn

from difnet.data.base import VOID
from difnet.modeling.base import Details
from difnet.modeling.resampling import upsample_bilinear
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
    # One class at a time: the maps of all classes would take more memory than the network.
    shares = [
        nn.functional.adaptive_avg_pool2d((label == number).to(details.seed.dtype), grid).flatten(1)
        for number in range(count)
    ]
    target = torch.stack(shares, dim=-1)  # (B, N, k), zero where void
    draw = torch.rand(target.shape[:2], device=target.device)  # (B, N)
    shown = (draw < visible) | (draw == draw.amin(1, keepdim=True))
    weight = target * ~shown[..., None]
    total = weight.sum()
    one = target.new_ones(())
    losses = []
    for features, bias in details.transitions:
        device = label.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            features = features.to(torch.get_autocast_dtype(device))  # Accelerate has widened them
        hidden = torch.zeros_like(draw) if bias is None else bias
        hidden = torch.where(shown, hidden, -torch.inf)
        carried = random_walk(features, target, target, one, one, node_bias=hidden)  # P target
        share = (carried + smoothing) / (carried.sum(-1, keepdim=True) + count * smoothing)
        losses.append(-(weight * share.log()).sum() / torch.where(total > 0, total, 1.0))
    return torch.stack(losses).mean()
