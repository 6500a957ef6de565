from __future__ import annotations

from typing import Any

import gradio as gr


class InputAccordion(gr.Checkbox):
    """An accordion whose being open is a value: a hidden checkbox, and the accordion that follows it."""

    def __init__(self, value: bool, **kwargs: Any):
        super().__init__(value, **(kwargs | {"visible": False}))
        self.accordion = gr.Accordion(kwargs.get("label", "Accordion"), open=value, elem_id=kwargs.get("elem_id"))

    def extra(self) -> gr.Block:
        return gr.Column(min_width=0)

    def __enter__(self) -> InputAccordion:
        self.accordion.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.accordion.__exit__(*error)
