"""LoHa: the entrywise product of two products of factors. By LyCORIS and PEFT; with a core for convolutions.

(U₁D₁) ⊙ (U₂D₂) has exact factors: each row of `up` is the Kronecker product of the rows of U₁ and U₂, each column of
`down` that of the columns of D₁ and D₂. Their rank is r₁·r₂.
"""

from __future__ import annotations

import torch

from lib_pm.core.formats.kind import Kind, Measure, Misfit, Sizes, Tensors, measured, need
from lib_pm.core.formats.pair import Pair
from lib_pm.core.layers import AnyLayer, Dense, Layer, LayerShape

_FIRST, _SECOND = (Pair(f"w{half}_a", f"w{half}_b", f"t{half}") for half in (1, 2))


def _measure(sizes: Sizes) -> Measure:
    need(sizes, "w1_a", "w1_b", "w2_a", "w2_b")
    out, inner, kernel, rank = _FIRST.measure(sizes)
    *second, rank2 = _SECOND.measure(sizes)
    if second != [out, inner, kernel]:
        raise Misfit("its two halves are of different sizes")
    return measured(LayerShape(out, inner, kernel), rank * rank2, sizes["w1_b"][0])


def _make(tensors: Tensors, measure: Measure, scale: float) -> AnyLayer:
    (up, down), (up2, down2) = _FIRST.factors(tensors), _SECOND.factors(tensors)
    if measure.rank is None:
        return Dense(measure.shape, (up @ down).mul_(up2 @ down2).mul_(scale))
    rows, columns = torch.einsum("oi,oj->oij", up, up2), torch.einsum("ic,jc->ijc", down, down2)
    return Layer(measure.shape, rows.flatten(1), columns.flatten(0, 1), scale)


LOHA = Kind(
    "LoHa",
    {f".hada_{part}": part for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    _measure,
    _make,
    "w1_a and w2_a out×rank, w1_b and w2_b rank×in; beside t1 and t2 rank×rank×kernel, w1_a and w2_a rank×out",
)
