"""The form that says where a LoRA is written, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_pm.core.choices import DEVICES, DTYPES, NAMES
from lib_pm.files.metadata import KEEP
from lib_pm.ui.lora_lists import Listing
from lib_pm.workspace.jobs import Target
from lib_pm.workspace.workspace import Workspace

EMPTY_NAME = "leave empty to use the LoRAs' names"
OWN_NAMES = "as in the LoRAs"
ROOT = "(LoRA folder)"  # a dropdown shows "" as if nothing were chosen


@dataclass(frozen=True)
class SaveForm:
    """fields: in the order of `target_of`. listing: the folders."""

    fields: list[Any]
    name: Any
    device: Any
    listing: Listing


def draw_save_form(workspace: Workspace, elem_id: str, *, merges: bool = True) -> SaveForm:
    """Draw the form. merges: whether several LoRAs become one file."""
    with gr.Row():
        name = gr.Textbox(
            "",
            label="File name",
            placeholder=EMPTY_NAME,
            max_lines=1,
            elem_id=f"{elem_id}_name",
        )
        folder = gr.Dropdown(
            [ROOT], value=ROOT, allow_custom_value=True, label="Folder", elem_id=f"{elem_id}_folder", interactive=True
        )
    with gr.Row():
        dtype = gr.Dropdown(list(DTYPES), value="float16", label="File dtype", elem_id=f"{elem_id}_save_dtype")
        device = gr.Dropdown(list(DEVICES), value=workspace.device, label="Device", elem_id=f"{elem_id}_device")
        keep = gr.Dropdown(
            list(KEEP),
            value="all",
            label="Metadata",
            info="all keeps the recipe and training tags; minimal keeps only what loaders need.",
            elem_id=f"{elem_id}_metadata",
        )
    with gr.Row():
        overwrite = gr.Checkbox(False, label="Overwrite an existing file", elem_id=f"{elem_id}_overwrite")
        force = gr.Checkbox(
            False, label="Merge LoRAs of different base models", visible=merges, elem_id=f"{elem_id}_force"
        )
        names = gr.Dropdown(
            [OWN_NAMES, *NAMES], value=OWN_NAMES, label="Layer names", visible=merges, elem_id=f"{elem_id}_names"
        )

    def folders(_: object) -> Any:
        return gr.update(choices=[folder or ROOT for folder in workspace.folders()])

    return SaveForm([name, folder, dtype, keep, overwrite, force, names], name, device, (folder, folders))


def target_of(
    name: str, folder: str, dtype: str, keep: str, overwrite: bool, force: bool, names: str = OWN_NAMES
) -> Target:
    folder, names = "" if folder == ROOT else folder or "", "" if names == OWN_NAMES else names or ""
    return Target(name, folder, dtype, keep, overwrite, force, names)
