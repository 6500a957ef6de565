"""The page on which LoRAs are merged into a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError, counted
from lib_pm.merging.recipe import DEFAULT_MODE
from lib_pm.merging.report import Report
from lib_pm.prompt.parse import LoraTag, write_lora
from lib_pm.prompt.tag import tags_of
from lib_pm.render.messages import note_html, problem_html
from lib_pm.ui.card_form import draw_card_form
from lib_pm.ui.draft_controls import DraftControls, draft_of, draft_values, draw_mode, draw_text
from lib_pm.ui.inputs import Inputs
from lib_pm.ui.job_status import JobStatus, draw_job_status, run_on_click
from lib_pm.ui.lora_lists import Listing, choices_of, data_html, marker
from lib_pm.ui.recipe_form import draw_recipe_form
from lib_pm.ui.save_form import EMPTY_NAME, draw_save_form, target_of
from lib_pm.workspace.draft import Draft, from_prompt
from lib_pm.workspace.job_queue import Job
from lib_pm.workspace.jobs import default_name, read_draft, submit_analyse, submit_merge
from lib_pm.workspace.workspace import Workspace

PAGES = ("txt2img", "img2img")


@dataclass(frozen=True)
class MergePage:
    """check: shows problems. refresh: the button that updates all lists. merged: the event after a merge."""

    draft: DraftControls
    check: Any
    job_status: JobStatus
    refresh: Any
    merged: Any
    lists: list[Listing]


def draw_merge(workspace: Workspace, page_controls: Mapping[str, Any]) -> MergePage:
    """Draw the page. page_controls: the prompts of the WebUI's own pages by elem_id; some may be missing."""
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            data = gr.HTML(elem_id="pm_data")
            gr.HTML(elem_id="pm_rows")
            with gr.Row(elem_id="pm_add_row"):
                add = gr.Dropdown([], label="LoRA", elem_id="pm_add", interactive=True)
                add_button = gr.Button("Add", elem_id="pm_add_button", min_width=80)
            text = draw_text()
            check = gr.HTML(elem_id="pm_check")
            goto = gr.HTML(elem_id="pm_goto")
            exchange = _draw_exchange(page_controls)
            refresh = gr.Button("Refresh lists", elem_id="pm_refresh")
        with gr.Column(scale=2, min_width=320):
            draft = draw_mode(text, DEFAULT_MODE)
            recipes = draw_recipe_form(workspace, draft, check)
    form = draw_save_form(workspace, "pm_save")
    with gr.Row():
        compare = gr.Button("Analyse", elem_id="pm_analyse")
        merge = gr.Button("Merge and save", variant="primary", elem_id="pm_merge")
    job_status = draw_job_status(workspace, "pm_merge")
    saved = gr.HTML(elem_id="pm_saved")
    card = draw_card_form(workspace)

    def add_line(name: str | None, text: str) -> list[Any]:
        try:
            return ["\n".join(filter(None, [text.rstrip(), write_lora(LoraTag(name)) if name else ""])), gr.update()]
        except MergeInputError as error:
            return [gr.update(), problem_html(str(error))]

    add_button.click(add_line, inputs=[add, text], outputs=[text, check], show_progress="hidden", queue=False)
    for control in draft.all:
        control.change(
            _checker(workspace), inputs=draft.all, outputs=[check, form.name], show_progress="hidden", queue=False
        )
    for page, (get, insert) in exchange.items():
        prompt = page_controls[f"{page}_prompt"]
        get.click(_getter(workspace), inputs=[prompt], outputs=[*draft.all, check], show_progress="hidden", queue=False)
        insert.click(
            _inserter(workspace, page),
            inputs=[prompt, *draft.all],
            outputs=[prompt, check, goto],
            show_progress="hidden",
            queue=False,
        )

    inputs = Inputs(device=form.device, target=form.fields, draft=draft.all)

    def submit_compare(device: str, *draft: Any) -> Job:
        return submit_analyse(workspace, draft_of(*draft), device)

    def submit(device: str, target: list[Any], draft: list[Any]) -> Job:
        return submit_merge(workspace, draft_of(*draft), target_of(*target), device)

    def after(reports: list[Report]) -> list[Any]:
        report = reports[0]
        return [marker("saved", report.file), *card.offer(report)]

    run_on_click(compare, workspace, job_status, submit_compare, [form.device, *draft.all])
    merged = run_on_click(
        merge, workspace, job_status, inputs.call(submit), inputs.controls, [saved, *card.outputs], after
    )
    lists: list[Listing] = [
        (data, lambda loras: data_html(loras, workspace.presets())),
        (add, choices_of),
        form.listing,
        recipes,
    ]
    return MergePage(draft, check, job_status, refresh, merged, lists)


