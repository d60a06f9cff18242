#!/usr/bin/env bash
# Batch norm's gradient on a CPU is wrong where the image lies in memory one way and the gradient the other.
#
# Packages:  torch 2.14.1 (2.13.0 shows the same), Python 3.11
# Date:      2026-11-27
# Behaviour: The strides of a batch of one image can leave open which layout a tensor has: (1, C, pixels, 1) with the
#            strides of a transposed (1, pixels, C) array counts as both. If the input lies that way and the incoming
#            gradient is contiguous, or the other way round, torch.nn.functional.batch_norm in training mode returns
#            a gradient that is off by more than its own norm, in float32 on a CPU, without a word. Either layout
#            for both is right. Views such as `map.flatten(2).mT` of a network's output lead there.
# Output:    (layout of image, layout of gradient, relative distance from float64)
#            contiguous contiguous 6.0e-08
#            contiguous transposed 1.4e+00
#            transposed contiguous 1.4e+00
#            transposed transposed 6.9e-08
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch.nn.functional import batch_norm

torch.manual_seed(0)
channels, pixels = 6, 50
image, incoming = torch.randn(2, 1, channels, pixels, 1).unbind()


def laid(tensor, layout):
    """The same numbers, contiguous or with the strides of a transposed (1, pixels, channels) array."""
    if layout == "contiguous":
        return tensor.clone()
    return tensor.flatten(2).mT.contiguous().mT.unflatten(2, (pixels, 1))


def gradient(of_image, of_gradient, dtype):
    x = laid(image.to(dtype), of_image).requires_grad_()
    y = batch_norm(x, None, None, training=True)
    return torch.autograd.grad(y, x, laid(incoming.to(dtype), of_gradient))[0]


truth = gradient("contiguous", "contiguous", torch.float64)
for of_image in ("contiguous", "transposed"):
    for of_gradient in ("contiguous", "transposed"):
        found = gradient(of_image, of_gradient, torch.float32)
        error = ((found - truth).norm() / truth.norm()).item()
        print(of_image, of_gradient, f"{error:.1e}")
        assert error > 0.5 if of_image != of_gradient else error < 1e-6
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
