"""Options of `pytest benchmarks --benchmark-only`."""

import torch
from harness.cases import NAMES, cases
from harness.compare import DTYPES, Contest
from harness.providers import providers

DEFAULT = ["paper-inference", "paper-training"]


def pytest_addoption(parser):
    """What to run, as in bench_rw.py; `-k` chooses among it by provider, mode or dtype."""
    group = parser.getgroup("walks")
    group.addoption("--cases", nargs="+", choices=NAMES, default=DEFAULT)
    group.addoption("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def pytest_generate_tests(metafunc):
    """One test for each case, mode, dtype and provider, named so that runs of other commits compare."""
    if "contest" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.option
    device = torch.device(chosen.device)
    found = [
        (Contest(case, mode, dtype, "highest", case.sharpness), provider)
        for name in chosen.cases
        for case in cases(name, device)
        for mode in case.modes
        for dtype in chosen.dtypes
        for provider in providers(device)
    ]
    ids = [f"{c.case.name}-{c.case.nodes}-{c.mode}-{c.dtype}-{p.name}" for c, p in found]
    metafunc.parametrize(("contest", "provider"), found, ids=ids)
