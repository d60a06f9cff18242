"""bench_model.py and tools/backbones.py: counted operations, unsupported networks, the page of backbones."""

import subprocess
import sys
from pathlib import Path

import backbones
import pytest
import timm
import torch
from bench_model import main
from harness.networks import INFERENCE, PLAIN, TRAINING_STEP, Setup, convolution_backward_flops, count_flops
from harness.rows import load
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from difnet import create_model

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"),
    [
        # Images, pixels of the output (of the input if transposed), output channels, inputs of each output.
        (nn.Conv2d(8, 12, 3), (2, 8, 9, 11), 2 * (7 * 9) * 12 * (8 * 9)),
        (nn.Conv2d(8, 12, 3, groups=4), (2, 8, 9, 11), 2 * (7 * 9) * 12 * (2 * 9)),
        (nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1), (2, 8, 9, 11), 2 * (5 * 6) * 8 * (1 * 9)),
        (nn.Conv1d(8, 8, 3, groups=8), (2, 8, 9), 2 * 7 * 8 * 3),
        (nn.ConvTranspose2d(8, 12, 3, stride=2), (2, 8, 9, 11), 2 * (9 * 11) * 12 * (8 * 9)),
        (nn.ConvTranspose2d(8, 12, 3, stride=2, groups=4), (2, 8, 9, 11), 2 * (9 * 11) * 12 * (2 * 9)),
    ],
)
@pytest.mark.parametrize("image_gradient", [True, False])
def test_operations_of_a_convolution(layer, shape, multiply_adds, image_gradient):
    image = torch.rand(shape, requires_grad=image_gradient)

    def counted(**options):
        with FlopCounterMode(display=False, **options) as counter:
            layer(image).sum().backward()
        return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}

    found = counted(custom_mapping={torch.ops.aten.convolution_backward: convolution_backward_flops})
    assert found == {
        "aten.convolution": 2 * multiply_adds,
        "aten.convolution_backward": (1 + image_gradient) * 2 * multiply_adds,
    }
    if layer.groups == 1:
        assert found == counted()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto"])
def test_a_training_step_takes_less_than_three_times_the_operations_of_inference(name):
    """Every layer computes the gradients of its weight and input, but the first only that of its weight."""
    setup = Setup(name, 65, PLAIN, "cpu")
    model = create_model(name, 21)
    inference, step = (count_flops(setup, mode, model)[0] for mode in (INFERENCE, TRAINING_STEP))
    assert 2.5 * inference < step < 3 * inference


def test_operations_of_the_walks_follow_the_size_of_the_score_map():
    """An image of 161 x 161 pixels gives ConvNeXt a map of 20 rows, a ResNet one of 21."""
    walks = [
        count_flops(Setup(name, 161, PLAIN, "cpu"), INFERENCE, create_model(name, 21))[1]
        for name in ("convnext_atto", "test_resnet")
    ]
    assert walks[0] / walks[1] == pytest.approx((20 * 20) ** 2 / (21 * 21) ** 2)


def test_network_that_does_not_take_the_image_is_reported(tmp_path):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "benchmarks/bench_model.py", "--networks", "halonet26t"]
    command += ["--size", "65", "--modes", INFERENCE, "--no-memory", "--out", str(out)]
    command += ["--arrange", "halonet26t", "--arrangements", "plain"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reason = "backbone 'halonet26t' does not take images of 65 x 65 pixels"
    assert f"halonet26t, total: {reason}" in done.stdout
    assert f"halonet26t, inference, arrangements: {reason}" in done.stdout
    assert {row["status"].partition(" (")[0] for row in load([out])} == {reason}


def test_network_that_cannot_be_trained_on_one_image_is_measured_in_inference():
    setup = Setup("rexnet_100", 65, PLAIN, "cpu")
    assert setup.reason_unsupported(INFERENCE) is None
    assert "cannot be trained on one image of 65 x 65" in setup.reason_unsupported(TRAINING_STEP)
    model, image = setup.build()
    assert image.shape == (1, 3, 65, 65)
    with torch.no_grad():
        assert model.eval()(image).isfinite().all()


def test_unknown_network_is_an_error_before_anything_is_measured(tmp_path, capsys):
    assert main(["--networks", "resnet5o", "--out", str(tmp_path / "rows.jsonl")]) == 1
    assert "bench_model.py: error: name: no model 'resnet5o'; did you mean" in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()


def test_page_of_backbones_agrees_with_its_rows():
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
def test_rows_of_backbones_agree_with_the_installed_timm(name):
    made_with, rows = backbones.load(backbones.ROWS.read_text())
    if f"timm {timm.__version__}," not in made_with:
        pytest.skip(f"the rows were made with {made_with}")
    assert backbones.examine(name) == {row.name: row for row in rows}.get(name)
