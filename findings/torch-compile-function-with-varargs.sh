#!/usr/bin/env bash
# torch.compile hands a context to an autograd.Function that takes none, if no input needs a gradient.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-27
# Behaviour: A torch.autograd.Function with `setup_context` has a `forward` without `ctx`. If it takes a variable
#            number of tensors (`forward(scale, *tensors)`), eager mode and torch.compile with gradients run it.
#            Where no input needs a gradient, Dynamo calls `forward` itself and puts a context in front of the
#            arguments, unless there are exactly as many arguments as `forward` has parameters. So the same Function
#            compiles with one tensor and fails with two.
# Output:    1 tensor: with gradients 6.0 without 6.0
#            2 tensors: with gradients 12.0 without AttributeError: 'AutogradFunctionContextVariable' object has no
#            attribute 'proxy'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 setuptools
cat > "$folder/run.py" <<'PYTHON'
import torch


class ScaledSum(torch.autograd.Function):
    @staticmethod
    def forward(scale, *tensors):
        return scale * sum(tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.scale, ctx.count = inputs[0], len(inputs) - 1

    @staticmethod
    def backward(ctx, grad):
        return None, *[ctx.scale * grad for _ in range(ctx.count)]


def run(*tensors):
    return ScaledSum.apply(2.0, *tensors)


def compiled(count, requires_grad):
    torch._dynamo.reset()
    tensors = [torch.ones(3, requires_grad=requires_grad) for _ in range(count)]
    try:
        return torch.compile(run, backend="eager", fullgraph=True)(*tensors).sum().item()
    except Exception as error:
        return str(error).splitlines()[0]


one, two = ([compiled(count, grad) for grad in (True, False)] for count in (1, 2))
print("1 tensor: with gradients", one[0], "without", one[1])
print("2 tensors: with gradients", two[0], "without", two[1])
assert one == [6.0, 6.0], one
assert two[0] == 12.0 and "AutogradFunctionContextVariable" in str(two[1]), two
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
