"""The tab, drawn over a folder of small LoRAs, with the WebUI's own controls that it reads and fills."""

from __future__ import annotations

import shutil
from typing import Any

import gradio as gr
import pytest

from lib_pm.ui import job_status, tab
from lib_pm.workspace.job_queue import Queue
from tests.ui.page import Page
from tests.workspaces import RecordingWorkspace, fill

PLOT = "script_txt2img_xyz_plot_"


def webui_controls() -> dict[str, Any]:
    """The prompts and the X/Y/Z plot, as the WebUI draws them."""
    names = {"txt2img_prompt", "img2img_prompt", "script_list", f"{PLOT}csv_mode"}
    names |= {f"{PLOT}{axis}_{part}" for axis in "xyz" for part in ("type", "values")}
    return {name: gr.Textbox("", elem_id=name) for name in sorted(names)}


@pytest.fixture(scope="session")
def _drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordingWorkspace, Page]:
    """Drawn once: with gradio 6 that takes a second."""
    workspace = RecordingWorkspace(tmp_path_factory.mktemp("tab") / "loras", tmp_path_factory.mktemp("data") / "data")
    with pytest.MonkeyPatch.context() as patch:
        page = Page(patch)
        with gr.Blocks():
            outside = webui_controls()
        tab.build(workspace, outside)
    return workspace, page


@pytest.fixture
def workspace(_drawn: tuple[RecordingWorkspace, Page]) -> RecordingWorkspace:
    """With the same files and nothing done yet."""
    workspace, _ = _drawn
    for folder in workspace.folder.parent, workspace.recipes.folder:
        shutil.rmtree(folder, ignore_errors=True)
    fill(workspace.folder)
    workspace.queue, workspace.announced, workspace.turns = Queue(), [], []
    return workspace


@pytest.fixture
def page(
    workspace: RecordingWorkspace, _drawn: tuple[RecordingWorkspace, Page], monkeypatch: pytest.MonkeyPatch
) -> Page:
    """As it is when it was opened."""
    monkeypatch.setattr(job_status, "INTERVAL", 0.01)
    _, page = _drawn
    page.open()
    page.load()
    return page
