"""The tab in a bare page, with the gradio of the Python that imports this. `/?plain` is it without its JavaScript."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

ROOT = Path(__file__).resolve().parent.parent.parent


def launch(folder: Path, data: Path) -> str:
    """Return the address of a page for the LoRAs of a folder."""
    add_to_head()
    page = build(folder, data)
    page.queue()
    page.launch(
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
        show_api=False,
        allowed_paths=[str(ROOT), str(folder)],
    )
    return str(page.local_url).rstrip("/")


@functools.cache  # for all pages
def add_to_head() -> None:
    """The tab's script and style in each page, in the way that the WebUIs do it."""
    original = gr.routes.templates.TemplateResponse
    scripts = sorted((ROOT / "javascript").glob("*.js"))

    def response(template: str, context: dict[str, Any]) -> Any:
        answer = original(template, context)
        plain = "plain" in context["request"].query_params
        head = "".join(f'<script src="file={path}"></script>' for path in scripts if not plain)
        style = f'<link rel="stylesheet" property="stylesheet" href="file={ROOT / "style.css"}">'
        answer.body = answer.body.replace(b"</head>", f"{head}</head>".encode())
        answer.body = answer.body.replace(b"</body>", f"{style}</body>".encode())
        answer.init_headers()
        return answer

    gr.routes.templates.TemplateResponse = response


def build(folder: Path, data: Path) -> Any:
    """The tab beside a prompt, put together as the WebUIs put their tabs together."""
    from lib_pm.ui import tab

    with gr.Blocks(analytics_enabled=False) as prompts:
        prompt = gr.Textbox(label="Prompt", lines=2, elem_id="txt2img_prompt")
    power_merger = tab.build(make_workspace(folder, data), {"txt2img_prompt": prompt})
    with gr.Blocks(title="Power Merger", analytics_enabled=False) as page:
        power_merger.render()
        prompts.render()
    return page


def make_workspace(folder: Path, data: Path) -> Any:
    """A workspace that knows aliases and pictures, as a WebUI's does, and starts each page with the same text."""
    from lib_pm.workspace.draft import Draft
    from lib_pm.workspace.saved_recipes import SavedRecipes
    from lib_pm.workspace.workspace import Workspace

    class SameStart(SavedRecipes):
        @property
        def last(self) -> Draft:
            return Draft("# loaded")

        def keep_last(self, draft: Draft) -> None:
            pass

    class PageWorkspace(Workspace):
        def titles(self) -> Mapping[Path, str]:
            return {path: "Hatsune" for path in self.library.names() if path.stem == "miku"}

        def thumb(self, path: Path, beside: Collection[str]) -> str:
            picture = path.with_suffix(".png")
            return f"file={picture}" if picture.name in beside else ""

    workspace = PageWorkspace(folder, data, "cpu")
    workspace.recipes = SameStart(data)
    return workspace
