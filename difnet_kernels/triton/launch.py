"""The launches of one walk, under the contract of `difnet_kernels.ops`.

Every kernel is launched by keyword, in the order of its signature. No launch reads a number from the
device, so the calls can be captured in a CUDA graph. Allocations are O(B N (d + k)), times the number of
splits where a sweep is split.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from difnet_kernels.triton import tiles
from difnet_kernels.triton.layout import Layout, ceil_div, layout_of, multiprocessors, strided, unused
from difnet_kernels.triton.pack import centre_kernel, pack_backward_kernel, pack_forward_kernel
from difnet_kernels.triton.walk_backward import (
    combine_backward_kernel,
    seed_mu_beta_gradients_kernel,
    walk_backward_kernel,
)
from difnet_kernels.triton.walk_forward import combine_forward_kernel, walk_forward_kernel

PACK_WARPS = 8
COMBINE_BLOCK = 32


def on_device_of(argument: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes the device of argument number `argument` current during a call, so that kernels launch there."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def on_device(*arguments: Any) -> Any:
            with torch.cuda.device_of(arguments[argument]):
                return function(*arguments)

        return on_device

    return decorate


@on_device_of(0)
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
    layout = layout_of(feature, state.shape[-1], node_bias is not None, float32_precision)
    packed = _features_to_pack(feature, state, layout)
    Y = state.new_empty(layout.batch, layout.k_chunks, layout.size, layout.k, dtype=layout.packed_dtype)
    units = state.new_empty(layout.batch, layout.blocks) if layout.scaled else unused(state)
    pack_forward_kernel[(layout.batch * layout.blocks,)](
        **strided("feature", feature, "bnd"),
        **_strided_bias(node_bias, state),
        **strided("state", state, "bnk"),
        sums=packed.sums, weights=packed.weights,
        G=packed.G, penalty=packed.penalty, centre=packed.centre, Y=Y, units=units,
        nodes=layout.nodes, blocks=layout.blocks,
        WIDTH=layout.width, **layout.feature_chunks, **layout.state_chunks, **layout.packing,
        num_warps=PACK_WARPS,
    )  # fmt: skip

    new_state, z = state.new_empty(state.shape), state.new_empty(state.shape)
    lse = state.new_empty(state.shape[:2])
    sweep = _sweep(layout, "walk_forward", layout.k_chunks, feature.device)
    part_acc, part_row_max = z, lse  # placeholders, which a sweep that is not split does not write
    if sweep.splits > 1:
        part_acc = state.new_empty(*sweep.parts, layout.k)
        part_row_max = state.new_empty(*sweep.parts)
    walk_forward_kernel[sweep.grid](
        G=packed.G, Y=Y, penalty=packed.penalty, units=units,
        **strided("state", state, "bnk"),
        **strided("seed", seed, "bnk"),
        mu=mu, beta=beta, new_state=new_state, z=z, lse=lse, part_acc=part_acc, part_row_max=part_row_max,
        nodes=layout.nodes, blocks=layout.blocks, row_blocks=sweep.row_blocks, splits=sweep.splits,
        **layout.feature_chunks, **layout.state_chunks,
        HAS_PENALTY=layout.has_penalty, SCALED=layout.scaled, **sweep.options,
    )  # fmt: skip
    if sweep.splits > 1:
        combine_forward_kernel[sweep.combine_grid](
            **strided("state", state, "bnk"),
            **strided("seed", seed, "bnk"),
            mu=mu, beta=beta, new_state=new_state, z=z, lse=lse, part_acc=part_acc, part_row_max=part_row_max,
            nodes=layout.nodes, blocks=layout.blocks, splits=sweep.splits,
            **layout.state_chunks, BLOCK=COMBINE_BLOCK,
        )  # fmt: skip
    return new_state, z, lse


@on_device_of(0)
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
    need_feature, need_state, need_seed, need_mu, need_beta, need_bias = output_mask
    layout = layout_of(feature, state.shape[-1], node_bias is not None, float32_precision)
    # Results of an operator must not share memory, so every gradient that is not needed is an empty tensor of
    # its own.
    grad_feature, grad_state, grad_bias = unused(feature), unused(state), unused(state)
    grad_seed, grad_mu, grad_beta = unused(state), unused(state), unused(state)
    if need_feature or need_state or need_bias:
        grad_feature, grad_state, grad_bias = _pair_gradients(
            grad, feature, state, z, lse, mu, beta, node_bias, layout, need_feature, need_state, need_bias
        )
    if need_seed or need_mu or need_beta:
        of_seed = state.new_empty(state.shape)
        partial = state.new_empty(2, layout.batch * layout.blocks)
        seed_mu_beta_gradients_kernel[(layout.batch * layout.blocks,)](
            **strided("grad", grad, "bnk"),
            **strided("state", state, "bnk"),
            **strided("seed", seed, "bnk"),
            **strided("z", z, "bnk"),
            mu=mu, beta=beta, grad_seed=of_seed, partial=partial,
            nodes=layout.nodes, blocks=layout.blocks,
            **layout.state_chunks,
            num_warps=PACK_WARPS,
        )  # fmt: skip
        grad_seed = of_seed if need_seed else grad_seed
        grad_mu = partial[0].sum() if need_mu else grad_mu  # (6)
        grad_beta = partial[1].sum() if need_beta else grad_beta  # (7)
    return grad_feature, grad_state, grad_seed, grad_mu, grad_beta, grad_bias


def _pair_gradients(
    grad: Tensor,
    feature: Tensor,
    state: Tensor,
    z: Tensor,
    lse: Tensor,
    mu: Tensor,
    beta: Tensor,
    node_bias: Tensor | None,
    layout: Layout,
    need_feature: bool,
    need_state: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients that need every pair of nodes: of the features, the state and the node bias."""
    packed = _features_to_pack(feature, state, layout)
    Y = state.new_empty(layout.batch, layout.k_chunks, layout.size, layout.k, dtype=layout.packed_dtype)
    A = torch.empty_like(Y)
    delta, lse_padded = state.new_empty(layout.batch, layout.size), state.new_empty(layout.batch, layout.size)
    # Two tensors, not one of shape (2, ...): Triton specialises a kernel on the alignment of pointers, and
    # the alignment of the second half would depend on N.
    exponents_y, exponents_a = (state.new_empty(layout.batch, layout.blocks) for _ in range(2))
    pack_backward_kernel[(layout.batch * layout.blocks,)](
        **strided("feature", feature, "bnd"),
        **_strided_bias(node_bias, state),
        **strided("grad", grad, "bnk"),
        **strided("state", state, "bnk"),
        **strided("z", z, "bnk"),
        lse=lse.contiguous(), mu=mu, beta=beta,
        sums=packed.sums, weights=packed.weights,
        G=packed.G, penalty=packed.penalty, centre=packed.centre, Y=Y, A=A,
        delta=delta, lse_padded=lse_padded, exponents_y=exponents_y, exponents_a=exponents_a,
        nodes=layout.nodes, blocks=layout.blocks,
        WIDTH=layout.width, **layout.feature_chunks, **layout.state_chunks, **layout.packing,
        num_warps=PACK_WARPS,
    )  # fmt: skip

    grad_feature = feature.new_empty(feature.shape) if need_feature else unused(feature)
    grad_state = state.new_empty(state.shape) if need_state else unused(state)
    grad_bias = state.new_empty(state.shape[:2]) if need_bias else unused(state)
    chunks = max(layout.d_chunks, layout.k_chunks)
    sweep = _sweep(layout, "walk_backward", chunks, feature.device)
    part_feature, part_state, part_bias = unused(state), unused(state), unused(state)
    if sweep.splits > 1 and need_feature:
        part_feature = state.new_empty(*sweep.parts, layout.d)
    if sweep.splits > 1 and need_state:
        part_state = state.new_empty(*sweep.parts, layout.k)
    if sweep.splits > 1 and (need_feature or need_bias):
        part_bias = state.new_empty(*sweep.parts)
    needs = {"NEED_FEATURE": need_feature, "NEED_STATE": need_state, "NEED_BIAS": need_bias}
    walk_backward_kernel[sweep.grid](
        G=packed.G, Y=Y, A=A, penalty=packed.penalty, lse=lse_padded, delta=delta,
        exponents_y=exponents_y, exponents_a=exponents_a, centre=packed.centre,
        **strided("grad", grad, "bnk"),
        beta=beta, grad_feature=grad_feature, grad_state=grad_state, grad_bias=grad_bias,
        part_feature=part_feature, part_state=part_state, part_bias=part_bias,
        nodes=layout.nodes, blocks=layout.blocks, row_blocks=sweep.row_blocks, splits=sweep.splits,
        WIDTH=layout.width, **layout.feature_chunks, **layout.state_chunks, CHUNKS=chunks,
        HAS_PENALTY=layout.has_penalty, SCALED=layout.scaled, CENTRED=layout.centred,
        **needs, **sweep.options,
    )  # fmt: skip
    if sweep.splits > 1:
        combine_backward_kernel[sweep.combine_grid](
            centre=packed.centre,
            **strided("grad", grad, "bnk"),
            beta=beta, grad_feature=grad_feature, grad_state=grad_state, grad_bias=grad_bias,
            part_feature=part_feature, part_state=part_state, part_bias=part_bias,
            nodes=layout.nodes, blocks=layout.blocks, splits=sweep.splits,
            WIDTH=layout.width, **layout.feature_chunks, **layout.state_chunks, CHUNKS=chunks,
            CENTRED=layout.centred, **needs, BLOCK=COMBINE_BLOCK,
        )  # fmt: skip
    return grad_feature, grad_state, grad_bias


