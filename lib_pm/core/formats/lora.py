"""Plain LoRA: an up and a down factor, perhaps a mid factor (CP) and an alpha, under the names that trainers write."""

from __future__ import annotations

from typing import Literal

Part = Literal["up", "down", "mid", "alpha"]
Naming = Literal["kohya", "peft"]

# How the last words of a tensor's name tell its part. Longer ones first where one ends like another.
_PARTS: dict[str, Part] = {
    ".lora_up.weight": "up",  # kohya-ss/sd-scripts
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
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

# What a change of the weight itself is called; LyCORIS, the WebUIs and ComfyUI read it.
FULL = ".diff"


def split_key(key: str) -> tuple[str, Part] | None:
    """Return `x.lora_up.weight` as ("x", "up"); None for a tensor that is not a part of a plain LoRA."""
    for ending, part in _PARTS.items():
        if key.endswith(ending) and len(key) > len(ending):
            return key[: -len(ending)], part
    return None


def naming_of(key: str) -> Naming:
    return "kohya" if ".lora_up." in key or ".lora_down." in key else "peft"
