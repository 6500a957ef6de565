"""The modes and their options as plain values, for programs."""

from __future__ import annotations

import math
from typing import Any

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.params import Option
from lib_pm.core.registry import MODES


def modes_json() -> list[dict[str, Any]]:
    return [
        {
            "id": mode.id,
            "title": mode.title,
            "space": mode.space,
            "formula": mode.method.formula,
            "when": mode.when,
            "source": mode.method.source,
            "options": [_option_json(option) for option in mode.options.values()],
        }
        for mode in MODES.values()
    ]


def _option_json(option: Option) -> dict[str, Any]:
    declared = option.declared
    return {
        "name": option.name,
        "label": declared.label,
        "type": option.type.__name__,
        "default": option.default,
        "low": declared.low if math.isfinite(declared.low) else None,
        "high": declared.high if math.isfinite(declared.high) else None,
        "step": declared.step,
        "slider": declared.slider,
        "help": option.help,
    }
