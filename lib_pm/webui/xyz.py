"""The axes in the WebUI's X/Y/Z plot.

A cell's values are kept on its own processing object and turned into text before its tags are read: the prompt of the
cell then says what the cell is, and so does its infotext.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lib_pm.core.errors import MergeInputError
from lib_pm.prompt.edit import Tags, read_tags, rewrite
from lib_pm.prompt.parse import parse_prompt
from lib_pm.sweep.axes import MODE, PREFIX, Axis, LoraLookup, make_axes
from lib_pm.webui.infotext import note_of_cell
from lib_pm.webui.lora_extension import find_lora, lora_extension
from lib_pm.webui.prompts import Panel
from lib_pm.webui.refusal import Refusal, abort
from lib_pm.webui.settings import read_settings

Result = TypeVar("Result")
_CELL = "power_merger_cell"  # on p: the values of this cell by their axes' names


def add_axes() -> None:
    """Put the axes into the plot's menu, where they are not there yet. Called before the WebUI builds its page."""
    for plot in _plots():
        known = {option.label for option in plot.axis_options}
        options = [_option(plot, axis) for axis in _AXES]
        plot.axis_options.extend(option for option in options if option.label not in known)


def rewrite_prompts(p: Any, panel: Panel) -> None:
    """Write this cell's values into its prompts; do nothing outside a plot.

    p: the WebUI's processing object, prompts set up and tags not read yet.
    """
    values = getattr(p, _CELL, {})
    if not values:
        return
    try:
        choice = panel()
        edits = [partial(_with_value, axis.edit, values[axis.name]) for axis in _AXES if axis.name in values]
        p.main_prompt = rewrite(p.main_prompt, edits, choice)
        for prompts in ("all_prompts", "all_hr_prompts"):
            if getattr(p, prompts, None):
                setattr(p, prompts, [rewrite(text, edits, choice) for text in getattr(p, prompts)])
        _note_idle_axes(p, values)
    except Exception as error:  # noqa: BLE001 (the WebUI would print it and make the image of another cell)
        abort(p, error)


def _note_idle_axes(p: Any, values: Mapping[str, Any]) -> None:
    """Note options that this cell's mode does not have, unless the plot has the axis Mode, where that is normal."""
    options = {axis.option: axis.name for axis in _AXES if axis.option and axis.name in values}
    if options and MODE not in values:
        choice = parse_prompt(p.main_prompt).choice
        for option, name in options.items():
            if choice and not choice.mode.option(option):
                note_of_cell(p, f"{name} changes nothing: mode {choice.mode.id} has no {option}.")


def _with_value(edit: Callable[[Tags, Any], Tags], value: Any, tags: Tags) -> Tags:
    return edit(tags, value)


def _plots() -> list[ModuleType]:
    """Return the plot's modules, which are loaded by path and cannot be imported; none if this WebUI has no plot."""
    from modules import scripts

    modules = {id(data.module): data.module for data in scripts.scripts_data if Path(data.path).name == "xyz_grid.py"}
    return [module for module in modules.values() if hasattr(module, "axis_options")]


def _option(plot: ModuleType, axis: Axis) -> Any:
    """Return an axis of the plot's own class: it ignores others."""

    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        # Cells are shallow copies of one object, so the dict is replaced, never changed.
        setattr(p, _CELL, getattr(p, _CELL, {}) | {axis.name: value})

    def format_value(p: Any, option: Any, value: Any) -> str:
        return axis.label(_tags(p), value)

    def confirm(p: Any, values: Sequence[Any]) -> None:
        tags = _tags(p)
        if tags.pm:  # without a merge the LoRAs' tags are the WebUI's own affair
            parse_prompt(_prompt(p))
        axis.fits(tags)
        for value in values:
            axis.check(value)

    return plot.AxisOption(
        PREFIX + axis.name,
        axis.type,
        apply,
        format_value=_refusing(format_value),
        confirm=_refusing(confirm),
        cost=axis.cost,
        choices=axis.choices,
        prepare=_refusing(axis.split),
    )


def _refusing(work: Callable[..., Result]) -> Callable[..., Result]:
    """Return `work` so that its MergeInputError stops the plot, with the message in the page and over the API."""

    def check(*args: Any) -> Result:
        try:
            return work(*args)
        except MergeInputError as error:
            raise Refusal(str(error)) from None

    return check


def _prompt(p: Any) -> str:
    """Return the prompt as the user wrote it, with its styles."""
    from modules import shared

    prompt = p.prompt if isinstance(p.prompt, str) else p.prompt[0]
    return str(shared.prompt_styles.apply_styles_to_prompt(prompt, p.styles))


def _tags(p: Any) -> Tags:
    return read_tags(_prompt(p))


def _lora_names() -> list[str]:
    return sorted(lora_extension().available_networks, key=str.casefold)


def _find_lora(name: str) -> Path:
    return find_lora(lora_extension(), name)


def _presets() -> Mapping[str, str]:
    return read_settings().load_presets()


_AXES = make_axes(LoraLookup(_lora_names, _find_lora, _presets))
