"""Magnitude pruning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib_pm.core.memo import Content
from lib_pm.core.params import Density
from lib_pm.core.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    "magnitude_prune",
    title="Magnitude prune",
    formula="Σ wᵢ·keep_largest(ΔWᵢ)",
    when="Keeps what each LoRA changes most and drops the rest, without noise. Weaker than the sum at low densities.",
    source="PEFT `magnitude_prune`",
)
def magnitude_prune(deltas: Tensor, weights: Tensor, contents: Sequence[Content], *, density: Density = 0.5) -> Tensor:
    """Keep the largest entries of each LoRA, sum.

    deltas: (n, *shape) float32, one per LoRA, strengths not yet applied. weights: (n,) float32, negative subtracts.
    contents: (n,) what each LoRA holds here.
    Returns (*shape,) float32. Equals PEFT `magnitude_prune`.
    """
    from lib_pm.core.steps import keep_largest_, weighted_sum_

    return weighted_sum_(keep_largest_(deltas, density, contents), weights)
