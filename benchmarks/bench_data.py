"""Measure how long data take: to open and check a folder, again after that, and to feed a training.

    python benchmarks/bench_data.py                               # 10,000 pictures; some minutes
    python benchmarks/bench_data.py --pictures 2000 --before COMMIT   # also as an earlier commit did it

The pictures are drawn scenes of 360 x 480 pixels, as JPEG, with labels as PNG. 200 different ones are linked
under many names, and each name is read on its own. Every check runs in a process of its own, which has
imported the package before the clock starts. All of them run in turns --rounds times, and the smallest time
counts.

"Files" is a folder of so many images and labels of 40 x 56 pixels, checked before: what a resumed run does
with it before its first step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from difnet.data import SeededView, StepSampler, create_dataset, make_loader, train_transform
from difnet.data.checks.workers import cores
from difnet.data.sets.scenes import draw_scene

ROOT = Path(__file__).resolve().parents[1]
DISTINCT = 200

CHECK = """
import json, sys, time
import torch
torch.set_num_threads(1)
from difnet.data import create_dataset
started = time.perf_counter()
dataset = create_dataset("folder", sys.argv[1], "train")
opened = time.perf_counter()
dataset.check()
print(json.dumps([opened - started, time.perf_counter() - opened]))
"""


def make_folder(root: Path, count: int, size: tuple[int, int], ending: str) -> Path:
    """Write `DISTINCT` drawn scenes of `size` = (height, width), and link them under `count` names."""
    height, width = size
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    for number in range(min(DISTINCT, count)):
        image, label = draw_scene(np.random.default_rng(number), max(size))
        Image.fromarray(image[:height, :width]).save(root / f"{number}.{ending}", quality=90)
        Image.fromarray(label[:height, :width]).save(root / f"label{number}.png")
    for number in range(count):
        source = number % DISTINCT
        name = f"{number:06d}"
        os.link(root / f"{source}.{ending}", root / "images/train" / f"{name}.{ending}")
        os.link(root / f"label{source}.png", root / "labels/train" / f"{name}.png")
    (root / "classes.txt").write_text("sky\nground\ndisc\nsquare\ntriangle\nring\n")
    return root


def timed_check(root: Path, package: Path, cache: Path) -> tuple[float, float]:
    """Open and check `root` in a process that imports `package`; return the seconds of both."""
    environment = os.environ | {"PYTHONPATH": str(package), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(root)],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    opened, checked = json.loads(done.stdout.splitlines()[-1])
    return opened, checked


def earlier(commit: str, folder: Path) -> Path:
    """Unpack the packages of an earlier commit."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit, "difnet", "difnet_kernels"], cwd=ROOT, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


def measure_checks(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the seconds of a first check, of a second one, and of a first one by an earlier commit."""
    root = make_folder(folder / "pictures", arguments.pictures, (360, 480), "jpg")
    before = earlier(arguments.before, folder / "before") if arguments.before else None
    times: dict[str, list[float]] = {}
    for number in range(arguments.rounds):
        cache = folder / f"cache{number}"
        if before is not None:
            times.setdefault(f"check, {arguments.before}", []).append(sum(timed_check(root, before, cache)))
        for name in ("check", "check again"):
            times.setdefault(name, []).append(sum(timed_check(root, ROOT, cache)))
    fastest = {name: min(seconds) for name, seconds in times.items()}
    print(f"\n{arguments.pictures} pictures of 480 x 360, {cores()} cores, best of {arguments.rounds}:")
    for name, seconds in fastest.items():
        rate = arguments.pictures / seconds
        ratio = f"{seconds / fastest['check']:8.3f} x the time of a check"
        print(f"  {name:<24} {seconds:8.2f} s  {rate:9.0f} pictures/s  {ratio}")


def measure_files(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the seconds that a folder of many files takes before the first step of a resumed run."""
    root = make_folder(folder / "files", arguments.files // 2, (40, 56), "png")
    cache = folder / "cache-files"
    timed_check(root, ROOT, cache)
    opened, checked = timed_check(root, ROOT, cache)
    print(f"\n{arguments.files} files ({arguments.files // 2} images), checked before:")
    print(f"  open {opened:.2f} s, check {checked:.2f} s, together {opened + checked:.2f} s")


def measure_feeding(folder: Path) -> None:
    """Print how many training crops a second the data-loading processes deliver."""
    dataset = create_dataset("folder", folder / "pictures", "train", transform=train_transform(321))
    count = min(len(dataset), 640) // 16 * 16
    print("\ntraining crops of 321 x 321, batches of 16:")
    for workers in sorted({0, 1, 2, cores()}):
        sampler = StepSampler(count, 16, 0)
        loader = make_loader(SeededView(dataset, 0), workers, batch_sampler=sampler)
        for _ in loader:  # the processes start, and stay
            pass
        started = time.perf_counter()
        delivered = sum(len(images) for images, _ in loader)
        print(f"  --workers {workers}: {delivered / (time.perf_counter() - started):6.0f} images/s")


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=10_000, help="pictures to check")
    parser.add_argument("--files", type=int, default=100_000, help="files of the folder that is opened")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions of each check")
    parser.add_argument("--before", help="commit whose check is measured in the same run")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure_checks(arguments, folder)
        measure_feeding(folder)
        measure_files(arguments, folder)


if __name__ == "__main__":
    main()
