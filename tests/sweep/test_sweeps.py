"""The three sweeps by name."""

from __future__ import annotations

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.sweep.sweeps import NOTHING, Sweep, sweep_modes, sweep_ranks, sweep_strengths
from tests.messages import saying


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        (sweep_strengths(), Sweep(("LoRA 1 strength", "0-1 [4]"), ("LoRA 2 strength", "0-1 [4]"))),
        (
            sweep_strengths(-0.5, 0.5, 3, "clip"),
            Sweep(("LoRA 1 strength", "-0.5-0.5 [3]"), ("LoRA 2 strength", "-0.5-0.5 [3]"), ("Apply to", "clip")),
        ),
        (
            sweep_modes(),
            Sweep(("Mode", "add, ties, dare_linear, dare_ties, magnitude_prune"), ("Density", "0-1 [4]")),
        ),
        (sweep_modes("ties,ties_svd", 0.25, 0.25, 1), Sweep(("Mode", "ties, ties_svd"), ("Density", "0.25"))),
        (sweep_ranks(), Sweep(("SVD rank", "1-64 [4]"), ("Mode", "add_svd"), NOTHING)),
        (
            sweep_ranks("ties_svd", 0.5, 4, 16, 2),
            Sweep(("SVD rank", "4-16 [2]"), ("Mode", "ties_svd"), ("Density", "0.5")),
        ),
    ],
)
def test_sweeps(sweep: Sweep, expected: Sweep) -> None:
    assert sweep == expected


def test_messages() -> None:
    with pytest.raises(MergeInputError, match=saying("ties … rank … add_svd, ties_svd, ")):
        sweep_ranks("ties")
    with pytest.raises(MergeInputError, match=saying("0 steps … 0 … 1 … 1 step … lower … higher")):
        sweep_modes(steps=0)
    with pytest.raises(MergeInputError, match=saying("Apply to … 'unet' … model + clip, model, clip")):
        sweep_strengths(apply="unet")
    with pytest.raises(MergeInputError, match=saying("mode 'tie' … concat, add, ")):
        sweep_modes("add, tie")
