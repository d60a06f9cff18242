"""Networks in the arrangements that bench_model.py compares, and their parts, as functions to be timed."""

import contextlib
import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from difnet import create_model
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.training.engine import SegmentationLoss
from difnet_kernels.backends import ENVIRONMENT_VARIABLE
from harness.cases import FORWARD, FORWARD_BACKWARD, Case
from harness.floor import count_work

CLASSES = 21
INFERENCE, TRAINING_STEP = NETWORK_MODES = ("inference", "training step")


class Arrangement(NamedTuple):
    """How a network is run."""

    name: str
    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False


PLAIN = Arrangement("plain")
ARRANGEMENTS = {
    arrangement.name: arrangement
    for arrangement in (
        PLAIN,
        Arrangement("channels-last", channels_last=True),
        Arrangement("bfloat16, channels-last", channels_last=True, bfloat16=True),
        Arrangement("compiled", compiled=True),
    )
}


class Setup(NamedTuple):
    """A network, the side of its square image, its arrangement and its device."""

    network: str
    size: int
    arrangement: Arrangement
    device: str

    def build(self) -> tuple[nn.Module, Tensor]:
        """Build the plain network and an image (1, 3, size, size).

        Weights are random, and batch norms have the statistics of the image. A network that cannot be trained
        on one image takes the statistics of two.

        Raises:
            ValueError: the name is unknown, or the network does not take images of this size.
        """
        torch.manual_seed(0)
        model = create_model(self.network, CLASSES).to(self.device)
        batch = 1 if self.reason_unsupported(TRAINING_STEP, model) is None else 2
        images = torch.rand(batch, 3, self.size, self.size)
        model.check_size((self.size, self.size), batch=batch)
        images = images.to(self.device)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the running statistics become the average over all batches, here one
        with torch.no_grad():
            model(images)
        for norm in norms:
            norm.momentum = 0.1
        return model, images[:1]

    def reason_unsupported(self, mode: str, model: DifNet | SimDeepLab | None = None) -> str | None:
        """Why the network does not take one image of this size in `mode`, or None.

        Raises:
            ValueError: the name is unknown.
        """
        if model is None:
            with torch.device("meta"):
                model = create_model(self.network, CLASSES)
        try:
            model.train(mode == TRAINING_STEP).check_size((self.size, self.size))
        except ValueError as error:
            return str(error)
        finally:
            model.train()
        return None

    def arrange(self, model: nn.Module, image: Tensor) -> tuple[nn.Module, Tensor]:
        """Copies of a plain network and its image in the memory format of this arrangement."""
        model = copy.deepcopy(model)
        if self.arrangement.channels_last:
            model = model.to(memory_format=torch.channels_last)
            image = image.to(memory_format=torch.channels_last)
        return model, image

    def autocast(self) -> torch.autocast:
        """The autocast to bfloat16, disabled if the arrangement does not use it."""
        device = torch.device(self.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.arrangement.bfloat16)


