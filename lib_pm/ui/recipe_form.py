"""Recipes saved by name: save, load, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError
from lib_pm.render.messages import note_html, problem_html
from lib_pm.ui.draft_controls import DraftControls, draft_of, draft_values
from lib_pm.ui.lora_lists import Listing
from lib_pm.workspace.workspace import Workspace


def draw_recipe_form(workspace: Workspace, draft: DraftControls, status: Any) -> Listing:
    """Draw the form. Return the list of recipes. status: where the result is shown."""
    with gr.Accordion("Saved recipes", open=False):
        name = gr.Dropdown(
            [],
            label="Recipe",
            info="Choose a recipe to load, or type a new name to save.",
            allow_custom_value=True,
            interactive=True,
            elem_id="pm_recipe_name",
        )
        overwrite = gr.Checkbox(False, label="Overwrite an existing recipe", elem_id="pm_recipe_overwrite")
        with gr.Row():
            load = gr.Button("Load", elem_id="pm_recipe_load", min_width=80)
            save = gr.Button("Save", elem_id="pm_recipe_save", min_width=80)
            delete = gr.Button("Delete", elem_id="pm_recipe_delete", min_width=80)

    def names(_: object = None) -> Any:
        return gr.update(choices=workspace.recipes.names())

    def save_recipe(name: str | None, overwrite: bool, *values: Any) -> str:
        workspace.recipes.save(name or "", draft_of(*values), overwrite=overwrite)
        return f"Saved the recipe {name}."

    def delete_recipe(name: str | None) -> str:
        workspace.recipes.delete(name or "")
        return f"Deleted the recipe {name}."

    def load_recipe(name: str | None) -> list[Any]:
        try:
            return [*draft_values(workspace.recipes.load(name or "")), gr.update()]
        except MergeInputError as error:
            return [*(gr.update() for _ in draft.all), problem_html(str(error))]

    load.click(load_recipe, inputs=[name], outputs=[*draft.all, status], show_progress="hidden", queue=False)
    for button, act, inputs in ((save, save_recipe, [name, overwrite, *draft.all]), (delete, delete_recipe, [name])):
        button.click(
            _with_message(act, names), inputs=inputs, outputs=[status, name], show_progress="hidden", queue=False
        )
    return name, names


def _with_message(act: Callable[..., str], names: Callable[[], Any]) -> Callable[..., list[Any]]:
    """Return a handler that shows what `act` returns, or its MergeInputError, and updates the list."""

    def do(*values: Any) -> list[Any]:
        try:
            return [note_html(act(*values)), names()]
        except MergeInputError as error:
            return [problem_html(str(error)), gr.update()]

    return do
