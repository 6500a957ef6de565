"""The controls that hold a draft: text, mode and options, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_pm.core.choices import APPLY, DTYPES
from lib_pm.ui.mode_controls import ModeControls, mode_controls, mode_values, panel_choice
from lib_pm.workspace.draft import Draft

_PLACEHOLDER = "<lora:style:0.8>\n<lora:character:0.6:lbw=MIDD>\n# <lora:disabled:1>"


@dataclass(frozen=True)
class DraftControls:
    text: Any
    mode: ModeControls
    apply: Any
    dtype: Any
    exact: Any

    @property
    def all(self) -> list[Any]:
        """Return all controls in the order of `draft_of` and `draft_values`."""
        return [self.text, *self.mode.all, self.apply, self.dtype, self.exact]


def draw_text() -> Any:
    return gr.Textbox(
        "",
        label="LoRAs, one per line (# disables a line)",
        placeholder=_PLACEHOLDER,
        lines=5,
        max_lines=20,
        elem_id="pm_recipe",
    )


def draw_mode(text: Any, mode: str) -> DraftControls:
    """Draw the controls beside the text."""
    # The tab makes files; `full` is taken where another page or a prompt says it.
    controls = mode_controls(mode, lambda name: f"pm_{name}", info=lambda option: option.in_files.help)
    apply = gr.Radio(list(APPLY), value=APPLY[0], label="Apply to", elem_id="pm_apply")
    with gr.Accordion("Computation", open=False):
        dtype = gr.Dropdown(list(DTYPES), value="float32", label="Computation dtype", elem_id="pm_dtype")
        exact = gr.Checkbox(False, label="More exact truncation (slower)", elem_id="pm_exact")
    return DraftControls(text, controls, apply, dtype, exact)


def draft_of(text: str, mode: str, *values: Any) -> Draft:
    """Return the draft that the controls describe. A MergeInputError names an option that is wrong."""
    *options, apply, dtype, exact = values
    return Draft(text, panel_choice(mode, options), apply, dtype, "exact" if exact else "normal")


def draft_values(draft: Draft) -> list[Any]:
    """Return what the controls show for a draft."""
    return [draft.text, *mode_values(draft.choice), draft.apply, draft.dtype, draft.precision == "exact"]
