"""Compile the sweeps for any GPU, without one, and read registers, spills and instructions from the result.

Registers, spills and shared memory come from the compiled object, instructions from its disassembly. No
device is needed; TRITON_INTERPRET must not be set.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from difnet_kernels.triton.tiles import Tile
from difnet_kernels.triton.walk_backward import walk_backward_kernel
from difnet_kernels.triton.walk_forward import walk_forward_kernel

KERNELS = {"walk_forward": walk_forward_kernel, "walk_backward": walk_backward_kernel}

# Bytes of shared memory that a program may use (CUDA C++ Programming Guide, compute capabilities; MI300 ISA).
SHARED_MEMORY = {
    "sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_89": 99 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024,
    "gfx942": 64 * 1024,
}  # fmt: skip

_MATRIX_INSTRUCTION = re.compile(r"^(HGMMA|HMMA|QGMMA|UTC\w*MMA|DMMA)|^v_s?mfma|^v_mfma")
_BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """One sweep compiled for one architecture."""

    architecture: str
    registers: int  # per thread
    spills: int  # bytes per thread; on AMD, registers
    shared: int  # bytes per program
    loop: tuple[str, ...]  # instructions of one pass of a warp through the loop over tiles

    @property
    def instructions(self) -> dict[str, int]:
        """Opcodes of the loop with their counts, most frequent first."""
        return dict(Counter(map(_opcode, self.loop)).most_common())

    def count(self, *prefixes: str) -> int:
        """Number of instructions in the loop whose opcode starts with one of the prefixes."""
        return sum(n for opcode, n in self.instructions.items() if opcode.startswith(prefixes))

    @property
    def matrix(self) -> int:
        """Number of matrix instructions in the loop."""
        return sum(n for opcode, n in self.instructions.items() if _MATRIX_INSTRUCTION.match(opcode))

    @property
    def exponentials(self) -> int:
        """Number of exponentials in the loop."""
        return self.count("MUFU.EX2", "v_exp_f32")

    @property
    def total(self) -> int:
        """Number of instructions in the loop."""
        return len(self.loop)


def target_of(architecture: str) -> GPUTarget:
    """Triton's target for an architecture."""
    if architecture.startswith("gfx"):
        return GPUTarget("hip", architecture, 64)
    return GPUTarget("cuda", int(architecture[3:]), 32)


def compile_sweep(
    kernel: str,
    dtype: torch.dtype,
    d: int,
    k: int,
    architecture: str,
    tile: Tile,
    *,
    split: bool = False,
    has_bias: bool = False,
    precision: str = "ieee",
) -> Compiled:
    """Compile a sweep as `launch` specialises it, for padded widths d and k and one chunk of each."""
    function = KERNELS[kernel]
    scaled = dtype in (torch.bfloat16, torch.float16)
    value_type = "*fp64" if dtype == torch.float64 else "*fp32"
    feature_type = {torch.bfloat16: "*bf16", torch.float16: "*fp16"}.get(dtype, value_type)
    constants: dict[str, Any] = {
        "D": d, "D_CHUNKS": 1, "CLASSES": k - 1, "K": k, "K_CHUNKS": 1, "HAS_PENALTY": has_bias or not scaled,
        "SCALED": scaled, "SPLIT": split, "PRECISION": precision, "BLOCK_I": tile.block_i,
        "BLOCK_J": tile.block_j, "WIDTH": d, "CHUNKS": 1, "CENTRED": not scaled, "NEED_FEATURE": True,
        "NEED_STATE": True, "NEED_BIAS": has_bias, "state_k": 1, "seed_k": 1, "grad_k": 1,
    }  # fmt: skip
    packed_type = "*fp16" if scaled else value_type
    types = {"G": feature_type, "grad_feature": feature_type, "Y": packed_type, "A": packed_type}
    pointers = {
        "penalty", "units", "state", "seed", "mu", "beta", "new_state", "z", "lse", "delta",
        "exponents_y", "exponents_a", "centre", "grad", "grad_state", "grad_bias",
        "part_acc", "part_row_max", "part_feature", "part_state", "part_bias", *types,
    }  # fmt: skip
    signature, attributes = {}, {}
    for position, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = types.get(name, value_type)
            if not function.params[position].do_not_specialize_on_alignment:
                attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    values = {(function.arg_names.index(n),): v for n, v in constants.items() if n in function.arg_names}
    source = ASTSource(function, signature, values, attributes)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    compiled = triton.compile(source, target=target_of(architecture), options=options)
    read = _read_amdgcn if architecture.startswith("gfx") else _read_cubin
    return read(compiled, architecture)


def _read_cubin(compiled: Any, architecture: str) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        listing = _run("nvdisasm", "-c", "-novliw", file.name)
    registers, stack, local = (
        int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")  # type: ignore[index]
    )  # fmt: skip
    lines = re.findall(r"^[ \t]*(\.L_\w+):|^[ \t]+/\*[0-9a-f]+\*/\s+(.*?);", listing, flags=re.MULTILINE)
    return Compiled(architecture, registers, stack + local, compiled.metadata.shared, _tile_loop(lines))


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run(
        [str(_BINARIES / tool), *arguments], capture_output=True, text=True, check=True
    ).stdout


def _read_amdgcn(compiled: Any, architecture: str) -> Compiled:
    text = compiled.asm["amdgcn"]
    registers, spills = (
        int(re.search(rf"\.vgpr_{name}:\s+(\d+)", text)[1]) for name in ("count", "spill_count")  # type: ignore[index]
    )  # fmt: skip
    lines = re.findall(r"^(\.LBB\w+):|^[ \t]+([a-z]\w+.*?)(?:;|//|$)", text, flags=re.MULTILINE)
    return Compiled(architecture, registers, spills, compiled.metadata.shared, _tile_loop(lines))


def _tile_loop(lines: list[tuple[str, str]]) -> tuple[str, ...]:
    """The instructions of the loop over tiles, from lines that are (label, "") or ("", instruction).

    It is the shortest loop with exponentials and, if the kernel has any, matrix instructions. Branches that
    wait for a copy also jump back to its start, but from below its end, so that they give longer loops.
    """
    labels: dict[str, int] = {}
    loops = []
    for n, (label, instruction) in enumerate(lines):
        if label:
            labels[label] = n
        elif re.search(r"\bBRA|s_c?branch", instruction):
            target = re.search(r"\.L\w+", instruction)
            if target and target[0] in labels:
                loops.append(tuple(i for _, i in lines[labels[target[0]] : n + 1] if i))
    has_matrix = any(_MATRIX_INSTRUCTION.match(_opcode(i)) for _, i in lines if i)

    def visits_tiles(body: tuple[str, ...]) -> bool:
        opcodes = [_opcode(i) for i in body]
        return any(o.startswith(("MUFU.EX2", "v_exp")) for o in opcodes) and (
            not has_matrix or any(_MATRIX_INSTRUCTION.match(o) for o in opcodes)
        )

    return min(filter(visits_tiles, loops), key=len, default=())


def _opcode(instruction: str) -> str:
    return re.sub(r"^@!?\w+\s+", "", instruction.strip()).split()[0]
