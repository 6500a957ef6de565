"""The tab's controls hold whatever: each handler shows something, which can be sent to the page."""

from __future__ import annotations

import os
import random
from typing import Any

import gradio as gr

from tests.fuzz.requests import NUMBERS, TEXTS
from tests.ui.page import Page
from tests.workspaces import RecordingWorkspace

COUNT = int(os.environ.get("PM_FUZZ", "1000"))  # calls of handlers


def held(pick: random.Random, control: Any) -> Any:
    """What the control of a page can hold: an emptied number or dropdown is None."""
    if isinstance(control, gr.Checkbox):
        return pick.choice([True, False])
    if isinstance(control, (gr.Number, gr.Slider)):
        return pick.choice([None, *(number for number in NUMBERS if abs(number) < 1e300)])
    if getattr(control, "multiselect", None):
        return pick.choice([None, [], ["style"], ["style", "sub/char"], [pick.choice(TEXTS)]])
    if isinstance(control, gr.Textbox):
        return pick.choice(TEXTS)
    return pick.choice([None, *TEXTS, *(choice[-1] for choice in getattr(control, "choices", None) or () if choice)])


def test_no_handler_fails(page: Page, workspace: RecordingWorkspace) -> None:
    pick = random.Random(1)
    names = sorted(page.handlers)
    for number in range(COUNT):
        if not number % 10:
            page.open()
            page.load()
            page.values |= {"pm_recipe": "<lora:style:1>", "pm_save_device": "cpu", "pm_resize_device": "cpu"}
        name, event = pick.choice(names)
        controls = {control.elem_id: control for control in page.inputs(name, event) if control.elem_id}
        chosen = pick.sample(sorted(controls), min(len(controls), pick.choice([1, 1, 2, 3])))
        values = {id: held(pick, controls[id]) for id in chosen}
        try:
            for _ in page.start(name, event, **values):
                pass
            for shown in page.values.values():
                if str(shown).startswith(("<p", "<div")):
                    shown.encode()
        except Exception as error:
            raise AssertionError(f"call {number}: {event} of {name} with {values!r:.1000}") from error
    assert not [job.error for job in workspace.queue.jobs if job.error[:1].isupper() and "Error: " in job.error[:40]]
