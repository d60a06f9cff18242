"""The compiled kernels: instruction sets, both forms of the exponentials, threads, memory, forks."""

import os
import re
import subprocess
import sys
import tempfile

import pytest
import torch

from difnet_kernels import backends, cascaded_random_walk, random_walk, testing
from difnet_kernels.backends import instruction_sets

STATUS = {status.name: status for status in backends()}["native"]
pytestmark = pytest.mark.skipif(not STATUS.available, reason=f"native: {STATUS.reason}")

# The last is AMX's data flow in plain code, for machines that have no AMX.
ISAS = ("portable", "avx2", "avx512", "avx512_bf16", "amx", "amx-model")

ACCURACY = """
import sys, torch
from difnet_kernels import testing
failed = []
for sharpness in testing.SHARPNESS:
    for nodes, dtype in ((200, torch.float32), (97, torch.bfloat16)):
        inputs = testing.make_inputs(3, nodes, 20, 7, 2, sharpness, node_bias=True)
        errors = testing.measure_errors(inputs, dtype, "native")
        failed += [(sharpness, nodes, e) for e in errors if not e.within]
    inputs = testing.make_inputs(3, 130, 20, 7, 2, sharpness, node_bias=True)
    errors = testing.measure_errors(inputs, torch.float64, "native")  # eager is the truth here
    failed += [(sharpness, e) for e in errors if e.ours > 1e-12]
print(failed)
sys.exit(bool(failed))
"""


def run(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, timeout=300, check=False
    )


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa):
    result = run(ACCURACY, DIFNET_CPU_ISA=isa)
    if "cannot run here" in result.stderr:
        pytest.skip(re.search("DIFNET_CPU_ISA=.* cannot run here.*", result.stderr)[0])
    assert result.returncode == 0, result.stdout + result.stderr


PRECISION = """
import sys, torch
from difnet_kernels import testing
torch.set_float32_matmul_precision(sys.argv[1])
finer = {"high": 256, "medium": 1}[sys.argv[1]]
failed = []
for sharpness in testing.SHARPNESS:
    inputs = testing.make_inputs(3, 250, 64, 21, 2, sharpness, node_bias=True)
    single = testing.measure_errors(inputs, torch.float32, "native")
    eager = testing.measure_errors(inputs, torch.bfloat16, "native")
    for mine, yardstick in zip(single, eager):
        factor = testing.FORWARD_FACTOR if mine.name == "output" else testing.GRADIENT_FACTOR
        if not mine.ours <= factor * yardstick.eager / finer + mine.allowed:
            failed.append((sharpness, mine, yardstick))
    if sharpness == "mixed" and single[0].ours < 3 * single[0].eager:
        failed.append((sharpness, "that was float32", single[0]))
print(failed)
sys.exit(bool(failed))
"""


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_float32_in_bfloat16_parts(precision):
    """One bfloat16 number may err like eager in bfloat16; the sum of two is 256 times finer."""
    result = run(PRECISION, precision, DIFNET_CPU_ISA="amx-model")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_best_instruction_set_is_the_default():
    sets = instruction_sets()
    assert sets[-1] == "portable"
    assert "amx-model" not in sets
    inputs = testing.make_inputs(1, 100, 64, 5, 1).to(torch.bfloat16)
    code = "import sys, torch\nfrom difnet_kernels import random_walk\nx, half = torch.load(sys.argv[1])\n"
    code += "torch.save(random_walk(x, x, x, half, half, backend='native'), sys.argv[1])"
    x, half = inputs.features[0], torch.tensor(0.5)
    with tempfile.NamedTemporaryFile() as file:
        torch.save((x, half), file.name)
        assert run(code, file.name, DIFNET_CPU_ISA=sets[0]).returncode == 0
        assert torch.equal(torch.load(file.name), random_walk(x, x, x, half, half, backend="native"))


def test_unknown_instruction_set_is_an_error():
    result = run(ACCURACY, DIFNET_CPU_ISA="vax")
    assert "DIFNET_CPU_ISA=vax cannot run here; expected one of" in result.stderr
    assert "portable" in result.stderr


def everything(inputs, backend="native"):
    copy = inputs.to(inputs.seed.dtype).requires_grad_()
    y = cascaded_random_walk(
        copy.features,
        copy.seed,
        copy.mu,
        copy.beta,
        state=copy.state,
        node_bias=copy.node_bias,
        backend=backend,
    )
    return [y, *torch.autograd.grad(y.square().sum(), copy.tensors())]


@pytest.mark.parametrize("nodes", [50, 96, 97, 500])
def test_bits_do_not_depend_on_the_number_of_threads(nodes):
    inputs = testing.make_inputs(3, nodes, 33, 5, 2, node_bias=True).to(torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(everything(inputs))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))


@pytest.mark.parametrize("spread", [10.0, 500.0])
def test_both_forms_of_the_exponentials(spread):
    """A node bias that ranges over 500 leaves no room for shared exponentials; one over 10 does."""
    inputs = testing.make_inputs(3, 250, 64, 5, 1, "mixed", node_bias=True)
    inputs = inputs._replace(node_bias=spread * torch.rand_like(inputs.node_bias))
    errors = testing.measure_errors(inputs, torch.float32, "native")
    assert all(error.within for error in errors), "\n".join(map(str, errors))


def test_images_of_both_forms_in_one_batch():
    inputs = testing.make_inputs(4, 130, 16, 3, 1, "mixed", node_bias=True)
    scale = torch.tensor([1.0, 500.0, 1.0, 500.0], dtype=torch.float64)[:, None]
    inputs = inputs._replace(node_bias=inputs.node_bias * scale)
    for ours, truth in zip(everything(inputs), everything(inputs, "reference"), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


def test_out_of_memory_is_an_exception():
    code = """
import resource, torch
from difnet_kernels import random_walk
x, half = torch.randn(1, 400_000, 64), torch.tensor(0.5)
y = torch.randn(1, 400_000, 2)
random_walk(x[:, :200], y[:, :200], y[:, :200], half, half, backend="native")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
try:
    random_walk(x, y, y, half, half, backend="native")
except (RuntimeError, MemoryError) as error:
    print("raised", type(error).__name__)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert "raised" in result.stdout


def test_after_a_fork():
    code = """
import os, torch
from difnet_kernels import random_walk
x, half = torch.randn(1, 300, 8), torch.tensor(0.5)
first = random_walk(x, x, x, half, half, backend="native")
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    same = torch.equal(random_walk(x, x, x, half, half, backend="native"), first)
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    assert run(code).returncode == 0
