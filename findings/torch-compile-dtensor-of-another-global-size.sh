#!/usr/bin/env bash
# A program compiled for a DTensor runs for DTensors of another global size, with the first one's size.
#
# Packages:  torch 2.14.1, Python 3.11
# Date:      2026-11-28
# Behaviour: torch.compile's guards on a DTensor look at the part that this process holds, not at the global size.
#            Four images over two processes are 2 + 2, three are 2 + 1: on the first process the parts are alike, so
#            the program of four is used for three, with every global size of four written into it. It gives values
#            computed from the old size and results of the wrong global shape. Nothing warns. The second process
#            compiles anew, and the two run different programs with different collectives from there on.
#            One process with PyTorch's fake group stands for the first of two here.
# Output:    global size 4: x * x.shape[0] is 4.0, redistributed (4, 3), 1 graph
#            global size 3: x * x.shape[0] is 4.0, redistributed (4, 3), 1 graph
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 setuptools
cat > "$folder/run.py" <<'PYTHON'
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
mesh = init_device_mesh("cpu", (2,))
graphs = []


def count(graph, inputs):
    graphs.append(graph)
    return graph.forward


scaled = torch.compile(lambda x: x * x.shape[0], backend=count)
gathered = torch.compile(lambda x: x.redistribute(mesh, [Replicate()]) * 2, backend="aot_eager")
for size in (4, 3):
    x = DTensor.from_local(
        torch.ones(2, 3), mesh, [Shard(0)], run_check=False, shape=torch.Size((size, 3)), stride=(3, 1)
    )
    assert x.shape == (size, 3) and x.to_local().shape == (2, 3)
    value, shape = scaled(x).to_local()[0, 0].item(), tuple(gathered(x).shape)
    print(f"global size {size}: x * x.shape[0] is {value}, redistributed {shape}, {len(graphs)} graph")
    assert (value, shape, len(graphs)) == (4.0, (4, 3), 1)
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