def _draw_exchange(page_controls: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return, for each page with a prompt, a button that gets its LoRAs and one that inserts the draft."""
    buttons = {}
    for page in PAGES:
        if f"{page}_prompt" in page_controls:
            with gr.Row():
                get = gr.Button(f"Get from {page}", elem_id=f"pm_get_{page}", min_width=120)
                insert = gr.Button(f"Insert into {page}", elem_id=f"pm_insert_{page}", min_width=120)
            buttons[page] = (get, insert)
    return buttons


def _checker(workspace: Workspace) -> Callable[..., list[Any]]:
    """Return a handler that describes the draft, and saves it for the next time the page is opened."""

    def check(*values: Any) -> list[Any]:
        try:
            draft = draft_of(*values)
        except MergeInputError as error:  # an option is no number: that is no draft to keep
            return [problem_html(workspace.public(str(error))), gr.update()]
        try:
            message, name = _describe(workspace, draft) if draft.text.strip() else ("", EMPTY_NAME)
        except MergeInputError as error:
            message, name = problem_html(workspace.public(str(error))), None
        return [message + _save_last(workspace, draft), gr.update() if name is None else gr.update(placeholder=name)]

    return check


def _save_last(workspace: Workspace, draft: Draft) -> str:
    """Save the draft, even one that cannot be merged yet. Return the problem if that fails, else ""."""
    try:
        workspace.recipes.keep_last(draft)
    except MergeInputError as error:
        return problem_html(workspace.public(str(error)))
    return ""


def _describe(workspace: Workspace, draft: Draft) -> tuple[str, str]:
    """Return a description of the draft, and the name that its file would get."""
    recipe = read_draft(workspace, draft)
    kinds, on = ([tag.kind for tag in tags_of(text)] for text in (draft.text, draft.enabled_text))
    off = (len(kinds) - kinds.count("pm")) - (len(on) - on.count("pm"))
    mode = f", mode {recipe.mode.id} from the <pm:…> tag" if "pm" in on else ""
    count = counted(len(recipe.loras), "LoRA")
    return note_html(f"{count}{f', {off} disabled' if off else ''}{mode}."), default_name(recipe)


def _getter(workspace: Workspace) -> Callable[[str], list[Any]]:
    """Return a handler that takes the LoRAs and the mode of a prompt into the draft, by their names in the list."""

    def name_of(name: str) -> str:
        try:
            return workspace.name_of(workspace.find(name))
        except MergeInputError:
            return name  # the check says that there is none

    def get(prompt: str) -> list[Any]:
        try:
            return [*draft_values(from_prompt(prompt, name_of)), gr.update()]
        except MergeInputError as error:
            return [*(gr.update() for _ in draft_values(Draft())), problem_html(str(error))]

    return get


def _inserter(workspace: Workspace, page: str) -> Callable[..., list[Any]]:
    """Return a handler that replaces the tags in a page's prompt by the draft, and opens that page."""

    def insert(prompt: str, *values: Any) -> list[Any]:
        try:
            draft = draft_of(*values)
            read_draft(workspace, draft)
            return [draft.insert_into(prompt), gr.update(), marker("goto", page)]
        except MergeInputError as error:
            return [gr.update(), problem_html(workspace.public(str(error))), gr.update()]

    return insert
