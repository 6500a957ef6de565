"""TIES: trim, elect a sign, average those that agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib_pm.core.memo import Content
from lib_pm.core.params import Density
from lib_pm.core.registry import merge_method

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    "ties",
    title="TIES",
    formula="mean over agreeing i of wᵢ·keep_largest(ΔWᵢ)",
    when="For LoRAs that pull weights in opposite directions. Averages those that agree: two stay as strong as one.",
    source="arXiv:2306.01708",
)
def ties(deltas: Tensor, weights: Tensor, contents: Sequence[Content], *, density: Density = 0.5) -> Tensor:
    """Keep the largest entries, agree on one sign per entry, average those that agree.

    deltas: (n, *shape) float32, one per LoRA, strengths not yet applied. weights: (n,) float32, negative subtracts.
    contents: (n,) what each LoRA holds here.
    Returns (*shape,) float32. The election is by the weighted entries, as in mergekit (PEFT elects before weighting);
    the mean is over the number of agreeing LoRAs, as in PEFT (mergekit divides by their weights, which would cancel
    the strength of a single LoRA). With all weights equal and positive it equals PEFT `ties`.
    """
    from lib_pm.core.steps import elect_and_average_, keep_largest_

    return elect_and_average_(keep_largest_(deltas, density, contents), weights)
