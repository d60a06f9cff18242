"""`make gpu`: everything that needs a GPU, one stage after the other, each reported even if others failed.

    python tools/gpu_checks.py                     # tests, benchmark, sanitizer, tuning: under eight minutes
    python tools/gpu_checks.py --rehearse          # the same, small, in Triton's interpreter on the CPU

Needs torch, triton, numpy and pytest; compute-sanitizer is used where the CUDA toolkit has it. Logs of the
stages and the benchmark's rows go to --out, which git ignores by default. Rows that the documents may show,
those of a whole benchmark of a commit on a GPU, are copied to benchmarks/results/rw-gpu.jsonl, where `make
tables` finds them. A stage is stopped at its limit; the last, tuning, has what is left of eight minutes, and
changes the tile table after all else is done with it.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from harness.rows import DIRTY, RESULTS, ROOT, RUNS, load

LIMIT = 480  # seconds, all stages
RESERVE = 10  # of these, to stop a stage and to print


class Stage(NamedTuple):
    """A command with the most seconds it may take, and the processes that share its tests."""

    name: str
    seconds: int
    command: list[str]
    environment: dict[str, str]
    shards: int = 1


def rows_of(rehearse: bool, out: Path) -> Path:
    """Where the benchmark's rows go."""
    return out / ("rehearsal.jsonl" if rehearse else "walks.jsonl")


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
    rows = rows_of(rehearse, out)
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
    ]
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    prefix: list[str] | None = [] if rehearse else [sanitizer] if sanitizer else None
    for tool in ("memcheck", "racecheck"):
        if prefix is not None:
            command = [*prefix, "--tool", tool, "--error-exitcode", "9"] if prefix else []
            listing.append(Stage(tool, 50, [*command, python, "tests/gpu/sanitize.py"], no_caching))
    listing.append(Stage("tuning", 70, [python, "tools/tune_tiles.py", *nodes], {}))
    assert sum(stage.seconds for stage in listing) <= LIMIT - RESERVE
    return listing


def bounded(tuning: Stage, spent: float) -> Stage:
    """The last stage with all seconds that are left; it begins nothing new in the last quarter of them."""
    seconds = max(1, int(LIMIT - RESERVE - spent))
    return tuning._replace(
        seconds=seconds, command=[*tuning.command, "--minutes", f"{0.75 * seconds / 60:.2f}"]
    )


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
                stderr=subprocess.STDOUT, start_new_session=True,
            ))  # fmt: skip
    results = []
    try:
        for process in processes:
            try:
                code = process.wait(max(0.1, end - time.monotonic()))
                results.append("passed" if code == 0 else f"failed with status {code}")
            except subprocess.TimeoutExpired:
                results.append(f"stopped after {stage.seconds} s")
    finally:
        for process in processes:
            if process.poll() is None:
                # With its children: the program that compute-sanitizer started would keep the GPU.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    log.write_text("".join(part.read_text(encoding="utf-8", errors="replace") for part in parts))
    for part in parts:
        part.unlink()
    return next((result for result in results if result != "passed"), "passed")


def unfit(rows: list[dict[str, Any]], result: str) -> str | None:
    """Why the documents may not show rows of a benchmark that ended so, or None if they may."""
    if result != "passed":
        return f"the benchmark {result}"  # a table may lack its rivals
    if not any(row["status"] == "ok" for row in rows):
        return "nothing was measured"
    if any(row["device"] != "cuda" for row in rows):
        return "not measured on a GPU"
    if any(row["commit"] == "unknown" or row["commit"].endswith(DIRTY) for row in rows):
        return "the tree is no commit's"
    return None


def publish(rows: Path, result: str, results: Path = RESULTS) -> str:
    """Copy the benchmark's rows to where the documents are made from, if they may be shown; what was done."""
    reason = unfit(load([rows]), result)
    if reason:
        return f"rows stay in {rows}: {reason}"
    shown = results / "rw-gpu.jsonl"
    shutil.copyfile(rows, shown)
    return f"rows: {shown}; `make tables` shows them"


def main() -> int:
    """Run the stages; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path, default=RUNS / "gpu")
    parser.add_argument("--only", nargs="+", default=None, help="stages to run")
    options = parser.parse_args()
    out = options.out.resolve()
    if out == RESULTS.resolve():
        parser.error(f"--out: the documents are made from all rows in {out}; give another folder")
    out.mkdir(parents=True, exist_ok=True)

    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
        ),
    }
    if options.rehearse:
        environment |= {"TRITON_INTERPRET": "1", "DIFNET_REHEARSE": "1", "CUDA_VISIBLE_DEVICES": ""}
    results = []
    begin = time.monotonic()
    for stage in stages(options.rehearse, out):
        if options.only and stage.name not in options.only:
            continue
        log = out / f"{stage.name}.log"
        start = time.monotonic()
        if stage.name == "tuning":
            stage = bounded(stage, start - begin)
        result = run(stage, environment, log)
        results.append((stage.name, result))
        print(f"== {stage.name}: {result}, {time.monotonic() - start:.0f} s, {log}", flush=True)
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]), flush=True)
        if stage.name == "benchmark" and (rows := rows_of(options.rehearse, out)).exists():
            print(publish(rows, result), flush=True)
    print("\n" + "\n".join(f"{name:12}{result}" for name, result in results))
    names = {name for name, _ in results}
    if not options.only and "memcheck" not in names:
        print("memcheck    not run: compute-sanitizer was not found")
    return int(any(result != "passed" for _, result in results))


if __name__ == "__main__":
    sys.exit(main())
