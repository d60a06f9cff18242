"""The cases of bench_rw.py under pytest-benchmark.

    pytest benchmarks --benchmark-only --benchmark-autosave
    pytest benchmarks --benchmark-only --benchmark-compare          # with the last saved, of another commit
    pytest benchmarks --benchmark-only --cases native-walk -k native

Nothing asserts a time; what is asserted is that the result is right, for our own backends.
"""

import pytest
import torch
from contest import DTYPES, enter, hopeless
from providers import forget_compiled
from truth import find_truth

PATIENCE = 10.0


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
        pytest.skip(reason)
    entry = enter(provider, contest, *truths[contest], device)
    if entry.call is None:
        pytest.skip(entry.status)
    if entry.verdict is not None:
        benchmark.extra_info |= entry.verdict._asdict()
        assert entry.verdict.within or not provider.ours

    def call():
        entry.call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    benchmark.pedantic(call, rounds=1 if entry.seconds else 5, warmup_rounds=0)
