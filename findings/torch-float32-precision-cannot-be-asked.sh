#!/usr/bin/env bash
# torch.get_float32_matmul_precision() raises an error once the precision of a backend has been set.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-28
# Behaviour: The precision of float32 products can be set for all backends (torch.set_float32_matmul_precision) or for one
#            (torch.backends.cuda.matmul.fp32_precision = "tf32"). After the second, also on a machine without a GPU, the
#            getter of the first raises a RuntimeError instead of an answer. A library that asks for the precision in a
#            forward therefore fails in programs that use the newer setting. The other way round it works: the settings of
#            backends can be read after torch.set_float32_matmul_precision.
# Output:    high: cuda tf32, mkldnn tf32
#            medium: cuda tf32, mkldnn bf16
#            after cuda.matmul.fp32_precision: RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch

found = {}
for name in ("high", "medium"):
    torch.set_float32_matmul_precision(name)
    found[name] = [getattr(torch.backends, x).matmul.fp32_precision for x in ("cuda", "mkldnn")]
    print(f"{name}: cuda {found[name][0]}, mkldnn {found[name][1]}")
assert found == {"high": ["tf32", "tf32"], "medium": ["tf32", "bf16"]}, found
torch.set_float32_matmul_precision("highest")
assert torch.get_float32_matmul_precision() == "highest"
torch.backends.cuda.matmul.fp32_precision = "tf32"
try:
    answer = torch.get_float32_matmul_precision()
except RuntimeError:
    answer = "RuntimeError"
print("after cuda.matmul.fp32_precision:", answer)
assert answer == "RuntimeError", answer
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
