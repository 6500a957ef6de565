"""Low-rank linear algebra: sums of factors, and the best rank-k approximation of a sum or of a dense delta.

A product of factors is never multiplied out where that can be avoided. With U = Qu·Ru and Dᵀ = Qd·Rd (K columns each),
the SVD of U·D is the SVD of the K×K core Ru·Rdᵀ, turned by Qu and Qd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lib_pm.core.layers import Layer
from lib_pm.core.rng import random_signs

# How a rank is chosen: a number, or a rule that sees all singular values (largest first).
RankRule = int | Callable[[Tensor], int]

# How much larger than the best rank-k error that of `truncate_dense` may be, relative to it, and what it computes in.
Precision = Literal["normal", "exact"]
EXCESS: dict[Precision, float] = {"normal": 1e-3, "exact": 1e-5}
_DTYPES: dict[Precision, torch.dtype] = {"normal": torch.float32, "exact": torch.float64}
# Its columns beyond the rank.
OVERSAMPLING = 16
# Below this size of the smaller side the exact decomposition costs no more than the range finder.
SMALL_SIDE = 256
# Cholesky of a Gram matrix loses twice the digits that the condition number takes. Up to this ratio of its diagonal the
# loss stays below 1e-7; beyond it (also: the same LoRA twice) the factors are orthogonalised by QR instead.
MAX_CONDITION = 1e4


@dataclass(frozen=True)
class Truncated:
    """A rank-k approximation: up (out, k), down (k, columns), singular values split evenly between them.

    kept, total: squared Frobenius norms of what stayed and of the whole; kept / total is the kept energy.
    """

    up: Tensor
    down: Tensor
    kept: float
    total: float


def concat(layers: Sequence[Layer], weights: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Σ wᵢ·ΔWᵢ as up (out, K) · diag(parts) · down (K, columns), K = Σ rᵢ, with the factors as they are stored.

    parts (K,), float64 on the CPU, holds weight · scale of each rank component.
    """
    up, down = torch.cat([layer.up for layer in layers], dim=1), torch.cat([layer.down for layer in layers])
    sizes = [weight * layer.scale for weight, layer in zip(weights, layers, strict=True) for _ in range(layer.rank)]
    return up, down, torch.tensor(sizes, dtype=torch.float64)


