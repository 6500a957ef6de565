"""The accordion "Power Merger" of txt2img and img2img: a mode and its options, without typing a `<pm:…>` tag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import Choice
from lib_pm.prompt.infotext import first_pass
from lib_pm.prompt.parse import parse_pm
from lib_pm.prompt.tag import Tag
from lib_pm.ui.mode_controls import OPTIONS, control_value, mode_controls, panel_choice

TITLE = "Power Merger"
_EXPLANATION = (
    "Merges the prompt's LoRAs instead of stacking them. A `<pm:…>` tag in the prompt overrides these settings; "
    "`:pm=off` in a LoRA's tag stacks that LoRA instead."
)


@dataclass(frozen=True)
class Accordion:
    """controls: in the order of the script's arguments: on or off, mode, one for each option.

    paste_fields: for each of them what an image's infotext sets it to, given the infotext as a dict.
    """

    controls: list[Any]
    paste_fields: list[tuple[Any, Callable[[Mapping[str, Any]], Any]]]


def build(open_accordion: Callable[..., Any], elem_id: Callable[[str], str], mode: str, infotext: str) -> Accordion:
    """Draw it. open_accordion: the WebUI's InputAccordion. infotext: the key that the WebUI writes the tag under."""
    with open_accordion(False, label=TITLE, elem_id=elem_id("enabled")) as enabled:
        gr.Markdown(_EXPLANATION)
        controls = mode_controls(mode, elem_id)

    paste_fields = [
        (enabled, lambda params: _is_on(params, infotext)),
        (controls.mode, lambda params: _pasted_mode(params, infotext)),
    ]
    paste_fields += [
        (control, _pasted_option(name, infotext)) for name, control in zip(OPTIONS, controls.options, strict=True)
    ]
    return Accordion([enabled, *controls.all], paste_fields)


def choice_of(enabled: object = False, mode: object = "", *values: object) -> Choice | None:
    """Return what the script's arguments choose, None if the accordion is off.

    Over the API they may be anything; a MergeInputError says what they should be.
    """
    if enabled not in (True, False, None):
        raise MergeInputError(f"The first argument of {TITLE} is {enabled!r}; allowed: true or false.")
    if not enabled:
        return None
    if mode is not None and not isinstance(mode, str):
        raise MergeInputError(
            f"The second argument of {TITLE} is {mode!r}; allowed: the name of a mode, or what goes into a <pm:…> tag, "
            "such as 'ties_svd:density=0.5'."
        )
    return panel_choice(mode, values)


def _is_on(params: Mapping[str, Any], infotext: str) -> bool:
    """Return False for an image that was merged by a tag in its prompt, which brings the merge back by itself."""
    return first_pass(params.get(infotext, "")) != "" and "<pm:" not in params.get("Prompt", "")


def _pasted(params: Mapping[str, Any], infotext: str) -> Choice | None:
    """Return how an image was merged, None if it was not, or in a mode that this version does not know."""
    try:
        return parse_pm(Tag.of("pm", first_pass(params[infotext]))) if infotext in params else None
    except MergeInputError:
        return None


def _pasted_mode(params: Mapping[str, Any], infotext: str) -> Any:
    found = _pasted(params, infotext)
    return found.mode.id if found else gr.update()


def _pasted_option(name: str, infotext: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what sets an option's control: the image's value or the default, if the image's mode has the option."""

    def paste(params: Mapping[str, Any]) -> Any:
        found = _pasted(params, infotext)
        return control_value(name, found.values[name]) if found and name in found.values else gr.update()

    return paste
