"""Plain LoRA: an up and a down factor, perhaps a mid factor (CP) and an alpha, under the names that trainers write."""

from __future__ import annotations

import math
from typing import Literal

from lib_pm.core.formats.kind import ALPHA, Kind, Measure, Misfit, Sizes, Tensors
from lib_pm.core.formats.pair import with_core
from lib_pm.core.layers import AnyLayer, Layer, LayerShape

Part = Literal["up", "down", "mid", "alpha"]
Naming = Literal["kohya", "peft"]

# How the last words of a tensor's name tell its part. Longer ones first where one ends like another.
_PARTS: dict[str, Part] = {
    ".lora_up.weight": "up",  # kohya-ss/sd-scripts
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_B.weight": "up",  # PEFT and diffusers
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",  # PEFT, saved with the adapter's name
    ".lora_A.default.weight": "down",
    ".lora.up.weight": "up",  # diffusers before PEFT
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",  # its text encoder
    ".lora_linear_layer.down.weight": "down",
    "_lora.up.weight": "up",  # its attention processors: to_q_lora.up.weight
    "_lora.down.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
}

# What the two factors are called when a layer is written.
WRITTEN: dict[Naming, dict[Part, str]] = {
    "kohya": {"up": ".lora_up.weight", "down": ".lora_down.weight", "alpha": ".alpha"},
    # alpha is not part of this format: where it is missing it is the rank, which is what is meant
    "peft": {"up": ".lora_B.weight", "down": ".lora_A.weight"},
}

# A mid factor multiplied into the down factor may have this many numbers, or so many times those of the layer's own
# factors, whichever is more. Of what models have, 3×3 at 2560 channels and rank 256 comes to 6 million; a file of a
# few megabytes could ask for a thousand times that with a kernel that no model has.
MOST_OF_MID = 1 << 23
MOST_TIMES_STORED = 4


def split_key(key: str) -> tuple[str, Part] | None:
    """Return `x.lora_up.weight` as ("x", "up"); None for a tensor that is not a part of a plain LoRA."""
    for ending, part in (*_PARTS.items(), (f".{ALPHA}", "alpha")):
        if key.endswith(ending) and len(key) > len(ending):
            return key[: -len(ending)], part
    return None


def naming_of(key: str) -> Naming:
    return "kohya" if ".lora_up." in key or ".lora_down." in key else "peft"


def _measure(sizes: Sizes) -> Measure:
    up, down, mid = sizes["up"], sizes["down"], sizes.get("mid")
    rank = up[1] if len(up) > 1 else 0
    kernel = (down if mid is None else mid)[2:]
    fits = len(down) > 1 and rank == down[0] and all(size == 1 for size in up[2:])
    if mid is not None:
        fits = (
            fits
            and mid[:2] == (rank, rank)
            and len(mid) > 2
            and len(down) in (2, len(mid))
            and all(size == 1 for size in down[2:])
        )
    if not fits:
        raise Misfit
    if mid is not None:
        multiplied, stored = math.prod(down) * math.prod(kernel), sum(map(math.prod, sizes.values()))
        if multiplied > max(MOST_OF_MID, MOST_TIMES_STORED * stored):
            raise Misfit(
                f"the mid factor expands too much: {multiplied} numbers from {stored} stored ones, where {MOST_OF_MID} "
                f"or {MOST_TIMES_STORED} times the stored ones are allowed"
            )
    return Measure(LayerShape(up[0], down[1], kernel), rank, rank)


def _make(tensors: Tensors, measure: Measure, scale: float) -> AnyLayer:
    up, down = tensors["up"], tensors["down"]
    if "mid" in tensors:
        down = with_core(tensors["mid"], down)
    return Layer(measure.shape, up.reshape(measure.shape.out, -1), down.flatten(1), scale)


LORA = Kind(
    "LoRA",
    dict(_PARTS),
    _measure,
    _make,
    "up out×rank, down rank×in (convolutions with their kernel)",
)
