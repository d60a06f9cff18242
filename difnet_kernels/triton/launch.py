"""The launches of one walk, under the contract of `difnet_kernels.ops`.

No launch reads a number from the device: the same calls can be captured in a CUDA graph. Launches go to the
tensors' device, whichever is current. What is allocated is
O(B N (d + k)), and a few copies of it where the sweep is split.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from difnet_kernels.triton import tiles
from difnet_kernels.triton.pack import centre_kernel, pack_backward_kernel, pack_forward_kernel
from difnet_kernels.triton.walk_backward import combine_backward_kernel, walk_backward_kernel
from difnet_kernels.triton.walk_forward import combine_forward_kernel, walk_forward_kernel

PACK = 128  # primitives.PACK
COMBINE_BLOCK = 32


class Layout(NamedTuple):
    """How the arrays of one walk are packed (pack.py), as the kernels' constexpr arguments want it."""

    batch: int
    nodes: int
    blocks: int
    width: int
    d: int
    d_chunks: int
    classes: int
    k: int
    k_chunks: int
    dtype: str  # class of tiles.py
    precision: str
    has_bias: bool

    @property
    def size(self) -> int:
        """Nodes with padding."""
        return self.blocks * PACK

    @property
    def scaled(self) -> bool:
        """Whether states are held in float16, beside powers of two."""
        return self.dtype == "16"

    @property
    def packing(self) -> dict[str, Any]:
        """Constexpr arguments of the packing kernels."""
        return {
            "WIDTH": self.width,
            "CLASSES": self.classes,
            "HAS_NODE_BIAS": self.has_bias,
            "CENTRED": not self.scaled,
            "SCALED": self.scaled,
            "TF32": self.precision == "tf32",
            **self.chunks,
        }

    @property
    def chunks(self) -> dict[str, int]:
        """Constexpr arguments that say how columns are cut."""
        return {"D": self.d, "D_CHUNKS": self.d_chunks, "K": self.k, "K_CHUNKS": self.k_chunks}


def layout_of(feature: Tensor, classes: int, has_node_bias: bool, float32_precision: str) -> Layout:
    """The layout for features (B, N, d) and k classes."""
    batch, nodes, width = feature.shape
    dtype, precision = arithmetic(feature, float32_precision)
    largest = tiles.WIDTHS[dtype][-1][0]
    d = min(max(16, _power_of_two(width)), largest)
    k = min(max(16, _power_of_two(classes + 1)), largest)
    return Layout(
        batch, nodes, _blocks(nodes, PACK), width, d, _blocks(width, d), classes, k, _blocks(classes, k - 1),
        dtype, precision, has_node_bias,
    )  # fmt: skip


def arithmetic(feature: Tensor, float32_precision: str) -> tuple[str, str]:
    """The dtype class of tiles.py and the input_precision of every matrix product."""
    if feature.dtype == torch.float64:
        return "fp64", "ieee"
    if feature.dtype != torch.float32:
        return "16", "ieee"
    wanted = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}[float32_precision]
    architecture = architecture_of(feature.device)
    if architecture.startswith("gfx") and (wanted == "tf32x3" or architecture != "gfx942"):
        wanted = "ieee"  # the only one there
    return {"ieee": "fp32"}.get(wanted, wanted), wanted


@cache
def architecture_of(device: torch.device) -> str:
    """A device's name in tiles.py."""
    if device.type == "cpu":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@cache
def multiprocessors(device: torch.device) -> int:
    """How many programs' homes a device has; read once."""
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def _splits(programs: int, tile_count: int, resident: int, device: torch.device) -> int:
    return tiles.splits(programs, tile_count, resident * multiprocessors(device))


