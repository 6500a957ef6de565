"""Controls for merge modes and their options, made from what the modes declare."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import gradio as gr

from lib_pm.core.params import Option, OptionValue
from lib_pm.core.registry import MODES, Choice, Mode, all_options, find_mode
from lib_pm.prompt.parse import parse_pm
from lib_pm.prompt.tag import Tag

# One control each, shown while a mode that has the option is chosen.
OPTIONS: Mapping[str, Option] = all_options()


@dataclass(frozen=True)
class ModeControls:
    """mode: a dropdown. options: one control for each of OPTIONS, in their order."""

    mode: Any
    options: list[Any]

    @property
    def all(self) -> list[Any]:
        return [self.mode, *self.options]


def mode_controls(
    value: str, elem_id: Callable[[str], str], info: Callable[[Option], str] = attrgetter("help")
) -> ModeControls:
    """Draw the choice of a mode, what it does, and its options; only those of the chosen mode are visible.

    info: returns the help of an option.
    """
    chosen = find_mode(value)
    modes = gr.Dropdown(label="Mode", choices=list(MODES), value=value, interactive=True, elem_id=elem_id("mode"))
    explained = gr.HTML(mode_help(chosen), elem_id=elem_id("help"))
    with gr.Row():
        options = [
            option_control(option, info=info(option), elem_id=elem_id(name), visible=name in chosen.options)
            for name, option in OPTIONS.items()
        ]

    def show(mode: str | None) -> list[Any]:
        if mode not in MODES:  # cleared, or typed halfway: what merges says so
            return [gr.update() for _ in range(1 + len(options))]
        new = find_mode(mode)
        return [gr.update(value=mode_help(new)), *(gr.update(visible=name in new.options) for name in OPTIONS)]

    modes.change(show, inputs=[modes], outputs=[explained, *options], show_progress="hidden")
    return ModeControls(modes, options)


def option_control(option: Option, **arguments: Any) -> Any:
    """Return a control for one option. Its value is never None: the WebUI's API asks for the value's type."""
    declared, number = option.declared, option.type is int
    arguments = {"label": declared.label, "info": option.help, "interactive": True, "min_width": 240, **arguments}
    if declared.empty or declared.word:
        return gr.Textbox(value=option.text(option.default), placeholder=declared.empty, max_lines=1, **arguments)
    if declared.high <= 1:
        return gr.Slider(declared.low, declared.high, value=option.default, step=declared.step, **arguments)
    return gr.Number(value=option.default, precision=0 if number else None, **arguments)


def mode_help(mode: Mode) -> str:
    """Return one line on what the mode does and when to use it, and its formula that opens on a click, as HTML."""
    title, when, formula, source = map(html.escape, (mode.title, mode.when, mode.method.formula, mode.method.source))
    details = f"<details><summary>Formula</summary><p>{formula}</p><p>Source: {source}</p></details>"
    return f"<p><b>{title}</b>: {when}</p>{details}"


def mode_values(choice: Choice) -> list[Any]:
    """Return what the controls show: the mode, then a value for each of OPTIONS."""
    values = choice.values
    return [choice.mode.id, *(control_value(name, values[name]) if name in values else gr.update() for name in OPTIONS)]


def control_value(name: str, value: OptionValue) -> Any:
    """Return an option's value as its control shows it."""
    option = OPTIONS[name]
    return option.text(value) if option.declared.empty or option.declared.word else value


def panel_choice(mode: str | None, values: Sequence[object]) -> Choice:
    """Return what the controls choose; a MergeInputError names the option that is wrong.

    values: one for each of OPTIONS.

    Over the API, mode may be what a `<pm:…>` tag holds, `ties_svd:density=0.5`. The controls are then ignored.
    """
    mode = mode or ""  # what a cleared dropdown gives is None
    if ":" in mode:
        return parse_pm(Tag.of("pm", mode))
    chosen = find_mode(mode)
    return chosen.choice({name: value for name, value in zip(OPTIONS, values, strict=False) if name in chosen.options})
