#!/usr/bin/env bash
# The key of torch.compile's cache does not contain ATEN_CPU_CAPABILITY, though the generated code depends on it.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-28
# Behaviour: ATEN_CPU_CAPABILITY limits the instruction set of PyTorch's own kernels and of the code that torch.compile generates:
#            "default" turns loops over vectors into loops over numbers. The key of a compiled graph contains the settings of
#            Inductor, the versions and the inputs, but not this limit. Processes with and without it share the cache in the
#            temporary folder by default, so a process may run the code that was compiled under the limit of another. Whoever
#            compares instruction sets in this way measures the code of the process that came first. A TORCHINDUCTOR_CACHE_DIR for
#            each limit keeps them apart.
# Output:    unlimited: graph fe6ewcopi, loops over vectors
#            limited:   graph fe6ewcopi, loops over numbers
#            unlimited, in the cache of the limited process: loops over numbers
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import os
from pathlib import Path

import torch

x = torch.linspace(0, 1, 4096)
torch.testing.assert_close(torch.compile(lambda x: x.exp() * x)(x), x.exp() * x)
cache = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
(graph,) = (path.parent.name for path in cache.glob("fxgraph/*/*/*"))
vectors = any("Vectorized<float>" in path.read_text() for path in cache.glob("*/*.py"))
print(graph[:9], "vectors" if vectors else "numbers")
PYTHON
run() { TORCHINDUCTOR_CACHE_DIR="$folder/$1" "$folder/venv/bin/python" "$folder/run.py"; }
unset ATEN_CPU_CAPABILITY
read -r graph loops <<< "$(run unlimited)"
read -r limited_graph limited_loops <<< "$(ATEN_CPU_CAPABILITY=default run limited)"
read -r _ shared_loops <<< "$(run limited)"
echo "unlimited: graph $graph, loops over $loops"
echo "limited:   graph $limited_graph, loops over $limited_loops"
echo "unlimited, in the cache of the limited process: loops over $shared_loops"
[[ $graph == "$limited_graph" && $loops == vectors && $limited_loops == numbers && $shared_loops == numbers ]]
echo "as described"
