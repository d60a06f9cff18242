#!/usr/bin/env bash
# torch.compile rounds the backward of a region in which autocast was turned off.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-28
# Behaviour: Part of a model that needs float32 is usually put under `torch.autocast(..., enabled=False)` inside of
#            an outer autocast. In eager mode its values and its gradient are float32. Compiled, the values still
#            are, but AOTAutograd traces the whole backward under the autocast of the caller, so the products of
#            the region's gradient are computed in the 16-bit type. Nothing warns. The private option
#            `torch._functorch.config.backward_pass_autocast = "off"` gives the gradient of eager mode.
# Output:    bfloat16 eager: value 0e+00, gradient 0e+00
#            bfloat16 compiled: value 0e+00, gradient 3e-03
#            bfloat16 compiled, backward_pass_autocast off: value 0e+00, gradient 0e+00
#            float16 eager: value 0e+00, gradient 0e+00
#            float16 compiled: value 0e+00, gradient 4e-04
#            float16 compiled, backward_pass_autocast off: value 0e+00, gradient 0e+00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 setuptools
cat > "$folder/run.py" <<'PYTHON'
import torch

torch.manual_seed(0)
x, weight, direction = torch.randn(3, 32, 16), torch.randn(16, 8), torch.randn(3, 32, 8)
x.requires_grad_()


def region(x):
    with torch.autocast("cpu", enabled=False):
        return x @ weight


def run(function, dtype=None):
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        y = function(x)
    return y.detach(), *torch.autograd.grad((y * direction).sum(), x)


def errors(function, dtype):
    return [((a - b).norm() / b.norm()).item() for a, b in zip(run(function, dtype), run(region))]


for name in ("bfloat16", "float16"):
    dtype = getattr(torch, name)
    found = {"eager": errors(region, dtype)}
    for setting in ("same_as_forward", "off"):
        torch._dynamo.reset()
        with torch._functorch.config.patch(backward_pass_autocast=setting):
            words = "compiled" + (", backward_pass_autocast off" if setting == "off" else "")
            found[words] = errors(torch.compile(region, backend="aot_eager"), dtype)
    for words, (value, gradient) in found.items():
        print(f"{name} {words}: value {value:.0e}, gradient {gradient:.0e}")
        assert value < 1e-6, value
        assert (gradient > 1e-4) == (words == "compiled"), (words, gradient)
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