class _Packed(NamedTuple):
    """Packed features, which a packing kernel writes, and the sums from which it computes their centre."""

    G: Tensor
    penalty: Tensor
    centre: Tensor
    sums: Tensor
    weights: Tensor


def _features_to_pack(feature: Tensor, like: Tensor, layout: Layout) -> _Packed:
    """Allocates the packed features. If they are centred, launches the kernel that computes the sums."""
    none = unused(like)
    sums = like.new_empty(layout.batch, layout.blocks, layout.d_chunks * layout.d) if layout.centred else none
    weights = like.new_empty(layout.batch, layout.blocks) if layout.centred else none
    if layout.centred:
        centre_kernel[(layout.batch * layout.blocks,)](
            **strided("feature", feature, "bnd"),
            sums=sums, weights=weights,
            nodes=layout.nodes, blocks=layout.blocks,
            WIDTH=layout.width, **layout.feature_chunks,
            num_warps=PACK_WARPS,
        )  # fmt: skip
    return _Packed(
        G=feature.new_empty(layout.batch, layout.d_chunks, layout.size, layout.d),
        penalty=like.new_empty(layout.batch, layout.size) if layout.has_penalty else none,
        centre=like.new_empty(layout.batch, layout.d_chunks * layout.d) if layout.centred else none,
        sums=sums,
        weights=weights,
    )