def _blocks(length: int, step: int) -> int:
    return -(-length // step)


def _power_of_two(x: int) -> int:
    return 1 << (x - 1).bit_length()


def _operand_dtypes(feature: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Of packed features and of packed states."""
    return feature.dtype, torch.float16 if feature.dtype.itemsize == 2 else feature.dtype


class _Packed(NamedTuple):
    G: Tensor
    penalty: Tensor
    centre: Tensor
    sums: Tensor
    weights: Tensor


def _pack_features(feature: Tensor, like: Tensor, at: Layout) -> _Packed:
    """Room for the packed features, and the sums that give their centre."""
    centred = not at.scaled
    nothing = _nothing(like)
    sums = like.new_empty(at.batch, at.blocks, at.d_chunks * at.d) if centred else nothing
    weights = like.new_empty(at.batch, at.blocks) if centred else nothing
    if centred:
        centre_kernel[(at.batch * at.blocks,)](
            feature, sums, weights, at.nodes, at.blocks, *feature.stride(),
            WIDTH=at.width, D=at.d, D_CHUNKS=at.d_chunks, num_warps=8,
        )  # fmt: skip
    return _Packed(
        feature.new_empty(at.batch, at.d_chunks, at.size, at.d),
        like.new_empty(at.batch, at.size) if centred or at.has_bias else nothing,
        like.new_empty(at.batch, at.d_chunks * at.d) if centred else nothing,
        sums,
        weights,
    )


def walk_forward(
    feature: Tensor,
    state: Tensor,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    node_bias: Tensor | None,
    float32_precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(new_state, z, lse); the contract is in `difnet_kernels.ops`."""
    with torch.cuda.device_of(feature):
        return _walk_forward(feature, state, seed, mu, beta, node_bias, float32_precision)


def _walk_forward(
    feature: Tensor,
    state: Tensor,
    seed: Tensor,
    mu: Tensor,
    beta: Tensor,
    node_bias: Tensor | None,
    float32_precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    at = layout_of(feature, state.shape[-1], node_bias is not None, float32_precision)
    tile = tiles.choose("walk_forward", at.dtype, at.d, at.k, architecture_of(feature.device))
    packed = _pack_features(feature, state, at)
    Y = state.new_empty(at.batch, at.k_chunks, at.size, at.k, dtype=_operand_dtypes(feature)[1])
    units = state.new_empty(at.batch, at.blocks) if at.scaled else _nothing(state)
    bias, bias_strides = _bias(node_bias, state)
    pack_forward_kernel[(at.batch * at.blocks,)](
        feature, bias, packed.sums, packed.weights, state, packed.G, packed.penalty, packed.centre,
        Y, units, at.nodes, at.blocks, *feature.stride(), *bias_strides, *state.stride(),
        **at.packing, num_warps=8,
    )  # fmt: skip

    new_state, z = state.new_empty(state.shape), state.new_empty(state.shape)
    lse = state.new_empty(state.shape[:2])
    row_blocks = _blocks(at.nodes, tile.block_i)
    programs = at.batch * row_blocks * at.k_chunks
    splits = _splits(programs, at.size // tile.block_j, tile.resident, feature.device)
    part, part_top = z, lse
    if splits > 1:
        part = state.new_empty(at.batch, at.k_chunks, splits, at.size, at.k)
        part_top = state.new_empty(at.batch, at.k_chunks, splits, at.size)
    walk_forward_kernel[(programs * splits,)](
        packed.G, Y, packed.penalty, units, state, seed, mu, beta, new_state, z, lse, part, part_top,
        at.nodes, at.blocks, row_blocks, splits, *state.stride(), *seed.stride(),
        CLASSES=at.classes, **at.chunks, HAS_PENALTY=at.has_bias or not at.scaled, SCALED=at.scaled,
        SPLIT=splits > 1, PRECISION=at.precision, BLOCK_I=tile.block_i, BLOCK_J=tile.block_j,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if splits > 1:
        combine_forward_kernel[(at.batch * at.k_chunks * at.size // COMBINE_BLOCK,)](
            state, seed, mu, beta, new_state, z, lse, part, part_top,
            at.nodes, at.blocks, splits, *state.stride(), *seed.stride(),
            CLASSES=at.classes, K=at.k, K_CHUNKS=at.k_chunks, BLOCK=COMBINE_BLOCK,
        )  # fmt: skip
    return new_state, z, lse


def walk_backward(
    grad: Tensor,
    feature: Tensor,
    state: Tensor,
    seed: Tensor,
    z: Tensor,
    lse: Tensor,
    mu: Tensor,
    beta: Tensor,
    node_bias: Tensor | None,
    float32_precision: str,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    """The six gradients; the contract is in `difnet_kernels.ops`."""
    with torch.cuda.device_of(feature):
        return _walk_backward(
            grad, feature, state, seed, z, lse, mu, beta, node_bias, float32_precision, output_mask
        )


def _walk_backward(
    grad: Tensor,
    feature: Tensor,
    state: Tensor,
    seed: Tensor,
    z: Tensor,
    lse: Tensor,
    mu: Tensor,
    beta: Tensor,
    node_bias: Tensor | None,
    float32_precision: str,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    need_feature, need_state, need_seed, need_mu, need_beta, need_bias = output_mask
    at = layout_of(feature, state.shape[-1], node_bias is not None, float32_precision)
    tile = tiles.choose("walk_backward", at.dtype, at.d, at.k, architecture_of(feature.device))
    packed = _pack_features(feature, state, at)
    values = _operand_dtypes(feature)[1]
    Y = state.new_empty(at.batch, at.k_chunks, at.size, at.k, dtype=values)
    A = torch.empty_like(Y)
    delta, lse_padded = state.new_empty(at.batch, at.size), state.new_empty(at.batch, at.size)
    # Apart, since where the second half of one tensor starts depends on N, and what is compiled on where.
    exponents_y, exponents_a = (state.new_empty(at.batch, at.blocks) for _ in range(2))
    partial = state.new_empty(2, at.batch * at.blocks)
    grad_seed = state.new_empty(state.shape)
    bias, bias_strides = _bias(node_bias, state)
    pack_backward_kernel[(at.batch * at.blocks,)](
        feature, bias, packed.sums, packed.weights, grad, state, seed, z, lse.contiguous(), mu, beta,
        packed.G, packed.penalty, packed.centre, Y, A, delta, lse_padded, exponents_y, exponents_a, grad_seed,
        partial, at.nodes, at.blocks, *feature.stride(), *bias_strides,
        *grad.stride(), *state.stride(), *seed.stride(), *z.stride(),
        **at.packing, num_warps=8,
    )  # fmt: skip
    nothing = _nothing(state)
    grad_feature = feature.new_empty(feature.shape) if need_feature else _nothing(feature)
    grad_state = state.new_empty(state.shape) if need_state else nothing
    grad_bias = state.new_empty(state.shape[:2]) if need_bias else nothing
    if need_feature or need_state or need_bias:
        scores = need_feature or need_bias
        centred = not at.scaled
        needs = {
            "CHUNKS": max(at.d_chunks, at.k_chunks),
            "CENTRED": centred,
            "NEED_FEATURE": need_feature,
            "NEED_STATE": need_state,
            "NEED_BIAS": need_bias,
        }
        row_blocks = _blocks(at.nodes, tile.block_i)
        programs = at.batch * row_blocks * needs["CHUNKS"]
        splits = _splits(programs, at.size // tile.block_j, tile.resident, feature.device)
        parts = [nothing] * 3
        if splits > 1:
            shape = (at.batch, needs["CHUNKS"], splits, at.size)
            parts = [
                state.new_empty(*shape, at.d) if need_feature else nothing,
                state.new_empty(*shape, at.k) if need_state else nothing,
                state.new_empty(*shape) if scores else nothing,
            ]
        walk_backward_kernel[(programs * splits,)](
            packed.G, Y, A, packed.penalty, lse_padded, delta, exponents_y, exponents_a, packed.centre, grad,
            beta, grad_feature, grad_state, grad_bias, *parts,
            at.nodes, at.blocks, row_blocks, splits, *grad.stride(),
            WIDTH=at.width, CLASSES=at.classes, **at.chunks, **needs,
            HAS_PENALTY=at.has_bias or centred, SCALED=at.scaled, SPLIT=splits > 1,
            PRECISION=at.precision, BLOCK_I=tile.block_i, BLOCK_J=tile.block_j,
            num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
        if splits > 1:
            combine_backward_kernel[(at.batch * needs["CHUNKS"] * at.size // COMBINE_BLOCK,)](
                packed.centre, grad, beta, grad_feature, grad_state, grad_bias, *parts,
                at.nodes, at.blocks, splits, *grad.stride(),
                WIDTH=at.width, CLASSES=at.classes, **at.chunks, **needs, BLOCK=COMBINE_BLOCK,
            )  # fmt: skip
    # Results of an operator must not share memory: no tensor twice, and no two parts of one.
    return (
        grad_feature,
        grad_state if need_state else _nothing(state),
        grad_seed if need_seed else _nothing(state),
        partial[0].sum() if need_mu else _nothing(state),
        partial[1].sum() if need_beta else _nothing(state),
        grad_bias if need_bias else _nothing(state),
    )


def _nothing(like: Tensor) -> Tensor:
    """An empty tensor for an argument that a kernel does not read. Unlike a caller's tensor it is aligned."""
    return like.new_empty(0)


def _bias(node_bias: Tensor | None, like: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The node bias and its strides."""
    return (_nothing(like), (0, 0)) if node_bias is None else (node_bias, node_bias.stride())
