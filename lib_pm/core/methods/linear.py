"""Weighted sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_pm.core.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    "concat",
    title="Concat",
    formula="Σ wᵢ·ΔWᵢ",
    when="Recommended: exactly what stacking the LoRAs in the WebUI does. The file's rank is the sum of their ranks.",
    source="PEFT `cat`",
    spaces=("exact",),
    linear=True,
)
def concat(deltas: Tensor, weights: Tensor) -> Tensor:
    """Return the exact weighted sum, kept as concatenated factors.

    deltas: (n, *shape) float32, one per LoRA, strengths not yet applied. weights: (n,) float32, negative subtracts.
    Returns (*shape,) float32. Equals PEFT `cat`. The merge is equal to this; its factors are never multiplied out.
    """
    from lib_pm.core.steps import weighted_sum_

    return weighted_sum_(deltas, weights)


@merge_method(
    "add",
    title="Add",
    formula="Σ wᵢ·ΔWᵢ",
    when="The sum at a rank of your choice: the best approximation at that rank, exact from rank Σ rᵢ upwards.",
    when_factors="Keeps the rank, but adds up and down factors separately (cross terms). Prefer concat or add_svd.",
    source="PEFT `linear` (factors), `svd` (deltas)",
    linear=True,
)
def add(deltas: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum.

    deltas: (n, *shape) float32, one per LoRA, strengths not yet applied. weights: (n,) float32, negative subtracts.
    Returns (*shape,) float32. Equals PEFT `task_arithmetic`.
    """
    from lib_pm.core.steps import weighted_sum_

    return weighted_sum_(deltas, weights)
