#!/usr/bin/env bash
# timm's anti-aliased ResNets, dilated to output stride 8, fail at about half of all image sizes.
#
# Packages:  timm 1.0.31, torch 2.14.1, torchvision 0.29.1, Python 3.11
# Date:      2026-11-27
# Behaviour: timm.create_model("resnetaa34d", features_only=True, output_stride=8) builds and runs at 64 x 64 or 128 x 128.
#            At 67 x 67 a forward raises "The size of tensor a (15) must match the size of tensor b (16)" or the like: where
#            a stride is halved, the anti-aliasing pool of the main path and the average pool of the shortcut round an
#            odd size differently. The plain resnet34d takes every size.
# Output:    resnet34d: 65 of 65 sides from 64 to 128 | resnetaa34d: 33 of 65 sides, first refused 67
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import timm
import torch

SIDES = range(64, 129)
refused = {}
for name in ("resnet34d", "resnetaa34d"):
    network = timm.create_model(name, features_only=True, output_stride=8).eval()
    refused[name] = []
    for side in SIDES:
        try:
            with torch.inference_mode():
                network(torch.zeros(1, 3, side, side))
        except RuntimeError as error:
            assert "must match the size of tensor" in str(error), error
            refused[name].append(side)
    first = f", first refused {refused[name][0]}" if refused[name] else ""
    print(f"{name}: {len(SIDES) - len(refused[name])} of {len(SIDES)} sides from 64 to 128{first}")
assert not refused["resnet34d"] and len(refused["resnetaa34d"]) > 20
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
