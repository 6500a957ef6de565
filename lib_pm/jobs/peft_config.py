"""PEFT's settings of a LoRA, which hold what its tensors do not say: alpha, rsLoRA, and kinds that need more.

diffusers writes them into the header (`lora_adapter_metadata`); PEFT itself into `adapter_config.json` beside the file.
Without them a file saved with lora_alpha ≠ rank would be read at the wrong strength.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_pm.core.errors import MergeInputError
from lib_pm.core.keys.names import parse_name

_HEADER_KEY = "lora_adapter_metadata"
_REFUSED = {"use_dora": "DoRA", "lora_bias": "LoRA with biases", "bias": "trained biases", "use_qalora": "QALoRA"}
_COMPONENTS = {
    "unet": "unet",
    "transformer": "unet",
    "text_encoder": "te",
    "text_encoder_2": "te2",
    "text_encoder_3": "te3",
}


@dataclass(frozen=True)
class PeftConfig:
    """Settings by component ("" for all of them)."""

    components: Mapping[str, Mapping[str, Any]]

    def alpha(self, name: str, rank: int) -> float:
        """The alpha that makes alpha / rank the scale which PEFT would use for the layer of that name."""
        settings = self.components.get(parse_name(name)[0]) or self.components.get("")
        if not settings or settings.get("lora_alpha") is None:
            return float(rank)
        alpha = settings["lora_alpha"]
        for pattern, other in (settings.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                alpha = other
                break
        # rsLoRA divides by the root of the rank; alpha is what makes up for that
        return float(alpha) * math.sqrt(rank) if settings.get("use_rslora") else float(alpha)


def read_peft_config(path: Path, metadata: Mapping[str, str]) -> PeftConfig | None:
    """The settings that belong to a LoRA file, or None. Kinds that need more than two factors are a MergeInputError."""
    config: PeftConfig | None = None
    beside = path.with_name("adapter_config.json")
    try:
        if _HEADER_KEY in metadata:
            config = _by_component(json.loads(metadata[_HEADER_KEY]))
        elif path.name == "adapter_model.safetensors" and beside.is_file():
            config = PeftConfig({"": json.loads(beside.read_text(encoding="utf-8"))})
    except (json.JSONDecodeError, AttributeError) as error:
        raise MergeInputError(f"{path.name}: its PEFT settings cannot be read: {error}.") from error
    for settings in config.components.values() if config else ():
        for key, kind in _REFUSED.items():
            if settings.get(key) not in (None, False, "none"):
                raise MergeInputError(f"{path.name} is not a plain LoRA but {kind}; this kind is not supported yet.")
    return config


def _by_component(settings: Mapping[str, Any]) -> PeftConfig:
    components: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        component, dot, setting = key.partition(".")
        known = bool(dot) and component in _COMPONENTS
        components.setdefault(_COMPONENTS[component] if known else "", {})[setting if known else key] = value
    return PeftConfig(components)
