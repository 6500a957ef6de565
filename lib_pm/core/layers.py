"""One layer of one LoRA as two factors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerShape:
    """The shape of the weight that a layer changes: `kernel` is () for a linear layer, (kh, kw) for a convolution."""

    out: int
    inner: int
    kernel: tuple[int, ...] = ()

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
        differ only in that).
        """
        if self.is_spatial or other.is_spatial:
            return self == other
        return (self.out, self.inner) == (other.out, other.inner)

    def __str__(self) -> str:
        return "×".join(str(size) for size in (self.out, self.inner, *self.kernel))


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


def _norm(factor: Tensor) -> Tensor:
    factor = factor.float() if factor.dtype == torch.float64 else factor
    norm: Tensor = torch.linalg.vector_norm(factor, dtype=torch.float32)
    return norm


def all_finite(tensor: Tensor) -> bool:
    """Return whether there is no NaN and no infinity.

    The sum shows one in a single pass; only if it overflows is every entry looked at.
    """
    return math.isfinite(float(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())
