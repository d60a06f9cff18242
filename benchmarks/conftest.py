"""Options of `pytest benchmarks --benchmark-only`."""

import pytest
import torch
from harness.cases import NAMES, cases_of
from harness.compare import DTYPES, Workload
from harness.providers import list_providers

DEFAULT = ["paper-inference", "paper-training"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options of bench_rw.py; `-k` selects by provider, mode or dtype."""
    group = parser.getgroup("walks")
    group.addoption("--cases", nargs="+", choices=NAMES, default=DEFAULT)
    group.addoption("--dtypes", nargs="+", choices=list(DTYPES), default=["float32", "bfloat16"])
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Generate a test for each case, mode, dtype and provider. Its name is the same in every commit."""
    if "workload" not in metafunc.fixturenames:
        return
    options = metafunc.config.option
    device = torch.device(options.device)
    chosen = [
        (Workload(case, mode, dtype, "highest", case.sharpness, torch.get_num_threads()), provider)
        for name in options.cases
        for case in cases_of(name, device)
        for mode in case.modes
        for dtype in options.dtypes
        for provider in list_providers(device)
    ]
    ids = [f"{w.case.name}-{w.case.nodes}-{w.mode}-{w.dtype}-{p.name}" for w, p in chosen]
    metafunc.parametrize(("workload", "provider"), chosen, ids=ids)
