"""GLoRA: a plain LoRA b₁·b₂ and another one behind the base weight, W·a₁·a₂; both together have exact factors.

By LyCORIS. Its first version has the factors the other way round. Behind a convolution there are no small factors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_pm.core.formats.base import WEIGHT
from lib_pm.core.formats.kind import Kind, Measure, Misfit, Sizes, Tensors, measured, need, wide
from lib_pm.core.formats.pair import with_core
from lib_pm.core.layers import AnyLayer, Dense, Layer, LayerShape
from lib_pm.core.ranks import FULL_RANK

_PARTS = ("a1", "a2", "b1", "b2")
_ORDERS = (_PARTS, ("a2", "a1", "b2", "b1"))


def _measure(sizes: Sizes) -> Measure:
    need(sizes, *_PARTS)
    weight = sizes[WEIGHT]
    if len(weight) < 2 or any(len(sizes[part]) < 2 for part in _PARTS):
        raise Misfit
    shape = LayerShape.of(weight)
    rank = max(_rank([sizes[part] for part in order], shape, sizes.get("bm")) for order in _ORDERS)
    if not rank:
        raise Misfit(f"the base weight is {shape}")
    return Measure(shape, FULL_RANK, rank) if shape.is_spatial else measured(shape, 2 * rank, rank)


def _rank(parts: list[tuple[int, ...]], shape: LayerShape, core: tuple[int, ...] | None) -> int:
    """Return the rank if the parts fit in this order, else 0."""
    a1, a2, b1, b2 = parts
    rank = a1[1]
    width = math.prod(b2[1:] if core is None else (b2[1], *core[2:]))
    fits = (a1[0], a2[:2]) == (shape.inner, (rank, shape.inner)) and (b1[:2], b2[0]) == ((shape.out, rank), rank)
    fits = fits and (core is None or core[:2] == (rank, rank))
    return rank if fits and width == shape.columns and all(size == 1 for size in (*a1[2:], *a2[2:], *b1[2:])) else 0


def _make(tensors: Tensors, measure: Measure, scale: float) -> AnyLayer:
    shape, core = measure.shape, tensors.get("bm")
    sizes = {part: tuple(tensors[part].shape) for part in _PARTS}
    core_size = None if core is None else tuple(core.shape)
    order = next(order for order in _ORDERS if _rank([sizes[part] for part in order], shape, core_size))
    a1, a2, b1, b2 = (wide(tensors[part]) for part in order)
    a1, a2, b1, b2 = (
        a1.flatten(1),
        a2.flatten(1),
        b1.flatten(1),
        (b2 if core is None else with_core(core, b2)).flatten(1),
    )
    weight = tensors[WEIGHT].reshape(shape.out, shape.inner, -1).to(a1)
    behind: Tensor = torch.einsum("oik,ij->ojk", weight, a1)
    if measure.rank is None:
        delta = torch.einsum("ojk,ji->oik", behind, a2).flatten(1) + b1 @ b2
        return Dense(shape, delta * scale)
    return Layer(shape, torch.cat([behind.flatten(1), b1], 1), torch.cat([a2, b2]), scale)


GLORA = Kind(
    "GLoRA",
    {f".{part}.weight": part for part in (*_PARTS, "bm")},
    _measure,
    _make,
    "a1 in×rank, a2 rank×in, b1 out×rank, b2 rank×in (convolutions with their kernel)",
    needs_weight=True,
)
