"""The page that shows what is in a LoRA's file."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError
from lib_pm.files.contents import inspect_file
from lib_pm.render.inspection_html import inspection_html
from lib_pm.render.messages import problem_html
from lib_pm.ui.draft_controls import DraftControls, draft_values
from lib_pm.ui.lora_lists import Listing, choices_of
from lib_pm.workspace.draft import from_recipe
from lib_pm.workspace.workspace import Workspace


def draw_inspect(workspace: Workspace, draft: DraftControls, pages: Any) -> list[Listing]:
    """Draw the page. Return its lists. pages: the tabs, of which "merge" opens when a recipe is loaded."""
    with gr.Row():
        lora = gr.Dropdown([], label="LoRA", elem_id="pm_inspect_lora", interactive=True)
        look = gr.Button("Inspect", elem_id="pm_inspect_go", min_width=80)
        load = gr.Button("Load recipe into Merge", visible=False, elem_id="pm_inspect_load")
    found = gr.HTML(elem_id="pm_inspect_found")

    def inspect(name: str | None) -> list[Any]:
        try:
            inspection = inspect_file(workspace.find(name or ""))
        except MergeInputError as error:
            return [problem_html(workspace.public(str(error))), gr.update(visible=False)]
        return [inspection_html(inspection), gr.update(visible=inspection.recipe is not None)]

    def load_recipe(name: str | None) -> list[Any]:
        try:
            recipe = inspect_file(workspace.find(name or "")).recipe or {}
            return [gr.update(selected="merge"), gr.update(), *draft_values(from_recipe(recipe))]
        except MergeInputError as error:
            return [gr.update(), problem_html(workspace.public(str(error))), *(gr.update() for _ in draft.all)]

    look.click(inspect, inputs=[lora], outputs=[found, load], show_progress="hidden", queue=False)
    lora.change(inspect, inputs=[lora], outputs=[found, load], show_progress="hidden", queue=False)
    load.click(load_recipe, inputs=[lora], outputs=[pages, found, *draft.all], show_progress="hidden", queue=False)
    return [(lora, choices_of)]
