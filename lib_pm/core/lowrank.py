"""Low-rank linear algebra: sums of factors, and their best rank-k approximation.

A product of factors is never multiplied out where that can be avoided. With U = Qu·Ru and Dᵀ = Qd·Rd (K columns each),
the SVD of U·D is the SVD of the K×K core Ru·Rdᵀ, turned by Qu and Qd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_pm.core.layers import AnyLayer, Dense, Layer

# How a rank is chosen: a number, or a rule that sees all singular values (largest first).
RankRule = int | Callable[[Tensor], int]

# Cholesky of a Gram matrix loses twice the digits that the condition number takes. Up to this ratio of its diagonal the
# loss stays below 1e-7; beyond it (also: the same LoRA twice) the factors are orthogonalised by QR instead.
MAX_CONDITION = 1e4
# Below every length that float32 can have, and its square is still a float64.
SHORTEST = 1e-140


@dataclass(frozen=True)
class Truncated:
    """A rank-k approximation: up (out, k), down (k, columns), singular values split evenly between them.

    energies: (k,), the squared singular values, largest first. total: that of the whole matrix, its squared norm.
    """

    up: Tensor
    down: Tensor
    energies: Tensor
    total: float

    @property
    def kept(self) -> float:
        """Return the squared Frobenius norm of what stayed; kept / total is the kept energy."""
        return float(self.energies.sum())

    @property
    def nbytes(self) -> int:
        return self.up.nbytes + self.down.nbytes + self.energies.nbytes

    def first(self, rank: int) -> Truncated:
        """Return the approximation of a smaller rank, in the same memory."""
        return Truncated(self.up[:, :rank], self.down[:rank], self.energies[:rank], self.total)

    def times(self, factor: float) -> Truncated:
        """Return the approximation of the matrix times a positive factor."""
        if factor == 1:
            return self
        root, square = math.sqrt(factor), factor**2
        return Truncated(self.up * root, self.down * root, self.energies * square, self.total * square)


def concat(layers: Sequence[Layer], weights: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σ wᵢ·ΔWᵢ as up (out, K) · diag(parts) · down (K, columns), K = Σ rᵢ, with the factors as they are stored.

    parts (K,), float64 on the CPU, holds weight · scale of each rank component.
    """
    up, down = torch.cat([layer.up for layer in layers], dim=1), torch.cat([layer.down for layer in layers])
    sizes = [weight * layer.scale for weight, layer in zip(weights, layers, strict=True) for _ in range(layer.rank)]
    return up, down, torch.tensor(sizes, dtype=torch.float64)


def balance(up: Tensor, down: Tensor, parts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return up · diag(parts) · down as two factors of similar size. up: (out, r). down: (r, columns).

    parts: (r,) or None.

    A small alpha folded into `up` could otherwise fall below what fp16 can hold. A power of two per rank component is
    shifted between the factors, which rounds nothing.
    """
    parts = torch.ones_like(up[0]) if parts is None else parts.to(up)
    up_size = _exponents(_largest(up, 0) * parts.abs())
    down_size = _exponents(_largest(down, 1))
    most = min(100, int(math.log2(torch.finfo(up.dtype).max)) - 1)  # what the dtype itself can hold
    shift = torch.where((up_size > 0) & (down_size > 0), (down_size - up_size) // 2, 0).clamp(-most, most)
    return up * (parts * _power_of_two(shift, up.dtype)), down * _power_of_two(-shift, down.dtype).unsqueeze(1)


def _largest(tensor: Tensor, dim: int) -> Tensor:
    return torch.maximum(tensor.amax(dim), -tensor.amin(dim))  # `aminmax` along a dimension is ten times slower


def _exponents(sizes: Tensor) -> Tensor:
    """Return the biased binary exponents of non-negative numbers, 0 for zero: the upper bits of a float32."""
    return sizes.float().view(torch.int32) >> 23


def _power_of_two(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 2^exponent, exact (`exp2` and `ldexp` need not be)."""
    return ((exponents + 127) << 23).view(torch.float32).to(dtype)


def truncate(up: Tensor, down: Tensor, rank: RankRule, parts: Tensor | None = None) -> Truncated:
    """Return the best rank-k approximation of up · diag(parts) · down, exact to rounding, in float64.

    up: (out, K). down: (K, columns). parts: (K,), or None for ones.
    """
    factors = Factors.of(up, down)
    return factors.truncated(factors.turns(parts), rank)


@dataclass(frozen=True)
class Factors:
    """up (out, K) and down (K, columns) in float64, and what is the same for all parts that they can have.

    up_core, down_core: R (K, K) of the QR decompositions of `up` and `downᵀ`; None where K is not small against the
    matrix: multiplying out is cheaper then, and as exact.
    """

    up: Tensor
    down: Tensor
    up_core: Tensor | None = None
    down_core: Tensor | None = None

    @classmethod
    def of(cls, up: Tensor, down: Tensor) -> Factors:
        up, down = wide(up), wide(down)
        if up.shape[1] > min(up.shape[0], down.shape[1]) // 2:
            return cls(up, down)
        return cls(up, down, _triangle(up, up.T @ up), _triangle(down.T, down @ down.T))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.up, self.down, self.up_core, self.down_core) if tensor is not None)

    def turns(self, parts: Tensor | None = None) -> Truncated:
        """Return the best of up · diag(parts) · down, as what `up` and `down` have to be multiplied with: (K, m),
        (m, K).

        Without cores it is the approximation itself. parts: (K,), or None for ones.
        """
        parts = torch.ones_like(self.up[0]) if parts is None else parts.to(self.up)
        if self.up_core is None or self.down_core is None:
            return truncate_exact((self.up * parts) @ self.down, self.up.shape[1])
        left, values, right = torch.linalg.svd((self.up_core * parts) @ self.down_core.T)
        # With core = Ru·p·Rdᵀ = P·S·Qᵀ, Qu·P·√S = U·p·Rdᵀ·Q/√S: neither Qu nor an inverse has to be formed.
        inverse_root = torch.where(values > values[0] * torch.finfo(values.dtype).eps, values.rsqrt(), 0.0)
        up_turn = parts.unsqueeze(1) * (self.down_core.T @ (right.T * inverse_root))
        down_turn = ((left * inverse_root).T @ self.up_core) * parts
        return _truncated(up_turn, down_turn, values)

    def truncated(self, turns: Truncated, rank: RankRule) -> Truncated:
        """Return the approximation of that rank, by what `turns` gave."""
        cut = turns.first(_rank(turns.energies, rank))
        if self.up_core is None:
            return cut
        return Truncated(self.up @ cut.up, cut.down @ self.down, cut.energies, cut.total)


