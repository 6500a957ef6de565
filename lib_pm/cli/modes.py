"""The modes and their options as a table: text, Markdown (docs/modes.md)."""

from __future__ import annotations

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


def _options(mode: Mode) -> str:
    return ", ".join(f"`{name}`" for name in mode.options)


def _flag(option: Option) -> str:
    return option.name.replace("_", "-")


def _range(option: Option) -> str:
    default = option.declared.empty if option.default is None else option.default
    return f"Allowed: {option.allowed}; default: {default}."
