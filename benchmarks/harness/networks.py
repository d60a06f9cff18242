"""Networks in the arrangements that bench_model.py compares, and their parts, as functions to time."""

import contextlib
import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from machine.floor import counts
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from difnet import create_model
from difnet.modeling.network import DifNet, SimDeepLab
from difnet.training.engine import SegmentationLoss
from difnet_kernels import cascaded_random_walk
from difnet_kernels.backends import ENVIRONMENT_VARIABLE
from harness.cases import FORWARD, TRAINING, Case

CLASSES = 21
INFERENCE, STEP = NETWORK_MODES = ("inference", "training step")


class Arrangement(NamedTuple):
    """How a network is run."""

    name: str
    channels_last: bool = False
    bfloat16: bool = False
    concurrent: bool = False
    compiled: bool = False


PLAIN = Arrangement("plain")
ARRANGEMENTS = {
    a.name: a
    for a in (
        PLAIN,
        Arrangement("channels-last", channels_last=True),
        Arrangement("branches concurrent", concurrent=True),
        Arrangement("bfloat16, channels-last", channels_last=True, bfloat16=True),
        Arrangement("compiled", compiled=True),
    )
}


class Setup(NamedTuple):
    """What is run: enough to build it again in another process."""

    network: str
    size: int
    arrangement: Arrangement
    device: str

    def build(self) -> tuple[nn.Module, Tensor]:
        """The plain network, weights random, batch norms at the statistics of its image; and that image.

        Of two images where the network cannot be trained on one.

        Raises:
            ValueError: the name is unknown, or the network does not take images of this size.
        """
        torch.manual_seed(0)
        model = create_model(self.network, CLASSES).to(self.device)
        images = torch.rand(1 if self.obstacle(STEP, model) is None else 2, 3, self.size, self.size)
        model.check_size((self.size, self.size), batch=len(images))
        images = images.to(self.device)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the average of all batches, here of one
        with torch.no_grad():
            model(images)
        for norm in norms:
            norm.momentum = 0.1
        return model, images[:1]

    def obstacle(self, mode: str, model: DifNet | SimDeepLab | None = None) -> str | None:
        """Why the network does not take one image of this size in `mode`; None if it does.

        Raises:
            ValueError: the name is unknown.
        """
        if model is None:
            with torch.device("meta"):
                model = create_model(self.network, CLASSES)
        try:
            model.train(mode == STEP).check_size((self.size, self.size))
        except ValueError as error:
            return str(error)
        finally:
            model.train()
        return None

    def arranged(self, model: nn.Module, image: Tensor) -> tuple[nn.Module, Tensor]:
        """Copies of a plain network and its image in the arrangement of this setup."""
        model = copy.deepcopy(model)
        if self.arrangement.channels_last:
            model = model.to(memory_format=torch.channels_last)
            image = image.to(memory_format=torch.channels_last)
        if isinstance(model, DifNet):
            model.concurrent = self.arrangement.concurrent
        return model, image

    def autocast(self) -> torch.autocast:
        """The arrangement's autocast, switched off where it has none."""
        device = torch.device(self.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.arrangement.bfloat16)


def whole(setup: Setup, mode: str, model: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """Inference, returning the scores; or a training step with its update, returning the gradient."""
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


def parts(
    setup: Setup, mode: str, model: DifNet, image: Tensor, backends: list[str]
) -> dict[str, Callable[[], object]]:
    """Seed branch, similarity branch, and diffusion by each backend, each alone from the same inputs.

    In a training step: forward and backward from random gradients.
    """
    normalized = model.normalize(image).detach()

    def seed_branch() -> Tensor:
        score_map = model._score_map(normalized)
        return model.importance(score_map).to(score_map.dtype) * score_map

    def similarity_branch() -> list[Tensor]:
        return model._embed(model._sources(normalized), size)

    model.train(mode == STEP)
    with torch.no_grad(), setup.autocast():
        seed = seed_branch()
        size = (seed.shape[-2], seed.shape[-1])
        features = [f.detach() for f in similarity_branch()]
        mu, beta = model.mu_logit.sigmoid(), model.beta_logit.sigmoid()
    nodes = seed.flatten(2).mT.contiguous()

    def diffusion(backend: str) -> Tensor:
        y = cascaded_random_walk(features, nodes, mu, beta, backend=backend)
        assert isinstance(y, Tensor)
        return y

    heads = [*model.classifier.parameters(), *model.importance.parameters()]
    of_seed = [*model.seed_branch.parameters(), *heads]
    similarity = [] if model.similarity_branch is None else list(model.similarity_branch.parameters())
    found: dict[str, tuple[Callable[[], Any], list[Any]]] = {
        "seed branch": (seed_branch, of_seed),
        "similarity branch": (similarity_branch, [*similarity, *model.embeddings.parameters()]),
    }
    for name in backends:
        leaves = [*features, nodes, mu, beta]
        found[f"diffusion, {name}"] = (lambda name=name: diffusion(name), leaves)

    def timed(function: Callable[[], Any], inputs: list[Tensor]) -> Callable[[], object]:
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

    return {name: timed(*pair) for name, pair in found.items()}


@contextlib.contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Walks by this backend, whoever asks for none by name."""
    previous = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ |= {} if name is None else {ENVIRONMENT_VARIABLE: name}
    try:
        yield
    finally:
        os.environ.pop(ENVIRONMENT_VARIABLE, None)
        os.environ |= {} if previous is None else {ENVIRONMENT_VARIABLE: previous}


def flops(setup: Setup, mode: str, model: nn.Module) -> tuple[float, float]:
    """(of the network as torch counts them, of the walks as benchmarks/machine/floor.py does), for one image.

    Torch counts two for a multiply-add and leaves out what is not a product. Its formula for the backward of
    a convolution takes no notice of groups: `convolution_backward_flops` stands in for it. Nothing is
    computed: the tensors are fake.
    """
    size, device = setup.size, setup.device
    mapping = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        model = copy.deepcopy(model).train(mode == STEP)
    with fake, FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        with torch.set_grad_enabled(mode == STEP):
            found = model(torch.rand(1, 3, size, size, device=device), details=True)
        if mode == STEP:
            found.logits.sum().backward()
    operations = counter.get_flop_counts()["Global"]
    counted = sum(count for name, count in operations.items() if not str(name).startswith("difnet_kernels."))
    walks = 0.0
    if isinstance(model, DifNet):
        case = Case("walks", 1, found.seed.shape[-2:].numel(), len(model.walk_sources), CLASSES)
        walk_mode = FORWARD if mode == INFERENCE else TRAINING
        walks = counts(case, walk_mode, torch.float32, torch.device(device)).flops
    return float(counted), walks


def convolution_backward_flops(
    grad: Sequence[int], image: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """Operations of torch.ops.aten.convolution_backward, from the shapes of its tensors.

    The gradients of image and weight take as many as the forward does: every element of the weight meets
    each place of the output, or of the image where the convolution is transposed. The weight of g groups is
    g times smaller than that of one.
    """
    *_settings, transposed, _output_padding, _groups, wanted = rest
    places = image if transposed else grad
    forward = 2 * places[0] * math.prod(places[2:]) * math.prod(weight)
    return forward * sum(wanted[:2])
