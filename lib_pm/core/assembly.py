"""A layer made of rows of others: q, k and v as the one weight that they are elsewhere, or one of them out of it.

Exact, in factors: the up factor has the rows where they belong and zeros elsewhere, the down factors are stacked. With
a delta among them it is a delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from lib_pm.core.layers import AnyLayer, Dense, Layer, LayerShape
from lib_pm.core.rows import Rows


def assemble(parts: Sequence[tuple[AnyLayer, Sequence[Rows]]], out: int) -> AnyLayer:
    """Return the layer with `out` rows that these rows of layers make up; what none of them has is zero."""
    first = parts[0][0].shape
    shape = LayerShape(out, first.inner, first.kernel, first.vector)
    factors = [(layer, pieces) for layer, pieces in parts if isinstance(layer, Layer)]
    return Layer(shape, *_stacked(factors, out)) if len(factors) == len(parts) else Dense(shape, _filled(parts, shape))


def _filled(parts: Sequence[tuple[AnyLayer, Sequence[Rows]]], shape: LayerShape) -> Tensor:
    """Return the delta, in float32 or what is wider."""
    deltas = [(_wide(layer).delta(), pieces) for layer, pieces in parts]
    matrix = torch.zeros(
        shape.out, shape.columns, dtype=reduce(torch.promote_types, (delta.dtype for delta, _ in deltas))
    )
    for delta, pieces in deltas:
        for rows in pieces:
            matrix[rows.to : rows.to + rows.count] = delta[rows.first : rows.first + rows.count]
    return matrix


def _wide(layer: AnyLayer) -> AnyLayer:
    stored = layer.up if isinstance(layer, Layer) else layer.matrix
    return layer.to(stored.device, torch.promote_types(stored.dtype, torch.float32))


def _stacked(parts: Sequence[tuple[Layer, Sequence[Rows]]], out: int) -> tuple[Tensor, Tensor, float]:
    """Return the factors and their scale.

    The rank is the sum of theirs at most: parts with one down factor, as a weight has them that was cut up before,
    share it, and what only changes rows that are left out is left out too. So to cut up and to put together are each
    other's inverse. The scales are multiplied into the up factors, in float32, unless all are the same.
    """
    scales = {layer.scale for layer, _ in parts}
    dtype = reduce(torch.promote_types, (factor.dtype for layer, _ in parts for factor in (layer.up, layer.down)))
    if len(scales) > 1:
        dtype = torch.promote_types(dtype, torch.float32)
    downs: list[Layer] = []
    columns: list[slice] = []
    for layer, _ in parts:
        alike = next((number for number, other in enumerate(downs) if _share(layer, other)), len(downs))
        if alike == len(downs):
            downs.append(layer)
        start = sum(other.rank for other in downs[:alike])
        columns.append(slice(start, start + layer.rank))
    up = torch.zeros(out, sum(layer.rank for layer in downs), dtype=dtype)
    for (layer, pieces), where in zip(parts, columns, strict=True):
        for rows in pieces:
            block = layer.up[rows.first : rows.first + rows.count].to(dtype)
            up[rows.to : rows.to + rows.count, where] = block * layer.scale if len(scales) > 1 else block
    down = torch.cat([layer.down.to(dtype) for layer in downs])
    return *_without_zeros(up, down), 1.0 if len(scales) > 1 else parts[0][0].scale


def _share(one: Layer, other: Layer) -> bool:
    return one.scale == other.scale and one.down.dtype == other.down.dtype and torch.equal(one.down, other.down)


def _without_zeros(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors without rank components that change nothing, but one at least."""
    used = up.any(dim=0)
    if bool(used.all()):
        return up, down
    used[0] |= not bool(used.any())
    return up[:, used], down[used]
