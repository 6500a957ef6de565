"""Ready-made sweeps: what LoRA Power-Merger's three XY nodes do in ComfyUI.

A sweep says which axes (`lib_pm.sweep.axes`) take which values, as the text that a user would type into the WebUI's
X/Y/Z plot. An axis with one value stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES, find_mode
from lib_pm.sweep.axes import check_part

MODES_TO_COMPARE = "add, ties, dare_linear, dare_ties, magnitude_prune"
Values = tuple[str, str]  # the axis's name, its values as text
NOTHING: Values = ("", "")


@dataclass(frozen=True)
class Sweep:
    x: Values
    y: Values = NOTHING
    z: Values = NOTHING


def sweep_strengths(low: float = 0, high: float = 1, steps: int = 4, apply: str = "model + clip") -> Sweep:
    """Sweep the prompt's first LoRA against its second, each at that many strengths from low to high.

    apply: the part of the model that they act on, "model + clip", "model" or "clip".
    """
    check_part(apply)
    values = _range(low, high, steps)
    part = NOTHING if apply == "model + clip" else ("Apply to", apply)
    return Sweep(("LoRA 1 strength", values), ("LoRA 2 strength", values), part)


def sweep_modes(modes: str = MODES_TO_COMPARE, low: float = 0, high: float = 1, steps: int = 4) -> Sweep:
    """Sweep modes, in a text with commas, against densities. A mode without a density is the same at all."""
    ids = [find_mode(id.strip()).id for id in modes.split(",")]
    return Sweep(("Mode", ", ".join(ids)), ("Density", _range(low, high, steps)))


def sweep_ranks(mode: str = "add_svd", density: float = 1, low: int = 1, high: int = 64, steps: int = 4) -> Sweep:
    """Sweep the ranks of one mode that truncates."""
    if "svd_rank" not in find_mode(mode).options:
        truncating = ", ".join(mode.id for mode in MODES.values() if "svd_rank" in mode.options)
        raise MergeInputError(f"Mode {mode} has no rank; allowed: {truncating}.")
    constant = ("Density", f"{density:g}") if "density" in MODES[mode].options else NOTHING
    return Sweep(("SVD rank", _range(low, high, steps)), ("Mode", mode), constant)


def _range(low: float, high: float, steps: int) -> str:
    """Return a range as the WebUI's plot reads it: that many values, the first low and the last high."""
    if steps < 1 or low > high:
        raise MergeInputError(
            f"The range has {steps} steps from {low:g} to {high:g}; allowed: 1 step or more, from a lower to a higher "
            "number."
        )
    return f"{low:g}-{high:g} [{steps}]" if steps > 1 else f"{low:g}"
