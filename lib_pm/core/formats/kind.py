"""A kind of network: what the tensors of a layer are called, what their sizes say of it, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from lib_pm.core.layers import AnyLayer, LayerShape
from lib_pm.core.ranks import FULL_RANK, Rank

Sizes: TypeAlias = Mapping[str, tuple[int, ...]]  # of each part's tensor
Tensors: TypeAlias = Mapping[str, Tensor]

ALPHA = "alpha"
MOST_NUMBERS = 1 << 30  # of a weight that a file describes with fewer; the largest that models have is a tenth of it


class Misfit(ValueError):
    """Tensors that are no layer of the kind. reason: more than their sizes say, "" for nothing."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(f" ({reason})" if reason else "")


@dataclass(frozen=True)
class Measure:
    """What is known of a layer before its tensors are read.

    rank: of the factors that it is read as, FULL_RANK for a delta. dim: what alpha is divided by, None if there is
    nothing to divide: then the scale is 1, whatever alpha says.
    """

    shape: LayerShape
    rank: Rank
    dim: int | None


@dataclass(frozen=True, eq=False)  # a row of a table: it is itself
class Kind:
    """endings: how the names of the tensors end -> which part of the layer they are.

    needs_weight: its change depends on the base model's weight, whose size and tensor are then its part WEIGHT.
    measure: of a layer whose parts have these sizes; a Misfit if that cannot be. make: the layer of these tensors and
    this scale. allowed: the sizes that fit together, for messages.
    """

    title: str
    endings: Mapping[str, str]
    measure: Callable[[Sizes], Measure]
    make: Callable[[Tensors, Measure, float], AnyLayer]
    allowed: str
    needs_weight: bool = False


def measured(shape: LayerShape, rank: int, dim: int | None) -> Measure:
    """Return the measure of factors of that rank, of a delta where they have no fewer than the shape has.

    A Misfit where no model has such a weight.
    """
    if shape.out * shape.columns > MOST_NUMBERS:
        raise Misfit(f"they give a weight of {shape}, which no model has")
    return Measure(shape, rank if rank < shape.max_rank else FULL_RANK, dim)


def need(sizes: Sizes, *parts: str) -> None:
    """Raise a Misfit if one of the parts is missing."""
    missing = [part for part in parts if part not in sizes]
    if missing:
        raise Misfit(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, in which a product of two numbers of 16 bits is exact; float64 stays."""
    return tensor if tensor.itemsize == 8 else tensor.float()


def columns(size: tuple[int, ...]) -> int:
    """Return the width of a tensor of that size, seen as a matrix."""
    return math.prod(size[1:])
