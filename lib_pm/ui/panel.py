"""Controls for merge modes and their options, made from what the modes declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from lib_pm.core.params import Option
from lib_pm.core.registry import MODES, Mode, all_options, find_mode
from lib_pm.jobs.prompt import write_pm

# One control each, shown while a mode that has the option is chosen.
OPTIONS: Mapping[str, Option] = all_options()


def mode_control(value: str, **arguments: Any) -> Any:
    """A dropdown of all modes by their ids, which are what users write."""
    return gr.Dropdown(label="Mode", choices=list(MODES), value=value, interactive=True, **arguments)


def option_control(option: Option, **arguments: Any) -> Any:
    """A control for one option. Its value is never None: the WebUI's API asks for the value's type."""
    declared, number = option.declared, option.type is int
    arguments = {"label": declared.label, "info": declared.help, "interactive": True, "min_width": 240, **arguments}
    if declared.empty or declared.word:
        return gr.Textbox(value=option.text(option.default), placeholder=declared.empty, max_lines=1, **arguments)
    if declared.high <= 1:
        return gr.Slider(declared.low, declared.high, value=option.default, step=declared.step, **arguments)
    return gr.Number(value=option.default, precision=0 if number else None, **arguments)


def mode_help(mode: Mode) -> str:
    """One line on what the mode does and when it is good, as Markdown."""
    return f"**{mode.title}**: {mode.when}"


def panel_text(mode: str, values: Sequence[object]) -> str:
    """The body of the `<pm:…>` tag that says what the controls do. values: one for each of OPTIONS.

    Over the API, mode may be such a body itself: `ties_svd:density=0.5`. The controls then count for nothing.
    """
    if ":" in mode:
        return mode
    chosen = find_mode(mode)
    given = {name: value for name, value in zip(OPTIONS, values, strict=False) if name in chosen.options}
    return write_pm(chosen, chosen.values(given))
