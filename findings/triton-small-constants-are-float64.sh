#!/usr/bin/env bash
# A constant below 2^-126 makes a float32 computation of a Triton kernel float64.
#
# Packages:  triton 3.8.0, Python 3.11
# Date:      2026-11-28
# Behaviour: A float constant of a kernel takes the type of the tile that it meets: tl.maximum(x, 1.2e-38) of a float32 tile is
#            float32. A constant below the smallest normal float32, 2^-126 = 1.175e-38, such as a guard against zero, is a
#            float64 instead, and all that follows from it is computed in float64. The results are right and only slower,
#            unless the value is carried by a loop: then the kernel does not compile, because its type changes. No GPU is
#            needed to see it.
# Output:    1.2e-38: float64 in the kernel False
#            1.1e-38: float64 in the kernel True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check triton==3.8.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def kernel(x, y, LOW: tl.constexpr):
    i = tl.arange(0, 16)
    tl.store(y + i, tl.maximum(tl.load(x + i), LOW) * 2.0)


found = {}
for low in (1.2e-38, 1.1e-38):
    source = ASTSource(kernel, {"x": "*fp32", "y": "*fp32", "LOW": "constexpr"}, {(2,): low})
    found[low] = "f64" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"]
    print(f"{low}: float64 in the kernel {found[low]}")
assert found == {1.2e-38: False, 1.1e-38: True}, found
PYTHON
TRITON_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" "$folder/run.py"
echo "as described"