def balance(up: Tensor, down: Tensor, parts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """up · diag(parts) · down as two factors of similar size. up: (out, r). down: (r, columns). parts: (r,) or None.

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
    """Biased binary exponents of non-negative numbers, 0 for zero: the upper bits of a float32."""
    return sizes.float().view(torch.int32) >> 23


def _power_of_two(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponent, exact (`exp2` and `ldexp` need not be)."""
    return ((exponents + 127) << 23).view(torch.float32).to(dtype)


def truncate(up: Tensor, down: Tensor, rank: RankRule, parts: Tensor | None = None) -> Truncated:
    """Best rank-k approximation of up · diag(parts) · down, exact to rounding, in float64.

    up: (out, K). down: (K, columns). parts: (K,), or None for ones. Where K is not small against the matrix,
    multiplying out is cheaper and as exact.
    """
    up, down = wide(up), wide(down)
    parts = torch.ones_like(up[0]) if parts is None else parts.to(up)
    if up.shape[1] > min(up.shape[0], down.shape[1]) // 2:
        return _truncate_exact((up * parts) @ down, rank, most=up.shape[1])
    up_gram, down_gram = up.T @ up, down @ down.T
    # Components of very different size would make the Gram matrices ill-conditioned. The factors are evened out per
    # component, and everything that is per component only touches the small matrices.
    up_even, down_even = _evening(up_gram.diagonal(), down_gram.diagonal(), parts)
    up_core, down_core = _triangle(up, up_gram, up_even), _triangle(down.T, down_gram, down_even)
    left, values, right = torch.linalg.svd(up_core @ down_core.T)
    k = _rank(values, rank)
    # With core = Ru·Rdᵀ = P·S·Qᵀ, Qu·P·√S = U·Ru⁻¹·P·√S = U·Rdᵀ·Q/√S: neither Qu nor an inverse has to be formed.
    inverse_root = torch.where(values[:k] > values[0] * torch.finfo(values.dtype).eps, values[:k].rsqrt(), 0.0)
    up_turn = up_even.unsqueeze(1) * (down_core.T @ (right[:k].T * inverse_root))
    down_turn = ((left[:, :k] * inverse_root).T @ up_core) * down_even
    return _truncated(up @ up_turn, down_turn @ down, values, k)


def truncate_dense(delta: Tensor, rank: int, start: Tensor | None, precision: Precision = "normal") -> Truncated:
    """Rank-k approximation of a dense matrix, its error within EXCESS of the optimal one; exact without a start.

    delta: (out, columns). start: (columns, rank + OVERSAMPLING), spanning much of its row space, see `row_space`.
    Block Krylov iteration as in Musco, Musco, arXiv:1504.05477, until what further passes would find is negligible;
    what they find falls at least geometrically. If that takes more than half of all columns, the matrix is decomposed
    as a whole, which costs no more then.
    """
    if start is None:
        return _truncate_exact(wide(delta), rank, most=min(delta.shape))
    matrix = _where_decompositions_are(delta).to(_DTYPES[precision])
    total = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    basis = matrix.new_empty(len(matrix), 0)
    core = matrix.new_empty(matrix.shape[1], 0)  # matrixᵀ·basis
    block = matrix @ start.to(matrix)
    kept = gain = 0.0
    for passes in range(min(matrix.shape) // 2 // start.shape[1]):
        for _ in range(2 if passes else 1):  # once would lose digits where most of the block is in the basis
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis, core = torch.cat([basis, block], 1), torch.cat([core, matrix.T @ block], 1)
        wide_core = core.double()
        energies, turn = torch.linalg.eigh(wide_core.T @ wide_core)
        energies, turn = energies[-rank:].flip(0).clamp(min=0), turn[:, -rank:].flip(1)
        before, gain = gain, float(energies.sum()) - kept
        kept += gain
        falling = min(max(gain / before, 0.5), 0.9) if passes > 1 and before > 0 else 0.5
        coming = gain * falling / (1 - falling)
        if passes and coming <= max(EXCESS[precision] * (total - kept), 1e-12 * total):
            break
        block = matrix @ core[:, -block.shape[1] :]
    else:
        return _truncate_exact(wide(delta), rank, most=min(delta.shape))
    root = energies.sqrt().sqrt()  # of the singular values, whose squares the energies are
    inverse_root = torch.where(root > 0, 1 / root, 0.0)
    up, down = basis @ (turn * root).to(basis), (turn * inverse_root).to(core).T @ core.T
    return Truncated(up, down, kept, max(total, kept))


def energies(up: Tensor, down: Tensor, parts: Tensor | None = None) -> Tensor:
    """Squared singular values of up · diag(parts) · down, largest first, in float64: (min(K, out, columns),).

    up: (out, K). down: (K, columns). parts: (K,), or None for ones. The error of each is about 1e-15 of the largest:
    enough for shares of the squared norm, at a fraction of what `truncate` costs.
    """
    up, down = wide(up), wide(down)
    parts = torch.ones_like(up[0]) if parts is None else parts.to(up)
    up_gram, down_gram = up.T @ up, down @ down.T
    up_even, down_even = _evening(up_gram.diagonal(), down_gram.diagonal(), parts)
    core = _triangle(up, up_gram, up_even)
    values: Tensor = torch.linalg.eigvalsh(core @ (down_gram * torch.outer(down_even, down_even)) @ core.T)
    return values[-min(len(up), len(parts), down.shape[1]) :].flip(0).clamp(min=0)


def row_space(layers: Sequence[Layer], weights: Sequence[float], rank: int, content: bytes) -> Tensor | None:
    """A start for `truncate_dense`: what the rows of the deltas have most in common, and random columns for the rest.

    The leading right singular vectors of the weighted deltas on top of each other (not of their sum, in which LoRAs
    may cancel each other). Returns (columns, rank + OVERSAMPLING) float32, or None where an exact decomposition costs
    no more.
    content: seeds the random columns, so that equal input gives equal bytes.
    """
    shape = layers[0].shape
    if shape.max_rank <= SMALL_SIDE or rank + OVERSAMPLING > shape.max_rank // 4:  # two passes at least
        return None
    down = torch.cat([wide(layer.down) for layer in layers])
    columns = rank + OVERSAMPLING
    if len(down) > columns:
        # For a start the lengths of the up factors' columns say enough about them.
        lengths = [
            torch.linalg.vector_norm(wide(layer.up), dim=0) * abs(weight * layer.scale)
            for weight, layer in zip(weights, layers, strict=True)
        ]
        down = down * torch.cat(lengths).unsqueeze(1)
        _, turn = torch.linalg.eigh(down @ down.T)
        down = turn[:, -columns:].T @ down
    down = torch.nn.functional.normalize(down.float(), dim=1)
    random = random_signs(shape.columns, columns - len(down), content).to(down) / shape.columns**0.5
    return torch.cat([down.T, random], dim=1)


def _truncate_exact(matrix: Tensor, rank: RankRule, most: int) -> Truncated:
    """By the SVD of the matrix itself. most: the rank that it has at most; values beyond it are rounding."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values[:most]
    k = _rank(values, rank)
    root = values[:k].sqrt()
    return _truncated(left[:, :k] * root, right[:k] * root.unsqueeze(1), values, k)


def _truncated(up: Tensor, down: Tensor, values: Tensor, k: int) -> Truncated:
    energies = values.square()
    return Truncated(up, down, float(energies[:k].sum()), float(energies.sum()))


def _rank(values: Tensor, rule: RankRule) -> int:
    return max(1, min(rule if isinstance(rule, int) else rule(values), len(values)))


def _evening(up_squares: Tensor, down_squares: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Factors per component, for up and for down, whose product is `parts` and which make both equally long.

    up_squares, down_squares: (K,) squared lengths. A component that is zero on one side gets `parts` and 1.
    """
    ratio = (down_squares / up_squares) ** 0.25 * parts.abs().sqrt()
    up_even = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return up_even, parts / up_even


def _triangle(factor: Tensor, gram: Tensor, even: Tensor) -> Tensor:
    """R (K, K) of factor·diag(even) = Q·R. factor: (rows, K). gram: factorᵀ·factor, whose Cholesky factor is Rᵀ."""
    lower, failed = torch.linalg.cholesky_ex(gram * torch.outer(even, even))
    diagonal = lower.diagonal()
    if int(failed) == 0 and float(diagonal.max()) < MAX_CONDITION * float(diagonal.min()):
        triangle: Tensor = lower.T
    else:
        triangle = torch.linalg.qr(factor * even, mode="r").R
    return triangle


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float64: small cores cost little in it, and rounding is then no question."""
    tensor = _where_decompositions_are(tensor)
    return (tensor.float() if tensor.itemsize == 2 else tensor).double()  # from 16 bits it is faster in two steps


def _where_decompositions_are(tensor: Tensor) -> Tensor:
    """On the CPU if it was on Apple's GPU, which has no float64 and few decompositions."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor
