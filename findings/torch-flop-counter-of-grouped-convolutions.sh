#!/usr/bin/env bash
# PyTorch's FLOP counter counts the backward of a grouped convolution as if it had fewer groups.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-27
# Behaviour: torch.utils.flop_counter.FlopCounterMode counts 2 operations for a multiply-add. The forward of a grouped
#            convolution is right. Its backward has two products (by the input and by the weights), each as large as the
#            forward, as for a convolution without groups. The counter gives more, and the excess grows with the
#            groups: for depthwise convolutions the backward seems many times the forward, and networks made of them
#            (EfficientNet, MobileNet) seem to need many times the work for a training step that they do.
# Output:    1 group:  forward 217728, backward 435456 = 2.0 times
#            4 groups: forward 54432, backward 272160 = 5.0 times
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch.utils.flop_counter import FlopCounterMode

ratios = {}
for groups in (1, 4):
    layer = torch.nn.Conv2d(8, 12, 3, groups=groups)
    image = torch.rand(2, 8, 9, 11, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        output = layer(image)
        forward = counter.get_total_flops()
        output.sum().backward()
        backward = counter.get_total_flops() - forward
    # A multiply-add for every output, every input channel of its group and every place of the kernel.
    assert forward == 2 * output.numel() * (8 // groups) * 9, forward
    ratios[groups] = backward / forward
    name = f"{groups} group{'s' if groups > 1 else ''}:"
    print(f"{name:9} forward {forward}, backward {backward} = {ratios[groups]} times")
assert ratios[1] == 2.0 and ratios[4] > 2.5, ratios
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
