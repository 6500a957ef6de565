"""IA3: the rows or the columns of the base weight are multiplied by 1 + w. By LyCORIS."""

from __future__ import annotations

import math

from lib_pm.core.formats.base import WEIGHT
from lib_pm.core.formats.kind import Kind, Measure, Misfit, Sizes, Tensors, need
from lib_pm.core.layers import AnyLayer, Dense, LayerShape
from lib_pm.core.ranks import FULL_RANK

# The factors' tensor is called as any other; that one of this name is beside it tells what it is.
BESIDE, FACTORS = ".on_input", ".weight"


def _measure(sizes: Sizes) -> Measure:
    need(sizes, "factors", "on_input")
    weight = sizes[WEIGHT]
    if len(weight) < 2 or math.prod(sizes["on_input"]) != 1 or math.prod(sizes["factors"]) not in weight[:2]:
        raise Misfit(f"the base weight is {LayerShape.of(weight) if weight else 'a number'}")
    return Measure(LayerShape.of(weight), FULL_RANK, None)


def _make(tensors: Tensors, measure: Measure, scale: float) -> AnyLayer:
    shape, factors = measure.shape, tensors["factors"].float().flatten()
    weight = tensors[WEIGHT].reshape(shape.out, shape.inner, -1).float()
    on_input = bool(tensors["on_input"].reshape(()))
    if len(factors) != (shape.inner if on_input else shape.out):
        raise Misfit
    return Dense(shape, (weight * factors.view(1, -1, 1) if on_input else weight * factors.view(-1, 1, 1)).flatten(1))


IA3 = Kind(
    "IA3",
    {BESIDE: "on_input"},
    _measure,
    _make,
    "weight with one number for each row, or where on_input is 1 for each column, of the base weight",
    needs_weight=True,
)
