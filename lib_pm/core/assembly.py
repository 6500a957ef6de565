"""A layer made of rows of others: q, k and v as the one weight that they are elsewhere, or one of them out of it.

Exact, in factors: the up factor has the rows where they belong and zeros elsewhere, the down factors are stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch

from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.rows import Rows


def assemble(parts: Sequence[tuple[Layer, Sequence[Rows]]], out: int) -> Layer:
    """Return the layer with `out` rows that these rows of layers make up; what none of them has is zero.

    Its rank is the sum of theirs. The scales are multiplied into the up factors, in float32, unless all are the same.
    """
    layers = [layer for layer, _ in parts]
    scales = {layer.scale for layer in layers}
    dtype = reduce(torch.promote_types, (factor.dtype for layer in layers for factor in (layer.up, layer.down)))
    if len(scales) > 1:
        dtype = torch.promote_types(dtype, torch.float32)
    shape = LayerShape(out, layers[0].shape.inner, layers[0].shape.kernel)
    up = torch.zeros(out, sum(layer.rank for layer in layers), dtype=dtype)
    column = 0
    for layer, pieces in parts:
        columns = slice(column, column + layer.rank)
        for rows in pieces:
            block = layer.up[rows.first : rows.first + rows.count].to(dtype)
            up[rows.to : rows.to + rows.count, columns] = block * layer.scale if len(scales) > 1 else block
        column += layer.rank
    down = torch.cat([layer.down.to(dtype) for layer in layers])
    return Layer(shape, up, down, 1.0 if len(scales) > 1 else layers[0].scale)
