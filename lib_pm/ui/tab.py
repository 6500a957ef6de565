"""The tab "Power Merger": merge, resize, inspect, and sweeps for the X/Y/Z plot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr

from lib_pm.core.errors import MergeInputError
from lib_pm.render.messages import problem_html
from lib_pm.ui.draft_controls import draft_values
from lib_pm.ui.inspect_page import draw_inspect
from lib_pm.ui.job_status import watch_current
from lib_pm.ui.merge_page import draw_merge
from lib_pm.ui.resize_page import draw_resize
from lib_pm.ui.sweep_page import draw_sweeps
from lib_pm.workspace.workspace import Workspace

TITLE = "Power Merger"


def build(workspace: Workspace, page_controls: Mapping[str, Any] | None = None) -> Any:
    """Return the tab as Blocks. page_controls: controls of the WebUI's own pages by elem_id; some may be missing."""
    page_controls = page_controls or {}
    with gr.Blocks(analytics_enabled=False) as tab:
        with gr.Column(elem_id="pm_tab"), gr.Tabs(elem_id="pm_pages") as pages:
            with gr.TabItem("Merge", id="merge"):
                merge = draw_merge(workspace, page_controls)
            with gr.TabItem("Resize", id="resize"):
                resized, resize_lists = draw_resize(workspace)
            with gr.TabItem("Inspect", id="inspect"):
                lists = [*merge.lists, *resize_lists, *draw_inspect(workspace, merge.draft, pages)]
            with gr.TabItem("X/Y/Z plot", id="sweeps"):
                draw_sweeps(workspace, merge.draft, page_controls)

        def refresh() -> list[Any]:
            try:
                loras = workspace.loras()
                return [*(new(loras) for _, new in lists), gr.update()]
            except MergeInputError as error:
                return [*(gr.update() for _ in lists), problem_html(workspace.public(str(error)))]

        def last(typed: str) -> list[Any]:
            if typed:  # before the page was whole
                return [gr.update() for _ in merge.draft.all]
            return draft_values(workspace.recipes.last)

        listed = [*(control for control, _ in lists), merge.check]
        merge.refresh.click(refresh, outputs=listed, show_progress="hidden", queue=False)
        for written in (merge.merged, resized):  # a `change` of an HTML would do it, but gradio 4 calls it without end
            written.then(refresh, outputs=listed, show_progress="hidden", queue=False)
        tab.load(refresh, outputs=listed, show_progress="hidden", queue=False)
        tab.load(last, inputs=[merge.draft.text], outputs=merge.draft.all, show_progress="hidden", queue=False)
        tab.load(partial(watch_current, workspace), outputs=merge.job_status.outputs, show_progress="hidden")
    for block in tab.blocks.values():
        block.do_not_save_to_config = True  # A1111 would give all controls of one label the value of the first one
    return tab
