"""The modes and their options: as text, as a table in Markdown (docs/modes.md), as plain values for programs."""

from __future__ import annotations

import math
from typing import Any

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.params import Option
from lib_pm.core.registry import MODES, Mode

SPACES = {
    "exact": "exact: factors concatenated, rank Σ rᵢ",
    "factors": "factors: the up and down factors separately",
    "delta": "delta: the full ΔW, truncated to svd_rank",
}


def modes_text() -> str:
    lines = []
    for mode in MODES.values():
        lines += [f"{mode.id}: {mode.title}", f"  {mode.method.formula}, in {SPACES[mode.space]}", f"  {mode.when}"]
        options = (option.in_files for option in mode.options.values())  # the command line's, which writes files
        lines += [f"  --{_flag(option)}: {option.help} {_range(option)}" for option in options]
    return "\n".join(lines)


def modes_markdown() -> str:
    rows = ["| mode | applied to | formula | when to use it | options |", "|---|---|---|---|---|"]
    rows += [
        f"| `{mode.id}` | {mode.space} | {mode.method.formula.replace('|', '∣')} | {mode.when} | {_options(mode)} |"
        for mode in MODES.values()
    ]
    return "\n".join(rows)


def modes_json() -> list[dict[str, Any]]:
    """Return the modes and their options as plain values, for programs."""
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


def _options(mode: Mode) -> str:
    return ", ".join(f"`{name}`" for name in mode.options)


def _flag(option: Option) -> str:
    return option.name.replace("_", "-")


def _range(option: Option) -> str:
    default = option.declared.empty if option.default is None else option.default
    return f"Allowed: {option.allowed}; default: {default}."
