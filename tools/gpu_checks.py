"""`make gpu`: everything that needs a GPU, in stages. A stage runs even if others failed.

    python tools/gpu_checks.py               # info, tests, benchmark, sanitizer, tuning: under eight minutes
    python tools/gpu_checks.py --rehearse    # the stages with small inputs, in Triton's interpreter on a CPU

Needs torch, triton, numpy and pytest, and PYTHONPATH=benchmarks:. compute-sanitizer runs if the CUDA toolkit
has it. The logs of the stages and the rows of the benchmark go to --out, by default a folder that git
ignores. The rows are also copied to benchmarks/results/MACHINE/rw.jsonl if the benchmark was complete and ran
on a GPU, on a commit without changes. `make tables` makes the documents from them.

A stage is stopped at its time limit. The last stage, tuning, gets all the time that is left of eight minutes.
It is the last because it changes the table of tile sizes, which the other stages use.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from harness.rows import RESULTS, ROOT, RUNS, Row, load, machine_name

from difnet_kernels.info import CHANGED

TOTAL_SECONDS = 480
"""Time limit of all stages together."""
RESERVED_SECONDS = 10
"""Part of this time that is reserved for stopping a stage and printing."""


class Stage(NamedTuple):
    """A command and its limits.

    Attributes:
        name: also the name of its log.
        seconds: its time limit.
        command: what is run, from the root of the clone.
        environment: variables that are added to those that all stages share.
        shards: number of processes that share its tests.
    """

    name: str
    seconds: int
    command: list[str]
    environment: dict[str, str]
    shards: int = 1


def rows_path(rehearse: bool, out: Path) -> Path:
    """The file of the benchmark's rows."""
    return out / ("rehearsal.jsonl" if rehearse else "walks.jsonl")


def list_stages(rehearse: bool, out: Path) -> list[Stage]:
    """The stages in order."""
    python = sys.executable
    # These two rivals compile for every size. They would take longer than all other providers together.
    benchmark = ["--no-memory", "--without", "eager, compiled", "FlexAttention, compiled"]
    if rehearse:
        benchmark += ["--cases", "tiny", "--dtypes", "bfloat16", "--seconds", "0.1"]
        tuning = ["--batch", "1", "--nodes", "150", "--dtypes", "16", "--length", "2", "--dry-run"]
    else:
        benchmark += ["--cases", "paper-inference", "paper-training", "--dtypes", "float32", "bfloat16"]
        benchmark += ["--precisions", "highest", "--seconds", "1", "--minutes", "1.2"]
        tuning = []
    benchmark += ["--out", str(rows_path(rehearse, out))]
    no_caching = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # Most of the tests' time is compilation, which runs on one core in each process.
    shards = max(1, min(4, (os.cpu_count() or 1) // 2))
    tests = [python, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", "tests/gpu"]
    stages = [
        Stage("info", 20, [python, "-m", "difnet_kernels.info"], {}),
        Stage("tests", 180, tests, {}, shards),
        Stage("benchmark", 100, [python, "benchmarks/bench_rw.py", *benchmark], {}),
    ]
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        if rehearse or sanitizer:
            prefix = [] if rehearse else [str(sanitizer), "--tool", tool, "--error-exitcode", "9"]
            stages.append(Stage(tool, 50, [*prefix, python, "tests/gpu/sanitize.py"], no_caching))
    stages.append(Stage("tuning", 70, [python, "tools/tune_tiles.py", *tuning], {}))
    assert sum(stage.seconds for stage in stages) <= TOTAL_SECONDS - RESERVED_SECONDS
    return stages


def with_remaining_time(tuning: Stage, spent: float) -> Stage:
    """The tuning stage with all seconds that are left. It starts no candidate in the last quarter of them."""
    seconds = max(1, int(TOTAL_SECONDS - RESERVED_SECONDS - spent))
    minutes = f"{0.75 * seconds / 60:.2f}"
    return tuning._replace(seconds=seconds, command=[*tuning.command, "--minutes", minutes])


def run(stage: Stage, environment: dict[str, str], log: Path) -> str:
    """Run a stage and return how it ended. The log gets the output of its processes, one after the other."""
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
                # The whole process group, or a program that compute-sanitizer started would keep the GPU.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    log.write_text("".join(part.read_text(encoding="utf-8", errors="replace") for part in parts))
    for part in parts:
        part.unlink()
    return next((result for result in results if result != "passed"), "passed")


def reason_not_publishable(rows: list[Row], result: str) -> str | None:
    """Why rows must not be shown in the documents, or None. `result` is how the benchmark ended."""
    if result != "passed":
        return f"the benchmark {result}"  # rows of some providers may be missing
    if not any(row["status"] == "ok" for row in rows):
        return "nothing was measured"
    if any(row["device"] != "cuda" for row in rows):
        return "not measured on a GPU"
    if any(row["commit"] == "unknown" or row["commit"].endswith(CHANGED) for row in rows):
        return "not measured on a commit without changes"
    return None


def publish(path: Path, result: str, results: Path = RESULTS) -> str:
    """Copy the rows to the folder of their machine if they may be published; return what was done."""
    rows = load([path])
    if reason := reason_not_publishable(rows, result):
        return f"rows stay in {path}: {reason}"
    published = results / machine_name(gpu=rows[0]["hardware"]) / "rw.jsonl"
    published.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, published)
    return f"rows: {published}; `make tables` writes the documents from them"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rehearse", action="store_true", help="small inputs, in Triton's interpreter, without a GPU"
    )
    parser.add_argument("--out", type=Path, default=RUNS / "gpu", help="folder of logs and rows")
    parser.add_argument("--only", nargs="+", default=None, help="names of the stages to run")
    options = parser.parse_args()
    out = options.out.resolve()
    if RESULTS.resolve() in (out, out.parent) and out != RUNS.resolve():
        parser.error(f"--out: the documents are made from all rows in {RESULTS}; give another folder")
    out.mkdir(parents=True, exist_ok=True)

    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if options.rehearse:
        environment |= {"TRITON_INTERPRET": "1", "DIFNET_REHEARSE": "1", "CUDA_VISIBLE_DEVICES": ""}
    results = {}
    begin = time.monotonic()
    for stage in list_stages(options.rehearse, out):
        if options.only and stage.name not in options.only:
            continue
        log = out / f"{stage.name}.log"
        start = time.monotonic()
        if stage.name == "tuning":
            stage = with_remaining_time(stage, start - begin)
        result = results[stage.name] = run(stage, environment, log)
        print(f"== {stage.name}: {result}, {time.monotonic() - start:.0f} s, {log}", flush=True)
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]), flush=True)
        if stage.name == "benchmark" and (rows := rows_path(options.rehearse, out)).exists():
            print(publish(rows, result), flush=True)
    print("\n" + "\n".join(f"{name:12}{result}" for name, result in results.items()))
    if not options.only and "memcheck" not in results:
        print("memcheck, racecheck: not run, because compute-sanitizer was not found")
    return int(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
