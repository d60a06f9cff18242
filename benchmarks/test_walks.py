"""The cases of bench_rw.py under pytest-benchmark.

    pytest benchmarks --benchmark-only --benchmark-autosave
    pytest benchmarks --benchmark-only --benchmark-compare          # with the last saved, of another commit
    pytest benchmarks --benchmark-only --cases native-walk -k native

Nothing asserts a time; what is asserted is that our own backends run and that their results are right.
"""

import pytest
import torch
from harness.compare import DTYPES, Patience, enter, hopeless
from harness.providers import forget_compiled
from harness.truth import find_truth

PATIENCE = Patience(10.0, "PATIENCE")


def end(provider, status):
    """A rival may be missing or fail; one of ours may be missing or too slow, and must not fail."""
    if provider.ours and not provider.unavailable and not status.startswith("too slow"):
        pytest.fail(f"{provider.name}: {status}")
    pytest.skip(status)


@pytest.fixture(scope="module")
def truths():
    """Inputs and truth of the case at hand, made once for all of its providers."""
    return {}


def test_walks(benchmark, contest, provider, truths, pytestconfig):
    """Time one provider, after its result was checked."""
    device = torch.device(pytestconfig.option.device)
    if contest not in truths:
        truths.clear()
        forget_compiled()
        inputs = contest.case.inputs(contest.sharpness, DTYPES[contest.dtype], device)
        truths[contest] = inputs, find_truth(contest.case, inputs, contest.mode)
    if reason := provider.unavailable or hopeless(provider, contest, PATIENCE, [], device):
        end(provider, reason)
    entry = enter(provider, contest, *truths[contest], device)
    if entry.call is None:
        end(provider, entry.status)
    if entry.verdict is not None:
        benchmark.extra_info |= entry.verdict._asdict()
        assert entry.verdict.within or not provider.ours

    def call():
        entry.call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    benchmark.pedantic(call, rounds=1 if entry.long else 5, warmup_rounds=0)
