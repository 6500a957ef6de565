"""The page that changes the rank of LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from lib_pm.merging.report import Report
from lib_pm.merging.resize import RULES, NewRank
from lib_pm.ui.inputs import Inputs
from lib_pm.ui.job_status import draw_job_status, run_on_click
from lib_pm.ui.lora_lists import Listing, choices_of, marker
from lib_pm.ui.save_form import draw_save_form, target_of
from lib_pm.workspace.job_queue import Job
from lib_pm.workspace.jobs import submit_resize
from lib_pm.workspace.workspace import Workspace

FIXED = "fixed rank"
_EXPLANATION = (
    "<p>Each layer gets the best approximation at the rank you choose. A rule chooses the rank layer by layer, up to "
    "that rank: sv_ratio keeps singular values above the largest / N; sv_fro and sv_cumulative keep a share of the "
    "norm or of the sum. Preview shows what would be kept, and writes nothing.</p>"
)


def draw_resize(workspace: Workspace) -> tuple[Any, list[Listing]]:
    """Draw the page. Return the event after a resize, and the page's lists."""
    gr.HTML(_EXPLANATION)
    loras = gr.Dropdown([], multiselect=True, label="LoRAs", elem_id="pm_resize_loras", interactive=True)
    with gr.Row():
        rank = gr.Number(16, precision=0, label="Rank", info="0 leaves it to the rule.", elem_id="pm_resize_rank")
        conv_rank = gr.Number(
            0,
            precision=0,
            label="Conv rank",
            info="For convolutions larger than 1×1. 0: same as the rank.",
            elem_id="pm_resize_conv",
        )
        rule = gr.Dropdown([FIXED, *RULES], value=FIXED, label="Rule", elem_id="pm_resize_rule")
        value = gr.Number(
            0.95, label="Rule value", info="sv_ratio: 1 or more. Other rules: 0 to 1.", elem_id="pm_resize_value"
        )
    form = draw_save_form(workspace, "pm_resize", merges=False)
    with gr.Row():
        preview_button = gr.Button("Preview", elem_id="pm_resize_look")
        resize = gr.Button("Resize and save", variant="primary", elem_id="pm_resize_go")
    job_status = draw_job_status(workspace, "pm_resize")
    saved = gr.HTML(elem_id="pm_resized")
    inputs = Inputs(names=loras, rank=[rank, conv_rank, rule, value], device=form.device, target=form.fields)

    def submit(names: list[str] | None, rank: list[Any], device: str, target: list[Any], preview: bool = False) -> Job:
        return submit_resize(workspace, names or [], _new_rank(*rank), target_of(*target), device, preview=preview)

    def after(reports: Sequence[Report]) -> list[Any]:
        return [marker("saved", reports[-1].file)]

    run_on_click(preview_button, workspace, job_status, inputs.call(partial(submit, preview=True)), inputs.controls)
    resized = run_on_click(resize, workspace, job_status, inputs.call(submit), inputs.controls, [saved], after)
    return resized, [(loras, choices_of), form.listing]


def _new_rank(rank: float | None, conv_rank: float | None, rule: str, value: float | None) -> NewRank:
    """Return the new rank. The number of an emptied field is None."""
    return NewRank.of_form(int(rank or 0), int(conv_rank or 0), "" if rule == FIXED else f"{rule}={value}")
