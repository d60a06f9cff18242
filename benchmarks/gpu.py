"""`make gpu`: everything that needs a GPU, one stage after the other, each reported even if others failed.

    python benchmarks/gpu.py                     # tests, benchmark, tuning, sanitizer: under eight minutes
    python benchmarks/gpu.py --rehearse          # the same stages, small, in Triton's interpreter on the CPU

Needs torch, triton, numpy and pytest; compute-sanitizer is used where the CUDA toolkit has it. Logs of the
stages and the benchmark's rows go to --out, by default benchmarks/results. A stage is stopped at its limit;
the limits add up to less than eight minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


LIMIT = 480  # seconds, all stages


class Stage(NamedTuple):
    """A command with the most seconds it may take, and the processes that share its tests."""

    name: str
    seconds: int
    command: list[str]
    environment: dict[str, str]
    shards: int = 1


def stages(rehearse: bool, out: Path) -> list[Stage]:
    """What is run, in order."""
    python = sys.executable
    # Compiling a rival for every size takes longer than all the rest together.
    small = ["--no-memory", "--without", "eager, compiled", "FlexAttention, compiled"]
    small += (
        ["--cases", "tiny", "--dtypes", "bfloat16", "--seconds", "0.1"]
        if rehearse
        else [
            "--cases",
            "paper-inference",
            "paper-training",
            "--dtypes",
            "float32",
            "bfloat16",
            "--precisions",
            "highest",
            "--seconds",
            "1",
            "--minutes",
            "1.2",
        ]
    )
    rows = out / ("rehearsal.jsonl" if rehearse else "walks.jsonl")
    nodes = (
        ["--batch", "1", "--nodes", "150", "--dtypes", "16", "--length", "2", "--dry-run"] if rehearse else []
    )
    no_caching = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # Most of the tests' time is compiling, which one process does on one core.
    shards = max(1, min(4, (os.cpu_count() or 1) // 2))
    tests = [python, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", "tests/gpu"]
    listing = [
        Stage("info", 20, [python, "-m", "difnet_kernels.info"], {}),
        Stage("tests", 180, tests, {}, shards),
        Stage("benchmark", 100, [python, "benchmarks/bench_rw.py", *small, "--out", str(rows)], {}),
        Stage("tuning", 70, [python, "benchmarks/tune_tiles.py", *nodes], {}),
    ]
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    prefix: list[str] | None = [] if rehearse else [sanitizer] if sanitizer else None
    for tool in ("memcheck", "racecheck"):
        if prefix is not None:
            command = [*prefix, "--tool", tool, "--error-exitcode", "9"] if prefix else []
            listing.append(Stage(tool, 50, [*command, python, "tests/gpu/sanitize.py"], no_caching))
    assert sum(stage.seconds for stage in listing) < LIMIT
    return listing


def run(stage: Stage, environment: dict[str, str], log: Path) -> str:
    """How the stage ended; its processes' output goes to the log, one after the other."""
    end = time.monotonic() + stage.seconds
    parts = [log.with_suffix(f".{n}.part") for n in range(stage.shards)]
    processes = []
    for n, part in enumerate(parts):
        with part.open("w", encoding="utf-8") as file:
            shard = {"DIFNET_SHARD": f"{n}/{stage.shards}"}
            processes.append(subprocess.Popen(
                stage.command, cwd=ROOT, env={**environment, **stage.environment, **shard}, stdout=file,
                stderr=subprocess.STDOUT,
            ))  # fmt: skip
    results = []
    for process in processes:
        try:
            code = process.wait(max(0.1, end - time.monotonic()))
            results.append("passed" if code == 0 else f"failed with status {code}")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            results.append(f"stopped after {stage.seconds} s")
    log.write_text("".join(part.read_text(encoding="utf-8", errors="replace") for part in parts))
    for part in parts:
        part.unlink()
    return next((result for result in results if result != "passed"), "passed")


def main() -> int:
    """Run the stages; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--only", nargs="+", default=None, help="stages to run")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if options.rehearse:
        environment |= {"TRITON_INTERPRET": "1", "DIFNET_REHEARSE": "1", "CUDA_VISIBLE_DEVICES": ""}
    results = []
    for stage in stages(options.rehearse, out):
        if options.only and stage.name not in options.only:
            continue
        log = out / f"{stage.name}.log"
        start = time.monotonic()
        result = run(stage, environment, log)
        results.append((stage.name, result))
        print(f"== {stage.name}: {result}, {time.monotonic() - start:.0f} s, {log}", flush=True)
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]), flush=True)
    print("\n" + "\n".join(f"{name:12}{result}" for name, result in results))
    names = {name for name, _ in results}
    if not options.only and "memcheck" not in names:
        print("memcheck    not run: compute-sanitizer was not found")
    return int(any(result != "passed" for _, result in results))


if __name__ == "__main__":
    sys.exit(main())
