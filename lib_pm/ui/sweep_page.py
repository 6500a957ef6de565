"""The page that fills the WebUI's own X/Y/Z plot with the sweeps of LoRA Power-Merger's three XY nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from lib_pm.core.choices import APPLY
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.render.messages import note_html, problem_html
from lib_pm.sweep.axes import PREFIX
from lib_pm.sweep.sweeps import MODES_TO_COMPARE, Sweep, sweep_modes, sweep_ranks, sweep_strengths
from lib_pm.ui.draft_controls import DraftControls, draft_of
from lib_pm.ui.inputs import Inputs
from lib_pm.ui.lora_lists import marker
from lib_pm.workspace.jobs import read_draft
from lib_pm.workspace.workspace import Workspace

PLOT = "X/Y/Z plot"  # as the list of scripts calls it
_SCRIPT = "script_list"
_NO_PLOT = "<p>The WebUI's X/Y/Z plot was not found; these sweeps need it.</p>"


def draw_sweeps(workspace: Workspace, draft: DraftControls, page_controls: Mapping[str, Any]) -> None:
    """Draw the page. page_controls: the controls of the WebUI's txt2img page, those of its plot among them."""
    plot = plot_controls(page_controls)
    if not plot:
        gr.HTML(_NO_PLOT)
    with gr.Row():
        with gr.Column(min_width=260):
            gr.HTML("<p><b>Strengths</b> of the first LoRA against the second</p>")
            strengths = [*_range(0, 1, 4, "pm_sweep_strengths"), _part()]
            first = gr.Button("Fill the plot: strengths", elem_id="pm_fill_strengths", interactive=bool(plot))
        with gr.Column(min_width=260):
            gr.HTML("<p><b>Modes</b> against densities</p>")
            modes = [
                gr.Textbox(MODES_TO_COMPARE, label="Modes", elem_id="pm_sweep_modes"),
                *_range(0, 1, 4, "pm_sweep_modes"),
            ]
            second = gr.Button("Fill the plot: modes", elem_id="pm_fill_modes", interactive=bool(plot))
        with gr.Column(min_width=260):
            gr.HTML("<p><b>Ranks</b> of one mode</p>")
            truncating = [id for id, mode in MODES.items() if "svd_rank" in mode.options]
            ranks = [
                gr.Dropdown(truncating, value="add_svd", label="Mode", elem_id="pm_sweep_ranks_mode"),
                gr.Slider(0, 1, value=1, step=0.01, label="Density", elem_id="pm_sweep_ranks_density"),
                *_range(1, 64, 4, "pm_sweep_ranks", whole=True),
            ]
            third = gr.Button("Fill the plot: ranks", elem_id="pm_fill_ranks", interactive=bool(plot))
    insert = gr.Checkbox(
        True, label="Also insert the LoRAs and the mode from the Merge page into the prompt", elem_id="pm_sweep_insert"
    )
    status = gr.HTML(elem_id="pm_sweep_status")
    goto = gr.HTML(elem_id="pm_sweep_goto")
    if not plot:
        return
    prompt = page_controls["txt2img_prompt"]
    for button, sweep, values in (
        (first, sweep_strengths, strengths),
        (second, sweep_modes, modes),
        (third, sweep_ranks, ranks),
    ):
        inputs = Inputs(sweep=values, insert=insert, prompt=prompt, draft=draft.all)
        button.click(
            inputs.call(_filler(workspace, sweep, len(plot))),
            inputs=inputs.controls,
            outputs=[*plot, prompt, status, goto],
            show_progress="hidden",
            queue=False,
        )


def plot_controls(page_controls: Mapping[str, Any]) -> list[Any]:
    """Return the list of scripts, then type and values of X, Y and Z; nothing unless all are there."""
    ids = [_SCRIPT, *(f"script_txt2img_xyz_plot_{axis}_{part}" for axis in "xyz" for part in ("type", "values"))]
    ids += ["script_txt2img_xyz_plot_csv_mode"]
    return [page_controls[id] for id in ids] if all(id in page_controls for id in (*ids, "txt2img_prompt")) else []


def _filler(workspace: Workspace, make: Callable[..., Sweep], plot_size: int) -> Callable[..., list[Any]]:
    """Return the function that fills the plot with a sweep. plot_size: how many controls the plot has."""

    def fill(sweep: list[Any], insert: bool, prompt: str, draft: list[Any]) -> list[Any]:
        text, *_ = draft
        try:
            if None in sweep:
                raise MergeInputError("A number is missing; fill in every field of the sweep.")
            filled = make(*sweep)
            if insert and text.strip():
                recipe = draft_of(*draft)
                read_draft(workspace, recipe)
                prompt = recipe.insert_into(prompt)
        except MergeInputError as error:
            return [
                *(gr.update() for _ in range(plot_size)),
                gr.update(),
                problem_html(workspace.public(str(error))),
                gr.update(),
            ]
        axes = [
            value
            for name, values in (filled.x, filled.y, filled.z)
            for value in (PREFIX + name if name else "Nothing", values)
        ]
        message = note_html("The X/Y/Z plot of txt2img is filled in; press Generate there.")
        return [PLOT, *axes, True, prompt, message, marker("goto", "txt2img")]

    return fill


def _range(low: float, high: float, steps: int, elem_id: str, *, whole: bool = False) -> list[Any]:
    precision = 0 if whole else None
    return [
        gr.Number(low, precision=precision, label="From", elem_id=f"{elem_id}_low", min_width=80),
        gr.Number(high, precision=precision, label="To", elem_id=f"{elem_id}_high", min_width=80),
        gr.Number(steps, precision=0, label="Steps", elem_id=f"{elem_id}_steps", min_width=80),
    ]


def _part() -> Any:
    return gr.Radio(list(APPLY), value=APPLY[0], label="Apply to", elem_id="pm_sweep_apply")
