"""DARE: drop entries at random and rescale the rest, then merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib_pm.core.memo import Content
from lib_pm.core.params import Density, Seed
from lib_pm.core.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    "dare_linear",
    title="DARE linear",
    formula="Σ wᵢ·drop_random(ΔWᵢ) / density",
    when="Fewer collisions between LoRAs at the cost of noise, more of it at low densities; try a few seeds.",
    source="arXiv:2311.03099",
)
def dare_linear(
    deltas: Tensor, weights: Tensor, contents: Sequence[Content], *, density: Density = 0.5, seed: Seed = 0
) -> Tensor:
    """Drop entries at random, divide the survivors by the density, sum.

    deltas: (n, *shape) float32, one per LoRA, strengths not yet applied. weights: (n,) float32, negative subtracts.
    contents: (n,) what each LoRA holds here; with the seed it decides the mask.
    Returns (*shape,) float32. Equals PEFT `dare_linear` for the same masks.
    """
    from lib_pm.core.steps import drop_random_, weighted_sum_

    return weighted_sum_(drop_random_(deltas, density, seed, contents), weights)


@merge_method(
    "dare_ties",
    title="DARE TIES",
    formula="mean over agreeing i of wᵢ·drop_random(ΔWᵢ) / density",
    when="Like TIES, but drops entries at random instead of trimming the small ones.",
    source="arXiv:2311.03099, arXiv:2306.01708",
)
def dare_ties(
    deltas: Tensor, weights: Tensor, contents: Sequence[Content], *, density: Density = 0.5, seed: Seed = 0
) -> Tensor:
    """Drop entries at random, divide the survivors by the density, elect signs, average those that agree.

    deltas: (n, *shape) float32, one per LoRA, strengths not yet applied. weights: (n,) float32, negative subtracts.
    contents: (n,) what each LoRA holds here; with the seed it decides the mask.
    Returns (*shape,) float32. Departs from PEFT `dare_ties` as `ties` departs from PEFT `ties`.
    """
    from lib_pm.core.steps import drop_random_, elect_and_average_

    return elect_and_average_(drop_random_(deltas, density, seed, contents), weights)
