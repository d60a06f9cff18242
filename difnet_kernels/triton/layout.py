"""The layout of the packed arrays of one walk, which depends on widths, dtype and device."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from difnet_kernels.triton import primitives, tiles

PACK: int = primitives.PACK.value


class Layout(NamedTuple):
    """Sizes of the packed arrays of one walk (pack.py) and the arithmetic of its products."""

    batch: int
    nodes: int
    blocks: int  # of PACK nodes
    width: int  # of the features
    d: int  # columns of a chunk of packed features
    d_chunks: int
    classes: int
    k: int  # columns of a chunk of packed states, the last of which holds ones or padding
    k_chunks: int
    dtype: str  # dtype class of tiles.py
    precision: str  # input_precision of every matrix product
    architecture: str
    has_node_bias: bool

    @property
    def size(self) -> int:
        """Number of nodes with padding, NP in pack.py."""
        return self.blocks * PACK

    @property
    def scaled(self) -> bool:
        """Whether states are packed in float16, divided by a power of two per block of nodes."""
        return self.dtype == "16"

    @property
    def centred(self) -> bool:
        """Whether features are centred (math.md, section 3)."""
        return not self.scaled

    @property
    def has_penalty(self) -> bool:
        """Whether scores have a term that depends on the column."""
        return self.has_node_bias or self.centred

    @property
    def packed_dtype(self) -> torch.dtype:
        """Dtype of packed states."""
        return {"16": torch.float16, "fp64": torch.float64}.get(self.dtype, torch.float32)

    @property
    def feature_chunks(self) -> dict[str, int]:
        """Constexpr arguments of the kernels: how the columns of the features are divided into chunks."""
        return {"D": self.d, "D_CHUNKS": self.d_chunks}

    @property
    def state_chunks(self) -> dict[str, int]:
        """Constexpr arguments of the kernels: how the columns of the states are divided into chunks."""
        return {"CLASSES": self.classes, "K": self.k, "K_CHUNKS": self.k_chunks}

    @property
    def packing(self) -> dict[str, bool]:
        """Constexpr arguments of the packing kernels: what they do to features and states."""
        return {
            "HAS_NODE_BIAS": self.has_node_bias,
            "CENTRED": self.centred,
            "SCALED": self.scaled,
            "TF32": self.precision == "tf32",
        }

    def tile(self, kernel: str) -> tiles.Tile:
        """The tile of a sweep."""
        return tiles.choose(kernel, self.dtype, self.d, self.k, self.architecture)


def layout_of(feature: Tensor, classes: int, has_node_bias: bool, float32_precision: str) -> Layout:
    """The layout for features (B, N, d) and k classes."""
    batch, nodes, width = feature.shape
    dtype, precision = arithmetic(feature, float32_precision)
    widest = tiles.WIDTHS[dtype][-1][0]
    d = min(max(16, _power_of_two(width)), widest)
    k = min(max(16, _power_of_two(classes + 1)), widest)
    return Layout(
        batch=batch,
        nodes=nodes,
        blocks=ceil_div(nodes, PACK),
        width=width,
        d=d,
        d_chunks=ceil_div(width, d),
        classes=classes,
        k=k,
        k_chunks=ceil_div(classes, k - 1),
        dtype=dtype,
        precision=precision,
        architecture=architecture_of(feature.device),
        has_node_bias=has_node_bias,
    )


def arithmetic(feature: Tensor, float32_precision: str) -> tuple[str, str]:
    """The dtype class of tiles.py and the input_precision of every matrix product."""
    if feature.dtype == torch.float64:
        return "fp64", "ieee"
    if feature.dtype != torch.float32:
        return "16", "ieee"
    precision = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}[float32_precision]
    architecture = architecture_of(feature.device)
    if architecture.startswith("gfx") and (precision == "tf32x3" or architecture != "gfx942"):
        precision = "ieee"  # of AMD's GPUs, Triton has TF32 only on gfx942, and tf32x3 on none
    return {"ieee": "fp32"}.get(precision, precision), precision


@cache
def architecture_of(device: torch.device) -> str:
    """The name of a device's architecture in tiles.py."""
    if device.type == "cpu":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@cache
def multiprocessors(device: torch.device) -> int:
    """Number of multiprocessors (SMs or CUs) of a device."""
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def ceil_div(length: int, step: int) -> int:
    """length / step, rounded up."""
    return -(-length // step)


def _power_of_two(x: int) -> int:
    """The smallest power of two that is at least x."""
    return 1 << (x - 1).bit_length()


def strided(name: str, x: Tensor, axes: str) -> dict[str, Any]:
    """A tensor and its strides as arguments of a kernel: x, and x_b, x_n, ... for the letters of `axes`."""
    return {name: x, **{f"{name}_{axis}": stride for axis, stride in zip(axes, x.stride(), strict=True)}}


def unused(like: Tensor) -> Tensor:
    """An empty tensor for an argument that a kernel does not read.

    Unlike a caller's tensor it is always aligned, so it adds no compilation.
    """
    return like.new_empty(0)
