"""Recipes kept by name: save, load, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError
from lib_pm.ui.draft_controls import DraftControls, draft_of, draft_values
from lib_pm.ui.lora_lists import Listing
from lib_pm.ui.messages import note_html, problem_html
from lib_pm.workspace.workspace import Desk


def draw_recipe_form(desk: Desk, draft: DraftControls, told: Any) -> Listing:
    """Draw it. told: where it is said what happened. Returns the list of recipes."""
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
        return gr.update(choices=desk.recipes.names())

    def saved(name: str | None, overwrite: bool, *values: Any) -> str:
        desk.recipes.save(name or "", draft_of(*values), overwrite=overwrite)
        return f"Saved the recipe {name}."

    def deleted(name: str | None) -> str:
        desk.recipes.delete(name or "")
        return f"Deleted the recipe {name}."

    def loaded(name: str | None) -> list[Any]:
        try:
            return [*draft_values(desk.recipes.load(name or "")), gr.update()]
        except MergeInputError as error:
            return [*(gr.update() for _ in draft.all), problem_html(str(error))]

    load.click(loaded, inputs=[name], outputs=[*draft.all, told], show_progress="hidden", queue=False)
    for button, act, inputs in ((save, saved, [name, overwrite, *draft.all]), (delete, deleted, [name])):
        button.click(_told(act, names), inputs=inputs, outputs=[told, name], show_progress="hidden", queue=False)
    return name, names


def _told(act: Callable[..., str], names: Callable[[], Any]) -> Callable[..., list[Any]]:
    def do(*values: Any) -> list[Any]:
        try:
            return [note_html(act(*values)), names()]
        except MergeInputError as error:
            return [problem_html(str(error)), gr.update()]

    return do
