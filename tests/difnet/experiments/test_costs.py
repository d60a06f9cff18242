"""Operations counted against independent formulas, steps and evaluations by hand, and the dry run."""

import pytest
import torch
from small_runs import small_network
from torch import nn

from difnet import experiment as command
from difnet.data import DataError
from difnet.experiments import estimate
from difnet.experiments.costs import Cost, build, cost_of, inference_flops, training_flops
from difnet.experiments.estimate import Pace, duration, measure_pace
from difnet.experiments.plan import DataSize, make_runs
from difnet.experiments.sets import CAMVID, CONTEXT, EXPERIMENTS, VOC
from difnet.training.config import TrainConfig

TINY = TrainConfig(model="test_resnet", walk_sources=(0, 2), crop=32, batch_size=4, recipe="paper").resolved()


def convolution_flops(network: nn.Module, image: torch.Tensor) -> int:
    """Two operations for each multiply-add of all convolutions of a forward, seen by hooks."""
    total = 0

    def count(layer: nn.Conv2d, _inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * layer.weight[0].numel()

    hooks = [it.register_forward_hook(count) for it in network.modules() if isinstance(it, nn.Conv2d)]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return total


def test_operations_of_an_image_are_those_of_convolutions_walks_and_upsampling():
    network = small_network().eval()
    convolutions = convolution_flops(network, torch.rand(1, 3, 40, 56))
    nodes, classes = 5 * 7, 3
    walks = 2 * 2 * nodes**2 * (64 + classes)
    # The rows of the (5, 7) map become 40, then its columns 56; or the other way round.
    upsampling = {
        2 * classes * (40 * 5 * 7 + 40 * 7 * 56),
        2 * classes * (5 * 7 * 56 + 40 * 5 * 56),
    }
    with torch.device("meta"):
        counted = inference_flops(small_network(), (40, 56))
    assert counted - convolutions - walks in upsampling


def test_a_training_step_takes_three_times_a_forward_but_for_the_first_layer():
    """The gradient of weights and that of inputs each take a forward; images need no gradient."""
    network = build(TINY, 3)
    forward = inference_flops(network, (32, 32))
    for batch in (2, 4):
        step = training_flops(network, TINY, batch)
        assert 2.5 * batch * forward < step < 3.0 * batch * forward
    assert training_flops(network, TINY, 4) == 2 * training_flops(network, TINY, 2)


def test_steps_and_evaluations():
    data = DataSize(train=11, val=5, image=(40, 56), classes=3)
    config = TrainConfig(model="test_resnet", crop=32, batch_size=4, epochs=5, eval_every=2, image_scale=0.5)
    cost = cost_of(config, data)
    # Two whole batches an epoch; evaluated after steps 4, 8 and 10, and once more when the run has ended.
    assert (cost.steps, cost.evaluations, cost.images, cost.image) == (10, 4, 5, (20, 28))
    assert cost.parameters == sum(p.numel() for p in build(config.resolved(), 3).parameters())
    assert cost.flops() == 10 * cost.step_flops + 4 * 5 * cost.image_flops
    assert cost.flops(first_step=5) == pytest.approx(0.5 * cost.flops())
    limited = TrainConfig(model="test_resnet", crop=32, batch_size=4, epochs=5, max_steps=3)
    assert (cost_of(limited, data).steps, cost_of(limited, data).evaluations) == (3, 3)
    with pytest.raises(DataError, match="--batch-size 4 is larger than the 3 training images; lower it"):
        cost_of(config, data._replace(train=3))


def test_the_pace_is_measured_on_the_operations_of_two_crops():
    pace = measure_pace(TINY, "tiny", 3)
    assert pace.flops > 0.0
    assert "a training step of tiny on 2 crops of 32 x 32 takes " in pace.source


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (90, "2 min"),
        (3599, "1 h 0 min"),
        (5400, "1 h 30 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def fixed_pace(monkeypatch):
    """A machine of 10^12 operations a second, and a cost of 6 * 10^13 for each run."""
    cost = Cost(1_000_000, 10, 5 * 10**12, 2, (32, 32), 10**12, 5)
    asked = {}

    def cost_of_data(config, data):
        asked["data"] = data
        return cost

    monkeypatch.setattr(estimate, "cost_of", cost_of_data)
    monkeypatch.setattr(estimate, "measure_pace", lambda *_: Pace(1e12, "as on paper"))
    return asked


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_dry_run_lists_every_run(fixed_pace, name, capsys, tmp_path):
    out = tmp_path / "out"
    assert (
        command.main(
            [name, "--dry-run", "--seeds", "2", "--out", str(out)]
            + (["--dataset", "camvid"] if name == "table2" else [])
        )
        == 0
    )
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    runs = make_runs(EXPERIMENTS[name], dataset="camvid" if name == "table2" else None, seeds=2)
    for run in runs:
        at = lines.index(f"{run.name}: about 1 min, 10 steps")
        assert lines[at + 1].startswith("  python -m difnet.train ")
        assert str(out / run.folder) in lines[at + 1]
    assert f"{len(runs)} runs, 0 of them done in 0 s" in printed
    assert f"about {duration(60 * len(runs))} left, an estimate: as on paper" in printed
    assert not out.exists()
    if EXPERIMENTS[name].datasets[0] == "scenes":
        assert fixed_pace["data"] == DataSize(1920, 96, (96, 96), 6)
    else:
        assert fixed_pace["data"] == CAMVID
        assert "the numbers are published ones: CamVid, 367 and 101 images of 360 x 480" in printed


@pytest.mark.parametrize(
    ("name", "dataset", "data"), [("table1", "voc-aug", VOC), ("table2", "context", CONTEXT)]
)
def test_dry_run_on_published_sizes(fixed_pace, name, dataset, data, capsys):
    assert command.main([name, "--dry-run", "--dataset", dataset, "--only", "sim-deeplab-50"]) == 0
    assert data.source in capsys.readouterr().out
    assert fixed_pace["data"] == data
