"""How high a rank is asked for: a number, or one of the two values that mean something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from lib_pm.core.layers import LayerShape
from lib_pm.core.params import OptionValue

Rank: TypeAlias = int | None  # None is FULL_RANK
FULL_RANK = None  # svd_rank=full: nothing is truncated; of a layer: it is a delta without factors
NO_RANK = 0  # svd_conv_rank=0: the layer is left out
SAME_RANK = None  # svd_conv_rank left empty: that of svd_rank


def asked_rank(shape: LayerShape, values: Mapping[str, OptionValue]) -> int | None:
    """Return the rank that a mode's options ask for in such a layer: a number, FULL_RANK or NO_RANK."""
    if shape.vector:
        return FULL_RANK
    rank, conv_rank = values.get("svd_rank", FULL_RANK), values.get("svd_conv_rank", SAME_RANK)
    if shape.is_spatial and conv_rank is not SAME_RANK:
        rank = conv_rank
    return FULL_RANK if rank is None else int(rank)


def asks_for_full_rank(values: Mapping[str, OptionValue]) -> bool:
    """Return whether the options say svd_rank=full; a mode without that option has no rank to choose."""
    return "svd_rank" in values and values["svd_rank"] is FULL_RANK
