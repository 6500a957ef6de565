"""One layer of one LoRA: two factors, or where it has no low rank, the delta itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerShape:
    """The shape of the weight that a layer changes.

    kernel: () for a linear layer, (kh, kw) for a convolution. Some kinds of network hold a convolution as a matrix:
    then it is () too, and inner is in · kh · kw. vector: it is a bias or a norm's weight, of `out` numbers.
    """

    out: int
    inner: int
    kernel: tuple[int, ...] = ()
    vector: bool = False

    @classmethod
    def of(cls, sizes: Sequence[int]) -> LayerShape:
        """Return the shape of a tensor of these sizes."""
        return cls(sizes[0], 1, vector=True) if len(sizes) == 1 else cls(sizes[0], sizes[1], tuple(sizes[2:]))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the sizes of the tensor."""
        return (self.out,) if self.vector else (self.out, self.inner, *self.kernel)

    @property
    def columns(self) -> int:
        """Return the width of the weight seen as a matrix: in · kh · kw."""
        columns = self.inner
        for size in self.kernel:
            columns *= size
        return columns

    @property
    def is_spatial(self) -> bool:
        """Return whether it is a convolution larger than 1×1: what `svd_conv_rank` speaks of."""
        return any(size > 1 for size in self.kernel)

    @property
    def max_rank(self) -> int:
        return min(self.out, self.columns)

    def fits(self, other: LayerShape) -> bool:
        """Return whether it is the same weight; a 1×1 convolution and a linear layer count as the same (SD1 and SDXL
        differ only in that), and so do a convolution and its matrix.
        """
        if self.is_spatial and other.is_spatial:
            return self == other
        if not (self.kernel and other.kernel):
            return (self.out, self.columns, self.vector) == (other.out, other.columns, other.vector)
        return (self.out, self.inner) == (other.out, other.inner) and self.is_spatial == other.is_spatial

    def __str__(self) -> str:
        return "×".join(str(size) for size in self.sizes)


@dataclass(frozen=True)
class Layer:
    """delta = scale · up @ down, for a weight of `shape`.

    up: (out, rank). down: (rank, in·kh·kw). Any dtype; scale = alpha / rank.
    """

    shape: LayerShape
    up: Tensor
    down: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def nbytes(self) -> int:
        return self.up.nbytes + self.down.nbytes

    @property
    def most(self) -> float:
        """Return at least the norm of ΔW: scale · ‖up‖ · ‖down‖.

        inf or NaN where float32 cannot hold one of the three.
        """
        scale, up, down = (float(_norm(factor)) for factor in (torch.tensor(self.scale), self.up, self.down))
        return scale * up * down

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Layer:
        return Layer(self.shape, self.up.to(device, dtype), self.down.to(device, dtype), self.scale)

    def delta(self, out: Tensor | None = None) -> Tensor:
        """Return ΔW as a matrix: (out, in·kh·kw), dtype of the factors. out: where to put it."""
        return torch.mm(self.up * self.scale, self.down, out=out)


@dataclass(frozen=True)
class Dense:
    """A delta that is no product of smaller factors. matrix: (out, in·kh·kw), in any dtype; a vector is one column."""

    shape: LayerShape
    matrix: Tensor

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    @property
    def most(self) -> float:
        """Return the norm of ΔW; inf or NaN where float32 cannot hold it."""
        return float(_norm(self.matrix))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Dense:
        return Dense(self.shape, self.matrix.to(device, dtype))

    def delta(self, out: Tensor | None = None) -> Tensor:
        """Return ΔW as a matrix. out: where to put it."""
        return self.matrix if out is None else out.copy_(self.matrix)

    def factors(self) -> Layer:
        """Return it as a product with the identity."""
        one = torch.eye(self.shape.max_rank).to(self.matrix)
        up, down = (one, self.matrix) if self.shape.out == len(one) else (self.matrix, one)
        return Layer(self.shape, up, down)


AnyLayer: TypeAlias = Layer | Dense


def _norm(factor: Tensor) -> Tensor:
    factor = factor.float() if factor.dtype == torch.float64 else factor
    norm: Tensor = torch.linalg.vector_norm(factor, dtype=torch.float32)
    return norm


def all_finite(tensor: Tensor) -> bool:
    """Return whether there is no NaN and no infinity.

    The sum shows one in a single pass; only if it overflows is every entry looked at.
    """
    return math.isfinite(float(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())
