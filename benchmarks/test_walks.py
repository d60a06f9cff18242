"""The cases of bench_rw.py under pytest-benchmark.

    pytest benchmarks --benchmark-only --benchmark-autosave
    pytest benchmarks --benchmark-only --benchmark-compare          # with the last one saved
    pytest benchmarks --benchmark-only --cases native-walk -k native

No time is asserted. It is asserted that our own backends run and that their results are accurate.
"""

from typing import Any, NoReturn

import pytest
import torch
from harness.compare import DTYPES, TimeLimit, Workload, reason_to_skip, run_and_check
from harness.providers import Provider, reset_compiler
from harness.truth import Truth, compute_truth

from difnet_kernels.testing import Inputs

LIMIT = TimeLimit(10.0, "LIMIT")
Truths = dict[Workload, tuple[Inputs, Truth | None]]


def stop(provider: Provider, status: str) -> NoReturn:
    """Skip a rival, or a backend of ours that is not available or too slow; fail if one of ours failed."""
    if provider.ours and not provider.unavailable and not status.startswith("too slow"):
        pytest.fail(f"{provider.name}: {status}")
    pytest.skip(status)


@pytest.fixture(scope="module")
def truths() -> Truths:
    """Inputs and exact results of the current workload, computed once for all of its providers."""
    return {}


def test_walks(
    benchmark: Any, workload: Workload, provider: Provider, truths: Truths, pytestconfig: pytest.Config
) -> None:
    device = torch.device(pytestconfig.option.device)
    if workload not in truths:
        truths.clear()
        reset_compiler()
        inputs = workload.case.make_inputs(workload.sharpness, DTYPES[workload.dtype], device)
        truths[workload] = inputs, compute_truth(workload.case, inputs, workload.mode)
    if reason := provider.unavailable or reason_to_skip(provider, workload, LIMIT, [], device):
        stop(provider, reason)
    outcome = run_and_check(provider, workload, *truths[workload], device)
    call = outcome.call
    if call is None:
        stop(provider, outcome.status)
    if outcome.accuracy is not None:
        benchmark.extra_info |= outcome.accuracy._asdict()
        assert outcome.accuracy.within or not provider.ours

    def synchronized() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    benchmark.pedantic(synchronized, rounds=1 if outcome.long else 5, warmup_rounds=0)
