"""The page that shows what is in a LoRA's file."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError
from lib_pm.files.contents import Inspection, inspect_file
from lib_pm.files.metadata import RECIPE_KEY
from lib_pm.ui.draft_controls import DraftControls, draft_values
from lib_pm.ui.lora_lists import Listing, choices_of
from lib_pm.ui.messages import problem_html, table_html
from lib_pm.workspace.draft import from_recipe
from lib_pm.workspace.workspace import Desk


def draw_inspect(desk: Desk, draft: DraftControls, pages: Any) -> list[Listing]:
    """Draw the page. Return its lists. pages: the tabs, of which "merge" opens when a recipe is loaded."""
    with gr.Row():
        lora = gr.Dropdown([], label="LoRA", elem_id="pm_inspect_lora", interactive=True)
        look = gr.Button("Inspect", elem_id="pm_inspect_go", min_width=80)
        load = gr.Button("Load recipe into Merge", visible=False, elem_id="pm_inspect_load")
    found = gr.HTML(elem_id="pm_inspect_found")

    def inspect(name: str | None) -> list[Any]:
        try:
            inspection = inspect_file(desk.find(name or ""))
        except MergeInputError as error:
            return [problem_html(desk.public(str(error))), gr.update(visible=False)]
        return [inspection_html(inspection), gr.update(visible=inspection.recipe is not None)]

    def load_recipe(name: str | None) -> list[Any]:
        try:
            recipe = inspect_file(desk.find(name or "")).recipe or {}
            return [gr.update(selected="merge"), gr.update(), *draft_values(from_recipe(recipe))]
        except MergeInputError as error:
            return [gr.update(), problem_html(desk.public(str(error))), *(gr.update() for _ in draft.all)]

    look.click(inspect, inputs=[lora], outputs=[found, load], show_progress="hidden", queue=False)
    lora.change(inspect, inputs=[lora], outputs=[found, load], show_progress="hidden", queue=False)
    load.click(load_recipe, inputs=[lora], outputs=[pages, found, *draft.all], show_progress="hidden", queue=False)
    return [(lora, choices_of)]


def inspection_html(found: Inspection) -> str:
    """Return the text of the command line, then each layer and the whole metadata in parts that open on a click."""
    layers = [
        (name, layer["shape"], layer["rank"], f"{layer['alpha']:g}", layer["block"], layer["kind"])
        for name, layer in found.layers.items()
    ]
    metadata = [(key, value) for key, value in sorted(found.metadata.items()) if key != RECIPE_KEY]
    tables = {
        f"Layers ({len(layers)})": table_html(("layer", "shape", "rank", "alpha", "block", "kind"), layers),
        f"Tags ({len(found.tags)})": table_html(("tag", "count"), found.tags.items()),
        f"Metadata ({len(metadata)})": table_html(("key", "value"), metadata),
    }
    details = "".join(f"<details><summary>{title}</summary>{table}</details>" for title, table in tables.items())
    return f'<div class="pm-report"><pre>{html.escape(found.to_text())}</pre>{details}</div>'
