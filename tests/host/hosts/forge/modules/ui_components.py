from __future__ import annotations

from typing import Any

import gradio as gr


class InputAccordionImpl(gr.Checkbox):
    def __init__(self, value: bool | None = None, setup: bool = False, **kwargs: Any):
        super().__init__(value, **(kwargs | {"visible": False}))
        if setup:
            self.accordion = gr.Accordion(kwargs.get("label", "Accordion"), open=value, elem_id=kwargs.get("elem_id"))

    def extra(self) -> gr.Block:
        return gr.Column(min_width=0)

    def __enter__(self) -> InputAccordionImpl:
        self.accordion.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.accordion.__exit__(*error)


def InputAccordion(value: bool | None = None, **kwargs: Any) -> InputAccordionImpl:  # noqa: N802 (Forge's: a function)
    return InputAccordionImpl(value=value, setup=True, **kwargs)