def energies(up: Tensor, down: Tensor, parts: Tensor | None = None) -> Tensor:
    """Return the squared singular values of up · diag(parts) · down, largest first, float64: (min(K, out, columns),).

    up: (out, K). down: (K, columns). parts: (K,), or None for ones. The error of each is about 1e-15 of the largest:
    enough for shares of the squared norm, at a fraction of what `truncate` costs.
    """
    up, down = wide(up), wide(down)
    parts = torch.ones_like(up[0]) if parts is None else parts.to(up)
    core = _triangle(up, up.T @ up) * parts
    values: Tensor = torch.linalg.eigvalsh(core @ (down @ down.T) @ core.T)
    return values[-min(len(up), len(parts), down.shape[1]) :].flip(0).clamp(min=0)


def truncate_exact(matrix: Tensor, most: int) -> Truncated:
    """Return the factors by the SVD of the matrix itself. most: its highest rank; values beyond it are rounding."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values[:most]
    root = values.sqrt()
    return _truncated(left[:, :most] * root, right[:most] * root.unsqueeze(1), values)


def _truncated(up: Tensor, down: Tensor, values: Tensor) -> Truncated:
    energies = values.square()
    return Truncated(up, down, energies, float(energies.sum()))


def _rank(energies: Tensor, rule: RankRule) -> int:
    return max(1, min(rule if isinstance(rule, int) else rule(energies.sqrt()), len(energies)))


def _triangle(factor: Tensor, gram: Tensor) -> Tensor:
    """Return R (K, K) of factor = Q·R. factor: (rows, K). gram: factorᵀ·factor, whose Cholesky factor is Rᵀ.

    Components of very different size would make it ill-conditioned, so that its columns are first brought to length 1.
    """
    lengths = gram.diagonal().sqrt().clamp(min=SHORTEST)
    lower, failed = torch.linalg.cholesky_ex(gram / torch.outer(lengths, lengths))
    least, most = torch.aminmax(lower.diagonal())
    if int(failed) == 0 and float(most) < MAX_CONDITION * float(least):
        triangle: Tensor = lower.T
    else:
        triangle = torch.linalg.qr(factor / lengths, mode="r").R
    return triangle * lengths


def narrow(layer: AnyLayer) -> Layer:
    """Return the same ΔW with no more rank components than its shape has singular values, in float64; itself if
    it has none.

    What a file holds of them is its own choice, and much is computed for each pair of them.
    """
    if isinstance(layer, Dense):
        return Dense(layer.shape, wide(layer.matrix)).factors()
    if layer.rank <= layer.shape.max_rank:
        return layer
    return replace(Dense(layer.shape, wide(layer.up) @ wide(layer.down)).factors(), scale=layer.scale)


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float64: small cores cost little in it, and rounding is then no question."""
    tensor = where_decompositions_are(tensor)
    return (tensor.float() if tensor.itemsize == 2 else tensor).double()  # from 16 bits it is faster in two steps


def where_decompositions_are(tensor: Tensor) -> Tensor:
    """Return the tensor, on the CPU if it was on Apple's GPU, which has no float64 and few decompositions."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor
