#!/usr/bin/env bash
# Under autocast, normalized features are float32 on CUDA and 16-bit on a CPU.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-28
# Behaviour: torch.nn.functional.normalize and cosine_similarity of bfloat16 features return bfloat16 under autocast on a CPU,
#            and float32 under autocast on CUDA: the norm of a vector is on CUDA's list of float32 operations, and not on the
#            CPU's. A network with normalized features whose dtypes were tested on a CPU therefore multiplies float32 features
#            on a GPU, without an error. Fake tensors, which compute dtypes and no values, show it without a GPU.
# Output:    cpu: linear bfloat16, normalize bfloat16, cosine_similarity bfloat16
#            cuda: linear bfloat16, normalize float32, cosine_similarity float32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def dtypes(device):
    # torch.autocast("cuda") switches itself off where there is no GPU.
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    try:
        with FakeTensorMode(), torch.device(device):
            features = torch.nn.Linear(16, 8)(torch.rand(4, 16))
            unit = torch.nn.functional.normalize(features, dim=-1)
            scores = torch.nn.functional.cosine_similarity(features[:, None], features, dim=-1)
    finally:
        torch.set_autocast_enabled(device, False)
    return [str(tensor.dtype).removeprefix("torch.") for tensor in (features, unit, scores)]


found = {device: dtypes(device) for device in ("cpu", "cuda")}
for device, (linear, unit, scores) in found.items():
    print(f"{device}: linear {linear}, normalize {unit}, cosine_similarity {scores}")
assert found == {"cpu": ["bfloat16"] * 3, "cuda": ["bfloat16", "float32", "float32"]}, found
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
