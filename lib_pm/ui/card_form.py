"""The form for the WebUI's card of a new LoRA, filled in with the inputs' activation texts and a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError
from lib_pm.files.library import clear_name
from lib_pm.merging.report import Report
from lib_pm.render.messages import note_html, problem_html
from lib_pm.workspace.card import Card, find_picture, joined_activation, read_card, write_card
from lib_pm.workspace.workspace import Workspace

_NO_PICTURE = "(none)"


@dataclass(frozen=True)
class CardForm:
    """offer: returns the new states of the outputs for a LoRA that was written."""

    outputs: list[Any]
    offer: Callable[[Report], list[Any]]


def draw_card_form(workspace: Workspace) -> CardForm:
    written = gr.State("")
    with gr.Column(visible=False, elem_id="pm_card") as group:
        gr.HTML("<p>Card for the new LoRA</p>")
        with gr.Row():
            activation = gr.Textbox("", label="Activation text", elem_id="pm_card_activation")
            picture = gr.Dropdown(
                [_NO_PICTURE], value=_NO_PICTURE, label="Use picture from", elem_id="pm_card_picture", interactive=True
            )
            save = gr.Button("Save card", elem_id="pm_card_save", min_width=80)
        status = gr.HTML(elem_id="pm_card_status")

    def offer(report: Report) -> list[Any]:
        inputs = [lora.name for lora in report.loras]
        cards = {name: _card(workspace, name) for name in inputs}
        pictures = [name for name, card in cards.items() if card.picture]
        return [
            report.file,
            gr.update(visible=True),
            joined_activation(cards.values()),
            gr.update(choices=[_NO_PICTURE, *pictures], value=pictures[0] if pictures else _NO_PICTURE),
            "",
        ]

    def write(name: str, activation: str, picture: str | None) -> str:
        try:
            chosen = None if not picture or picture == _NO_PICTURE else find_picture(workspace.find(picture))
            path = workspace.library.find(
                clear_name(name)
            )  # not by the WebUI, for which it may be another of that name
            write_card(path, Card(activation, chosen))
            workspace.announce(path)
            return note_html(f"Saved the card of {name}.")
        except MergeInputError as error:
            return problem_html(workspace.public(str(error)))

    save.click(write, inputs=[written, activation, picture], outputs=[status], show_progress="hidden", queue=False)
    return CardForm([written, group, activation, picture, status], offer)


def _card(workspace: Workspace, name: str) -> Card:
    """Return the card of a LoRA, an empty one if the name is ambiguous: a card is an offer, not a reason to fail."""
    try:
        return read_card(workspace.find(name))
    except MergeInputError:
        return Card()
