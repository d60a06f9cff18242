"""The sweeps compiled without a GPU, at the widths of the network; `make aot` compiles all others."""

import importlib.util
import os
import re
from typing import NamedTuple

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter does not compile", allow_module_level=True)

import ahead_of_time
import triton
from ahead_of_time import SHARED_MEMORY, compile_sweep
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from difnet_kernels import testing
from difnet_kernels.triton import launch, tiles

KERNELS = ("walk_forward", "walk_backward")
SM_90 = GPUTarget("cuda", 90, 32)


def compiled(kernel, architecture, dtype=torch.bfloat16, **options):
    tile = tiles.choose(kernel, "16", 64, 32, architecture)
    return compile_sweep(kernel, dtype, 64, 32, architecture, tile, **options), tile


@pytest.mark.parametrize("architecture", tiles.ARCHITECTURES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_fits_and_does_not_spill(kernel, architecture):
    result, _ = compiled(kernel, architecture)
    assert result.registers > 0
    assert result.spills == 0
    assert 0 < result.shared <= SHARED_MEMORY[architecture]
    assert result.matrix > 0
    assert result.exponentials > 0


@pytest.mark.parametrize("options", [{"split": True}, {"has_bias": True}, {"dtype": torch.float16}], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_variants_do_not_spill(kernel, options):
    result, _ = compiled(kernel, "sm_90", **options)
    assert result.spills == 0
    assert result.shared <= SHARED_MEMORY["sm_90"]


def test_largest_variant_spills_at_most_eight_bytes():
    result, _ = compiled("walk_backward", "sm_90", split=True, has_bias=True)
    assert result.spills <= 8  # bytes a thread


@pytest.mark.parametrize("kernel", KERNELS)
def test_sm_90_multiplies_with_wgmma_alone(kernel):
    result, tile = compiled(kernel, "sm_90")
    opcodes = [opcode for opcode in result.instructions if "MMA" in opcode]
    assert opcodes
    assert all(opcode.startswith("HGMMA") for opcode in opcodes), opcodes
    multiply_adds = sum(
        n * m * w * k
        for opcode, n in result.instructions.items()
        if opcode.startswith("HGMMA")
        for m, w, k in [map(int, opcode.split(".")[1].split("x"))]
    ) * (tile.num_warps // 4)  # fmt: skip
    width = 64 + 32 if kernel == "walk_forward" else 2 * 64 + 3 * 32
    assert multiply_adds == tile.block_i * tile.block_j * width


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_are_rounded_before_penalties(kernel, dtype, monkeypatch):
    """A penalty as the initial accumulator would round scores differently forward and backward."""
    monkeypatch.setattr(ahead_of_time, "_read_cubin", lambda compiled, _: compiled.asm["ttgir"])
    tile = tiles.choose(kernel, "16", 64, 32, "sm_90")
    text = compile_sweep(kernel, dtype, 64, 32, "sm_90", tile, has_bias=True, precision="tf32")
    accumulators = re.findall(r"%s\w* = ttng\.warp_group_dot [^,]+, [^,]+, (%\w+)", text)
    assert accumulators
    assert all(name.startswith("%cst") for name in accumulators), accumulators


@pytest.mark.parametrize(
    ("kernel", "exponentials", "instructions"), [("walk_forward", 1, 9), ("walk_backward", 2, 17.5)]
)
def test_instructions_per_pair(kernel, exponentials, instructions):
    """One exponential a pair forward and two backward; the matrix products hide all other instructions."""
    result, tile = compiled(kernel, "sm_90")
    per_pair = 32 * tile.num_warps / (tile.block_i * tile.block_j)
    assert exponentials <= result.exponentials * per_pair <= 1.07 * exponentials
    assert result.total * per_pair <= instructions


class Launch(NamedTuple):
    """What one launch asks Triton for on sm_90."""

    kernel: JITFunction
    arguments: dict[str, object]
    specialisation: list[tuple[str, object]]  # type and alignment of every argument
    options: dict[str, object]


@pytest.fixture
def launches(monkeypatch):
    """The launches of the walks that a test runs. Nothing is compiled or run, so results are not set."""
    backend = make_backend(SM_90)
    recorded = []

    def recorder(kernel):
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)

        def call(*arguments, **options):
            recorded.append(Launch(kernel, *bind(*arguments, **options)))

        return {"__getitem__": lambda self, grid: call}

    for name in [name for name in vars(launch) if name.endswith("_kernel")]:
        monkeypatch.setattr(launch, name, type("Recorder", (), recorder(getattr(launch, name)))())
    return recorded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_launch_compiles(launches, monkeypatch, dtype):
    """All kernels, of split sweeps with a node bias, with the types that launches give them."""
    monkeypatch.setattr(launch, "_splits", lambda *_: 3)
    monkeypatch.setattr(tiles, "choose", lambda *_: tiles.Tile(16, 16, 4, 1, 1))
    value_dtype = torch.promote_types(dtype, torch.float32)
    inputs = testing.make_inputs(2, 130, 20, 5, 1, "flat", node_bias=True).to(dtype, value_dtype)
    (feature,), seed, mu, beta, state, (node_bias,) = inputs
    rest = mu[0], beta[0], node_bias, "highest"
    _, *saved = launch.walk_forward(feature, state, seed, *rest)
    launch.walk_backward(seed, feature, state, seed, *saved, *rest, [True] * 6)
    assert len({x.kernel for x in launches}) == (8 if dtype.itemsize > 2 else 7)
    for kernel, arguments, specialisation, options in launches:
        signature = {name: kind for name, (kind, _) in zip(kernel.arg_names, specialisation, strict=True)}
        constants = {
            (n,): arguments[name] for n, name in enumerate(signature) if signature[name] == "constexpr"
        }
        options = {name: value for name, value in options.items() if name not in signature}
        triton.compile(ASTSource(kernel, signature, constants), target=SM_90, options=options)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels first": lambda x: x.mT.contiguous().mT,
    "a slice": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("node_bias", [True, False])
@pytest.mark.parametrize("wanted", [[True] * 6, [False, True] + [False] * 4])
def test_one_compilation_for_all_sizes(launches, monkeypatch, layout, dtype, splits, node_bias, wanted):
    """N, B and the alignment of tensors are no part of a specialisation, not even 1 or a multiple of 16."""
    monkeypatch.setattr(launch, "_splits", lambda *_: splits)
    wanted = [*wanted[:5], wanted[5] and node_bias]

    def lay(x, offset):
        x = LAYOUTS[layout](x)
        base = x.new_empty(offset + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1)
        assert base.data_ptr() % 16 == 0
        return base[offset:].as_strided(x.shape, x.stride(), offset).copy_(x)

    sizes = ((1, 130), (1, 144), (2, 257), (16, 33), (3, 128), (1, 4096))
    for offset, (batch, nodes) in ((offset, size) for size in sizes for offset in (0, 1)):
        inputs = testing.make_inputs(batch, nodes, 20, 5, 2, "flat", node_bias=node_bias)
        inputs = inputs.to(dtype, torch.float32)
        feature, state, seed = (lay(x, offset) for x in (inputs.features[0], inputs.state, inputs.seed))
        bias = lay(inputs.node_bias[0], offset) if node_bias else None
        rest = inputs.mu[offset], inputs.beta[offset], bias, "highest"
        assert bool(state.data_ptr() % 16) == bool(offset)
        _, *saved = launch.walk_forward(feature, state, seed, *rest)
        launch.walk_backward(seed, feature, state, seed, *saved, *rest, wanted)
    keys = {(x.kernel.fn.__name__, str(x.specialisation)) for x in launches}
    kernels = {name for name, _ in keys}
    assert len(kernels) == 4 + (dtype == torch.float32) + 2 * (splits > 1) + any(wanted[2:5])
    assert len(keys) == len(kernels)


@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_for_the_alignment_that_launches_promise(kernel, monkeypatch):
    """Tensors that launches allocate are aligned; those of a caller need not be."""
    aligned = set()

    def source(function, signature, values, attributes):
        aligned.update(function.arg_names[position] for (position,) in attributes)
        raise NotImplementedError

    monkeypatch.setattr(ahead_of_time, "ASTSource", source)
    with pytest.raises(NotImplementedError):
        compiled(kernel, "sm_90")
    assert {"G", "Y", "lse"} <= aligned
    assert not {"state", "seed", "grad", "mu", "beta"} & aligned


def test_every_architecture_has_every_entry():
    for architecture in tiles.ARCHITECTURES:
        keys = set(tiles.entries(architecture))
        assert keys == {
            (kernel, dtype, *width, architecture)
            for kernel in KERNELS
            for dtype, widths in tiles.WIDTHS.items()
            for width in widths
            if not (architecture.startswith("gfx") and dtype == "tf32x3")  # Triton has none there
        }


def test_widths_between_rows_take_the_next_larger_row():
    assert tiles.key("walk_forward", "16", 16, 64, "sm_90") == ("walk_forward", "16", 64, 64, "sm_90")


def test_unknown_architecture_takes_the_rows_of_another_one():
    assert tiles.key("walk_forward", "16", 128, 16, "sm_75") == ("walk_forward", "16", 128, 128, "sm_86")


def test_aliased_architecture_takes_its_own_row_first(monkeypatch):
    width = "walk_forward", "16", 64, 32
    assert tiles.choose(*width, "sm_89") == tiles.choose(*width, "sm_86")
    own = tiles.Tile(16, 16, 4, 1, 1)
    monkeypatch.setitem(tiles._TABLE, (*width, "sm_89"), own)
    assert tiles.choose(*width, "sm_89") == own
    assert tiles.choose(*width, "sm_86") != own
    assert tiles.entries("sm_89")[(*width, "sm_89")] == own


def test_tiles_divide_the_packed_blocks():
    for architecture in (*tiles.ARCHITECTURES, "interpreter"):
        for kernel, dtype, d, k, _ in tiles.entries(architecture):
            tile = tiles.choose(kernel, dtype, d, k, architecture)
            assert 128 % tile.block_i == 0
            assert 128 % tile.block_j == 0
