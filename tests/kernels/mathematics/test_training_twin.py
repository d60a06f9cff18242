"""50 training steps with a backend end at the parameters of the reference, within the error budget."""

import torch
from torch import Tensor

from difnet_kernels import cascaded_random_walk, testing


def train(backend: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The loss after every step and the final parameters of a small model with two walks."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    pixels, labels = normal(3, 150, 6), torch.randint(5, (3, 150), generator=generator)
    embeddings = [(0.8 * normal(6, 16)).requires_grad_() for _ in range(2)]
    classifier = normal(6, 5).requires_grad_()
    share_logits = torch.zeros(2, 2, dtype=dtype, requires_grad=True)  # of mu and beta
    parameters = [*embeddings, classifier, share_logits]
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
    losses = []
    for _ in range(50):
        # A tanh and a maximum over neighbours, so that activations are not normal, as after a pool.
        features = [torch.tanh(pixels @ e).unfold(1, 3, 1).amax(dim=-1) for e in embeddings]
        features = [torch.nn.functional.pad(f, (0, 0, 1, 1)) for f in features]
        mu, beta = share_logits.sigmoid()
        logits = cascaded_random_walk(features, pixels @ classifier, mu, beta, backend=backend)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), *(p.detach() for p in parameters)


def test_training_twin(backend: str) -> None:
    truth, yardstick, ours = (
        train(*run)
        for run in (("reference", torch.float64), ("reference", torch.float32), (backend, torch.float32))
    )
    names = ("losses", "embedding 0", "embedding 1", "classifier", "mu and beta")
    for name, mine, eager, true in zip(names, ours, yardstick, truth, strict=True):
        error = testing.budget(name, mine, eager, true, testing.GRADIENT_FACTOR)
        assert error.within, error
    assert truth[0][-1] < 0.9 * truth[0][0], "the loss did not fall, so the test would prove nothing"
