"""PEFT's settings of a LoRA, which hold what its tensors do not say: alpha, rsLoRA, and kinds that need more.

diffusers writes them into the header (`lora_adapter_metadata`); PEFT itself into `adapter_config.json` beside the file.
Without them a file saved with lora_alpha ≠ rank would be read at the wrong strength.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.foreign import PEFT_TYPES
from lib_pm.families.names import parse_name
from lib_pm.files.alpha_patterns import FORMS, AlphaPatterns, NotUnderstood
from lib_pm.files.json_text import NotJson, parse_json
from lib_pm.files.reading import reading
from lib_pm.files.stamps import CONFIG, MODEL, Facts

_HEADER_KEY = "lora_adapter_metadata"
_MAX_BYTES = 2**20  # those of a model of thousands of layers, each by its name, are a fifth of it
_REFUSED = {"bias": "trained biases", "use_qalora": "QALoRA"}
# The kinds that are read, and what their alpha is called.
_READ = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
# Ways to begin the training that move a part of the base model's weights into the factors (init_lora_weights).
_MOVES_WEIGHTS = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "loftq": "LoftQ"}
_COMPONENTS = {
    "unet": "unet",
    "transformer": "unet",
    "text_encoder": "te",
    "text_encoder_2": "te2",
    "text_encoder_3": "te3",
}


@dataclass(frozen=True)
class PeftSettings:
    """Of one component. alpha, rank: None where nothing is said. patterns, ranks: of single layers."""

    alpha: float | None
    patterns: AlphaPatterns
    rslora: bool
    rank: float | None
    ranks: AlphaPatterns
    dora: bool


@dataclass(frozen=True)
class PeftConfig:
    """Settings by component ("" for all of them). content: all that was written, as bytes that tell two apart."""

    components: Mapping[str, PeftSettings]
    content: bytes

    def alpha(self, name: str, rank: int) -> float | None:
        """Return the alpha that makes alpha / rank the scale which PEFT would use for the layer of that name,
        None if unsaid.

        A key of alpha_pattern counts only beside a lora_alpha, which PEFT always writes.
        """
        settings = self._settings(name)
        if not settings or settings.alpha is None:
            return None
        alpha = settings.patterns.alpha(name)
        alpha = settings.alpha if alpha is None else alpha
        # rsLoRA divides by the root of the rank; alpha is what makes up for that
        return alpha * math.sqrt(rank) if settings.rslora else alpha

    def scale(self, name: str) -> float | None:
        """Return the scale of a layer whose tensors do not say its rank, None if unsaid."""
        settings, alpha = self._settings(name), self.alpha(name, 1)
        rank = settings and (settings.ranks.alpha(name) or settings.rank)
        return alpha / rank if alpha is not None and rank else None

    @property
    def dora(self) -> bool:
        """Return whether there have to be magnitudes."""
        return any(settings.dora for settings in self.components.values())

    def _settings(self, name: str) -> PeftSettings | None:
        return self.components.get(parse_name(name)[0]) or self.components.get("")


def read_peft_config(path: Path, metadata: Mapping[str, str]) -> tuple[PeftConfig | None, Facts | None]:
    """Return the settings that belong to a LoRA file, or None; and what the file of settings beside it is known
    again by.

    Kinds that need more than two factors, and settings that cannot be understood, are a MergeInputError.
    """
    beside, facts = _beside(path) if path.name == MODEL else (None, None)
    text = metadata.get(_HEADER_KEY, beside)
    if text is None:
        return None, facts
    if len(text) > _MAX_BYTES:
        raise MergeInputError(f"{path.name}: its PEFT settings are longer than {_MAX_BYTES} bytes.")
    try:
        written = parse_json(text)
        if not isinstance(written, dict):
            raise NotJson("they are not a JSON object")
        components = _by_component(written) if _HEADER_KEY in metadata else {"": written}
        content = json.dumps(components, sort_keys=True).encode()
    except (NotJson, RecursionError) as error:
        raise MergeInputError(f"{path.name}: its PEFT settings cannot be read: {error}.") from error
    return PeftConfig({name: _settings(path, given) for name, given in components.items()}, content), facts


def _beside(path: Path) -> tuple[bytes | None, Facts | None]:
    with reading(path.with_name(CONFIG)):
        try:
            with path.with_name(CONFIG).open("rb") as file:
                return file.read(_MAX_BYTES + 1), Facts.of(os.fstat(file.fileno()))
        except FileNotFoundError:
            return None, None


def _by_component(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    components: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        component, dot, setting = key.partition(".")
        known = bool(dot) and component in _COMPONENTS
        components.setdefault(_COMPONENTS[component] if known else "", {})[setting if known else key] = value
    return components


def _settings(path: Path, given: Mapping[str, Any]) -> PeftSettings:
    kind = str(given.get("peft_type") or "LORA").rpartition(".")[2].upper()
    if kind not in _READ:
        raise MergeInputError(
            f"{path.name} is not a plain LoRA but {PEFT_TYPES.get(kind, kind[:100])} (peft_type in its PEFT settings); "
            "this kind is not supported yet."
        )
    for key, other in _REFUSED.items():
        if given.get(key) not in (None, False, "none"):
            raise MergeInputError(f"{path.name} is not a plain LoRA but {other}; this kind is not supported yet.")
    begun = str(given.get("init_lora_weights")).partition("_")[0]
    if begun in _MOVES_WEIGHTS:
        raise MergeInputError(
            f"{path.name} was trained with {_MOVES_WEIGHTS[begun]}, so that it is right only for a base model that was "
            "changed with it. Convert it with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )
    alpha, rslora = given.get(_READ[kind]), given.get("use_rslora")
    if not isinstance(rslora, bool | None):
        raise _refusal(path, "use_rslora", rslora, "true or false")
    rank, one = given.get("r"), kind == "LORA"  # whose tensors tell the rank
    return PeftSettings(
        None if alpha is None else _number(path, _READ[kind], alpha),
        _patterns(path, "alpha_pattern", given),
        bool(rslora),
        None if rank is None or one else _number(path, "r", rank),
        AlphaPatterns.of({}) if one else _patterns(path, "rank_pattern", given),
        bool(given.get("use_dora")),
    )


def _patterns(path: Path, key: str, given: Mapping[str, Any]) -> AlphaPatterns:
    written = {} if given.get(key) is None else given[key]
    if not isinstance(written, dict):
        raise _refusal(path, key, written, f"{key.partition('_')[0]}s by layer name")
    numbers = {name: _number(path, f"{key} of {name[:100]}", value) for name, value in written.items()}
    try:
        return AlphaPatterns.of(numbers)
    except NotUnderstood as error:
        raise _refusal(path, f"a name in {key}", str(error), FORMS) from error


def _number(path: Path, what: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refusal(path, what, value, "a number")
    return number


def _refusal(path: Path, what: str, value: Any, allowed: str) -> MergeInputError:
    shown = repr(value)
    shown = shown if len(shown) <= 100 else f"{shown[:99]}…"
    return MergeInputError(f"{path.name}: {what} in its PEFT settings is {shown}; allowed: {allowed}.")
