"""Small data sets and runs for the tests of the network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from difnet import DifNet, SimDeepLab, create_model, evaluate, train

REPOSITORY = Path(__file__).resolve().parents[2]

CLASSES = ("left", "right", "block")


def write_pair(root: Path, split: str, name: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Write an image of two halves in different colours with a block, and its label with a void border."""
    height, width = size
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    top, left = rng.integers(4, height - 16), rng.integers(4, width - 16)
    label[top : top + 12, left : left + 12] = 2
    colours = np.array([[200, 60, 60], [60, 60, 200], [230, 230, 120]], np.float64)
    image = np.clip(colours[label] + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)
    label[:2] = 255
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / "images" / split / f"{name}.png")
    Image.fromarray(label).save(root / "labels" / split / f"{name}.png")


def make_folder(root: Path, train: int = 8, val: int = 3, size: tuple[int, int] = (40, 56)) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            write_pair(root, split, f"view{index}", size, rng)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def tiny(data_root: Path, out: Path, *more: str) -> list[str]:
    """Arguments of a training run that takes one or two seconds."""
    return [
        *("--dataset", "folder", "--data-root", str(data_root), "--out", str(out), "--model", "test_resnet"),
        *("--walk-sources", "0", "2", "--crop", "32", "--batch-size", "4", "--lr", "0.05", "--workers", "0"),
        *("--log-every", "1", "--checkpoint-every", "1", *more),
    ]


def train_and_evaluate(dataset: str, root: Path, out: Path, *reading: str) -> dict[str, Any]:
    """Train two steps on a data set and evaluate the result with the commands; return the record of metrics.

    The data set needs two training images. `reading` are the options that say how its labels are read.
    """
    options = ("--dataset", dataset, "--batch-size", "2", "--max-steps", "2", "--overlays", "0")
    assert train.main([*tiny(root, out), *options, *reading]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    command = ["--checkpoint", str(out), "--dataset", dataset, "--data-root", str(root), "--workers", "0"]
    assert evaluate.main([*command, "--out", str(out / "report.json")]) == 0
    record = json.loads((out / "report.json").read_text())
    assert record["mean_iou"] >= 0.0
    return record


def start(module: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a command of the package in another process, with one thread."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *prefix, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def losses(run: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of all logged steps."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


def assert_same_run(one: Path, other: Path) -> None:
    """Check that losses, weights, optimizer state and random states are bitwise equal."""
    assert losses(one) == losses(other)
    first, second = (load_file(run / "state.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert any(name.startswith("optimizer.") for name in first)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def edit_config(run: Path, **changes) -> None:
    """Change settings in the config.json of a run."""
    file = run / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def resume_error(run: Path, capsys) -> str:
    """Resume a run, which must fail, and return what it prints to stderr."""
    capsys.readouterr()
    assert train.main(["--resume", str(run), "--workers", "0"]) == 1
    return capsys.readouterr().err


def small_network(**options) -> DifNet | SimDeepLab:
    """Build a network of three classes and two walks, always with the same weights."""
    torch.manual_seed(0)
    return create_model("test_resnet", 3, **{"aspp": False, "walk_sources": (0, 2), **options})