def make_network_call(setup: Setup, mode: str, model: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """Inference, which returns the logits; or a training step with its update, which returns the gradient."""
    run: Any = torch.compile(model, dynamic=False) if setup.arrangement.compiled else model
    if mode == INFERENCE:
        model.eval()

        def infer() -> Tensor:
            with torch.inference_mode(), setup.autocast():
                return run(image)

        return infer

    model.train()
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(CLASSES, image.shape[-2:], generator=generator)[None].to(image.device)
    loss_function = SegmentationLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def train() -> Tensor:
        optimizer.zero_grad()
        with setup.autocast():
            loss = loss_function(run(image), label)
        loss.backward()
        optimizer.step()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    return train


def make_part_calls(
    setup: Setup, mode: str, model: DifNet, image: Tensor, walks: Mapping[str, Callable[..., Any]]
) -> dict[str, Callable[[], object]]:
    """Seed branch, similarity branch, and diffusion by each of `walks`, each alone from the same inputs.

    In a training step every part runs forward, and backward from random gradients.
    """
    normalized = model.normalize(image).detach()

    def seed_branch() -> Tensor:
        score_map = model._score_map(model.seed_branch(normalized)[-1])
        return model._importance(score_map) * score_map

    def similarity_branch() -> list[Tensor]:
        return model._embed(model._sources(normalized), size)

    model.train(mode == TRAINING_STEP)
    with torch.no_grad(), setup.autocast():
        seed = seed_branch()
        size = (seed.shape[-2], seed.shape[-1])
        features = [feature.detach() for feature in similarity_branch()]
        mu, beta = model.mu_logit.sigmoid(), model.beta_logit.sigmoid()
    nodes = seed.flatten(2).mT.contiguous()

    def diffusion(cascade: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: cascade(features, nodes, mu, beta)

    seed_inputs = [
        *model.seed_branch.parameters(),
        *model.classifier.parameters(),
        *(model.importance.parameters() if model.importance is not None else []),
    ]
    similarity = [] if model.similarity_branch is None else list(model.similarity_branch.parameters())
    parts: dict[str, tuple[Callable[[], Any], list[Any]]] = {
        "seed branch": (seed_branch, seed_inputs),
        "similarity branch": (similarity_branch, [*similarity, *model.embeddings.parameters()]),
    }
    for name, cascade in walks.items():
        parts[f"diffusion, {name}"] = (diffusion(cascade), [*features, nodes, mu, beta])

    def make_call(function: Callable[[], Any], inputs: list[Tensor]) -> Callable[[], object]:
        if mode == INFERENCE:

            def infer() -> None:
                with torch.inference_mode(), setup.autocast():
                    function()

            return infer

        def train() -> None:
            with setup.autocast():
                outputs = function()
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            outputs = [o for o in outputs if o.requires_grad]
            torch.autograd.grad(outputs, inputs, [torch.randn_like(o) for o in outputs], allow_unused=True)

        for leaf in inputs:
            leaf.requires_grad_()
        return train

    return {name: make_call(*part) for name, part in parts.items()}


@contextlib.contextmanager
def default_backend(name: str | None) -> Iterator[None]:
    """Make this the backend of walks that name none. None changes nothing."""
    previous = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ |= {} if name is None else {ENVIRONMENT_VARIABLE: name}
    try:
        yield
    finally:
        os.environ.pop(ENVIRONMENT_VARIABLE, None)
        os.environ |= {} if previous is None else {ENVIRONMENT_VARIABLE: previous}


def count_flops(setup: Setup, mode: str, model: DifNet | SimDeepLab) -> tuple[float, float]:
    """Operations for one image: of the network without its walks, and of the walks.

    PyTorch counts the operations of the network: two for a multiply-add, none for anything but products. Its
    formula for the backward of a convolution ignores groups, so `convolution_backward_flops` replaces it. The
    tensors are fake, so nothing is computed. The operations of the walks follow from harness/floor.py.
    """
    size, device = setup.size, setup.device
    mapping = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        fake_model = copy.deepcopy(model).train(mode == TRAINING_STEP)
    with fake, FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        with torch.set_grad_enabled(mode == TRAINING_STEP):
            logits = fake_model(torch.rand(1, 3, size, size, device=device))
        if mode == TRAINING_STEP:
            logits.sum().backward()
    operations = counter.get_flop_counts()["Global"]
    network = sum(count for name, count in operations.items() if not str(name).startswith("difnet_kernels."))
    walks = 0.0
    if isinstance(model, DifNet):
        height, width = model.check_size((size, size), batch=2)  # training may refuse one image
        case = Case("walks", 1, height * width, len(model.mu_logit), CLASSES)
        walk_mode = FORWARD if mode == INFERENCE else FORWARD_BACKWARD
        walks = count_work(case, walk_mode, torch.float32, torch.device(device)).flops
    return float(network), walks


def convolution_backward_flops(
    grad: Sequence[int], image: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """Operations of torch.ops.aten.convolution_backward, from the shapes of its tensors.

    The gradient of the image and that of the weight each take as many operations as the forward: one
    multiply-add for every element of the weight and every pixel of the output, or of the image where the
    convolution is transposed. With g groups the weight has g times fewer elements.
    """
    *_settings, transposed, _output_padding, _groups, output_mask = rest
    pixels = image if transposed else grad
    forward = 2 * pixels[0] * math.prod(pixels[2:]) * math.prod(weight)
    return forward * sum(output_mask[:2])
