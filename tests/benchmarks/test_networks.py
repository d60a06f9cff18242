"""Networks by name in bench_model.py: their operations, and those that cannot run."""

import subprocess
import sys
from pathlib import Path

import backbones
import pytest
import timm
import torch
from bench_model import main
from harness.networks import INFERENCE, PLAIN, STEP, Setup, convolution_backward_flops, flops
from harness.rows import load
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from difnet import create_model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"),
    [
        # Images, places of the output (of the input where transposed), output channels, inputs of each.
        (nn.Conv2d(8, 12, 3), (2, 8, 9, 11), 2 * (7 * 9) * 12 * (8 * 9)),
        (nn.Conv2d(8, 12, 3, groups=4), (2, 8, 9, 11), 2 * (7 * 9) * 12 * (2 * 9)),
        (nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1), (2, 8, 9, 11), 2 * (5 * 6) * 8 * (1 * 9)),
        (nn.Conv1d(8, 8, 3, groups=8), (2, 8, 9), 2 * 7 * 8 * 3),
        (nn.ConvTranspose2d(8, 12, 3, stride=2), (2, 8, 9, 11), 2 * (9 * 11) * 12 * (8 * 9)),
        (nn.ConvTranspose2d(8, 12, 3, stride=2, groups=4), (2, 8, 9, 11), 2 * (9 * 11) * 12 * (2 * 9)),
    ],
)
@pytest.mark.parametrize("of_image", [True, False])
def test_operations_of_a_convolution(layer, shape, multiply_adds, of_image):
    image = torch.rand(shape, requires_grad=of_image)

    def counted(**options):
        with FlopCounterMode(display=False, **options) as counter:
            layer(image).sum().backward()
        return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}

    found = counted(custom_mapping={torch.ops.aten.convolution_backward: convolution_backward_flops})
    assert found == {
        "aten.convolution": 2 * multiply_adds,
        "aten.convolution_backward": (1 + of_image) * 2 * multiply_adds,
    }
    if layer.groups == 1:
        assert found == counted()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto"])
def test_a_training_step_takes_less_than_three_times_the_operations_of_inference(name):
    """Weight and input of every layer get a gradient, but not the image."""
    setup = Setup(name, 65, PLAIN, "cpu")
    model = create_model(name, 21)
    inference, step = (flops(setup, mode, model)[0] for mode in (INFERENCE, STEP))
    assert 2.5 * inference < step < 3 * inference


def test_nodes_are_those_of_the_network():
    """161 pixels give ConvNeXt 20 rows, a ResNet 21."""
    walks = [
        flops(Setup(n, 161, PLAIN, "cpu"), INFERENCE, create_model(n, 21))[1]
        for n in ("convnext_atto", "test_resnet")
    ]
    assert walks[0] / walks[1] == pytest.approx((20 * 20) ** 2 / (21 * 21) ** 2)


def test_networks_that_do_not_take_one_image_are_told(tmp_path):
    out = tmp_path / "rows.jsonl"
    options = [
        "--size",
        "65",
        "--modes",
        INFERENCE,
        "--no-memory",
        "--out",
        str(out),
        "--arrangements",
        "plain",
    ]
    command = [sys.executable, "benchmarks/bench_model.py", "--networks", "halonet26t", *options]
    command += ["--arrange", "halonet26t", "--arrangements", "plain"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = "backbone 'halonet26t' does not take images of 65 x 65 pixels"
    assert f"halonet26t, total: {words}" in done.stdout
    assert f"halonet26t, inference, arrangements: {words}" in done.stdout
    assert {row["status"].partition(" (")[0] for row in load([out])} == {words}


def test_a_network_that_cannot_be_trained_on_one_image_is_measured_in_inference():
    setup = Setup("rexnet_100", 65, PLAIN, "cpu")
    assert setup.obstacle(INFERENCE) is None
    assert "cannot be trained on one image of 65 x 65" in setup.obstacle(STEP)
    model, image = setup.build()
    assert image.shape == (1, 3, 65, 65)
    with torch.no_grad():
        assert model.eval()(image).isfinite().all()


def test_an_unknown_network_ends_the_run_before_it_begins(tmp_path, capsys):
    assert main(["--networks", "resnet5o", "--out", str(tmp_path / "rows.jsonl")]) == 1
    assert "bench_model.py: error: name: no model 'resnet5o'; did you mean" in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()


def test_the_page_of_backbones_says_what_the_rows_say():
    assert backbones.PAGE.read_text() == backbones.page(backbones.ROWS.read_text())


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "convnext_atto",
        "rexnet_100",
        "haloregnetz_b",
        "mobilevitv2_050",
        "resnetaa34d",
        "vgg11",
    ],
)
def test_the_rows_of_backbones_are_what_the_network_does(name):
    made_with, rows = backbones.load(backbones.ROWS.read_text())
    if f"timm {timm.__version__}," not in made_with:
        pytest.skip(f"the rows are of {made_with}")
    assert backbones.examine(name) == {row.name: row for row in rows}.get(name)
