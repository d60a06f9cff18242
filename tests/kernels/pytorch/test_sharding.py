"""DTensors: every process walks over its own images, and the joint results are those of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cascades import walk_on_tensors

from difnet_kernels import backends, testing, transition_rows

WORKER = """
import os, sys, torch, torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from difnet_kernels import cascaded_random_walk, testing, transition_rows

rank, world, store, backend, batch, axis = sys.argv[1:]
rank, world, batch, axis = int(rank), int(world), int(batch), int(axis)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
inputs = testing.make_inputs(batch, 11, 8, 3, 2, node_bias=True)


def over(tensor, *placements):
    return distribute_tensor(tensor.clone(), mesh, placements).requires_grad_()


features = [over(f, Shard(axis)) for f in inputs.features]
seed, state = over(inputs.seed, Shard(0)), over(inputs.state, Replicate())
mu, beta, bias = over(inputs.mu, Replicate()), over(inputs.beta, Shard(0)), over(inputs.node_bias, Shard(1))
y, states = cascaded_random_walk(
    features, seed, mu, beta, state=state, node_bias=bias, return_states=True, backend=backend
)
assert y.placements == (Shard(0),) and states.placements == (Shard(1),), (y.placements, states.placements)
assert y.to_local().shape[0] == seed.to_local().shape[0]
leaves = [*features, seed, mu, beta, state, bias]
grads = torch.autograd.grad(y.square().sum() + states.sum(), leaves)
for leaf, grad in zip(leaves, grads):
    assert grad.shape == leaf.shape, (grad.shape, leaf.shape)
nodes = torch.tensor([3, 7])
if batch == 3:  # the wrong node is on one process, and both raise
    bad = distribute_tensor(torch.tensor([[3, 7], [3, 7], [3, 99]]), mesh, [Shard(0)])
    try:
        transition_rows(features[0], bad, backend=backend)
        raise AssertionError("node 99 of 11 was accepted")
    except IndexError as error:
        assert "nodes: 99 is outside 0 .. 10" in str(error), error
rows = transition_rows(features[0], nodes, node_bias=over(inputs.node_bias[0], Shard(0)), backend=backend)
found = [x.full_tensor().detach() for x in (y, states, rows, *grads)]
if rank == 0:
    torch.save(found, store + ".found")
dist.barrier()
# gloo's threads outlive the process group and may wait for the interpreter's lock. One of them aborted (once)
# a process whose interpreter was shutting down after it had written its results.
os._exit(0)
"""


BEST = backends()[0].name if backends()[0].available else "blockwise"


@pytest.mark.parametrize(
    ("name", "batch", "axis"), [(BEST, 3, 0), ("blockwise", 1, 0), ("reference", 3, 1), (BEST, 2, 2)]
)
def test_two_processes_have_the_results_of_one(tmp_path: Path, name: str, batch: int, axis: int):
    """Three images are split unevenly, a single image leaves one process empty, other axes are gathered."""
    command = [sys.executable, "-c", WORKER]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [*command, str(rank), "2", str(tmp_path / "store"), name, str(batch), str(axis)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = {}
    try:
        for rank, worker in enumerate(workers):
            errors[rank] = worker.communicate(timeout=120)[1]
    finally:  # if one process died, the other waits for it: end both, and report the errors of both
        for worker in workers:
            worker.kill()
        errors = [errors.get(rank) or worker.communicate()[1] for rank, worker in enumerate(workers)]
        assert [worker.returncode for worker in workers] == [0, 0], errors

    inputs = testing.make_inputs(batch, 11, 8, 3, 2, node_bias=True).requires_grad_()
    y, states = walk_on_tensors("reference", 2, return_states=True)(*inputs.tensors())
    grads = torch.autograd.grad(y.square().sum() + states.sum(), inputs.tensors())
    nodes = torch.tensor([3, 7])
    rows = transition_rows(inputs.features[0], nodes, node_bias=inputs.node_bias[0], backend="reference")
    found = torch.load(tmp_path / "store.found")
    for ours, truth in zip(found, (y, states, rows, *grads), strict=True):
        torch.testing.assert_close(ours, truth.detach(), rtol=1e-9, atol=1e-11)
