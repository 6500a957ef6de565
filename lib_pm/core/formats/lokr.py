"""LoKr: the Kronecker product of a small matrix and a large one, each of them whole or as factors. By LyCORIS and PEFT.

(U₁D₁) ⊗ (U₂D₂) = (U₁ ⊗ U₂)(D₁ ⊗ D₂), of rank r₁·r₂; a whole matrix is its own factor, beside an identity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_pm.core.formats.kind import Kind, Measure, Misfit, Sizes, Tensors, measured, wide
from lib_pm.core.formats.pair import Pair
from lib_pm.core.layers import AnyLayer, Dense, Layer, LayerShape

_PAIRS = {half: Pair(f"{half}_a", f"{half}_b", f"t{half[1:]}") for half in ("w1", "w2")}


def _measure(sizes: Sizes) -> Measure:
    (out, inner, kernel, rank), (out2, inner2, kernel2, rank2) = (_half(sizes, half) for half in _PAIRS)
    if math.prod(kernel) > 1:
        raise Misfit("w1 has a kernel")
    # As LyCORIS, A1111 and ComfyUI have it: the rank of the second matrix's factors, else of the first one's. Where
    # both are whole, alpha says nothing; some trainers leave an infinity there.
    dim = next((sizes[part][0] for part in ("w2_b", "w1_b") if part in sizes), None)
    return measured(LayerShape(out * out2, inner * inner2, kernel2), rank * rank2, dim)


def _half(sizes: Sizes, half: str) -> tuple[int, int, tuple[int, ...], int]:
    """Return (rows, inner, kernel, rank) of one of the two matrices."""
    if half not in sizes:
        return _PAIRS[half].measure(sizes)
    whole = sizes[half]
    if len(whole) < 2:
        raise Misfit(f"{half} is no matrix")
    return whole[0], whole[1], whole[2:], min(whole[0], math.prod(whole[1:]))


def _make(tensors: Tensors, measure: Measure, scale: float) -> AnyLayer:
    (up, down), (up2, down2) = (_factors(tensors, half) for half in _PAIRS)
    if measure.rank is None:
        return Dense(measure.shape, _kron(up @ down, up2 @ down2).mul_(scale))
    return Layer(measure.shape, _kron(up, up2), _kron(down, down2), scale)


def _factors(tensors: Tensors, half: str) -> tuple[Tensor, Tensor]:
    if half not in tensors:
        return _PAIRS[half].factors(tensors)
    whole = wide(tensors[half]).flatten(1)
    one = torch.eye(min(whole.shape), dtype=whole.dtype)
    return (one, whole) if len(whole) == len(one) else (whole, one)


def _kron(first: Tensor, second: Tensor) -> Tensor:
    """Return the Kronecker product; torch's own refuses some strides (2.13)."""
    product = torch.einsum("ab,cd->acbd", first, second)
    return product.reshape(len(first) * len(second), -1)


LOKR = Kind(
    "LoKr",
    {f".lokr_{part}": part for part in ("w1", "w1_a", "w1_b", "t1", "w2", "w2_a", "w2_b", "t2")},
    _measure,
    _make,
    "w1 and w2 whole, or as _a rows×rank and _b rank×columns; beside t2 rank×rank×kernel, w2_a rank×rows",
)
