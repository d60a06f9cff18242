#!/usr/bin/env bash
# The second derivative of a compiled autograd.Function is zero, without a word.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-27
# Behaviour: torch.func.grad(torch.func.grad(f)) through a torch.autograd.Function with `setup_context` is right in eager
#            mode. Under torch.compile(fullgraph=True) the same function returns zeros where the Function's input is a
#            result of the graph: Dynamo runs the traced backward without recording it. First derivatives are right.
# Output:    eager [12.0, 18.0] compiled [0.0, 0.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 setuptools
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch.func import grad


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def first(x):
    return grad(lambda y: Cube.apply(y * 1).sum())(x)


def second(x):
    return grad(lambda y: first(y).sum())(x)


x = torch.tensor([2.0, 3.0])
eager, compiled = second(x).tolist(), torch.compile(second, backend="eager", fullgraph=True)(x).tolist()
print("eager", eager, "compiled", compiled)
assert torch.compile(first, backend="eager", fullgraph=True)(x).tolist() == [12.0, 27.0]
assert eager == [12.0, 18.0] and compiled == [0.0, 0.0]
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