def _strided_bias(node_bias: Tensor | None, like: Tensor) -> dict[str, Any]:
    """The node bias and its strides. If there is none, an empty tensor and strides that are not read."""
    if node_bias is None:
        return {"node_bias": unused(like), "node_bias_b": 0, "node_bias_n": 0}
    return strided("node_bias", node_bias, "bn")


class _Sweep(NamedTuple):
    """How the programs of one sweep share the work."""

    row_blocks: int
    splits: int
    grid: tuple[int]
    combine_grid: tuple[int]
    parts: tuple[int, ...]  # shape of the sums of a split sweep, without the axis of columns
    options: dict[str, Any]


def _sweep(layout: Layout, kernel: str, chunks: int, device: torch.device) -> _Sweep:
    tile = layout.tile(kernel)
    row_blocks = ceil_div(layout.nodes, tile.block_i)
    programs = layout.batch * row_blocks * chunks
    splits = _splits(programs, layout.size // tile.block_j, tile.resident, device)
    return _Sweep(
        row_blocks=row_blocks,
        splits=splits,
        grid=(programs * splits,),
        combine_grid=(layout.batch * chunks * layout.size // COMBINE_BLOCK,),
        parts=(layout.batch, chunks, splits, layout.size),
        options={
            "SPLIT": splits > 1,
            "PRECISION": layout.precision,
            "BLOCK_I": tile.block_i,
            "BLOCK_J": tile.block_j,
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
        },
    )


def _splits(programs: int, tile_count: int, resident: int, device: torch.device) -> int:
    """Programs among which the columns of a row block are divided."""
    return tiles.splits(programs, tile_count, resident * multiprocessors(device))
