"""The Power Merger tab beside a panel that draws pictures, so that all can be tried without a WebUI."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from demo.drawing import NAMES, Drawing
from demo.generate import Generator, Made
from demo.painter import Turns
from demo.tiny.checks import look
from demo.tiny.model import GUIDANCE, STEPS
from lib_pm.core.errors import MergeInputError
from lib_pm.merging.recipe import DEFAULT_MODE
from lib_pm.render.messages import note_html, problem_html
from lib_pm.ui import accordion, tab
from lib_pm.workspace.card import find_picture
from lib_pm.workspace.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "a red star on a blue background <lora:star:1> <lora:stripes:0.8>"
_HELP = """\
The model knows `circle`, `square`, `triangle`, `diamond`, `cross`, in red, orange, yellow, green, cyan, blue, purple or
white, on a `checkered` or `dotted` background too, `small` or `large`, `at the left`, `right`, `top`, `bottom`. The
LoRAs add `star`, `ring`, `heart` and the styles stripes, outline, twotone."""

_STYLE = """
#demo_said .pm-problem, #demo_progress .pm-problem { color: var(--error-text-color); }
#demo_progress progress { width: 16em; margin-right: 0.5em; }
#demo_sheets img { margin-bottom: 1em; max-width: 100%; }
"""


class DemoWorkspace(Workspace):
    """A plain folder whose LoRAs may have pictures beside them."""

    def thumb(self, path: Path, beside: Collection[str]) -> str:
        picture = find_picture(path, beside)
        return f"/gradio_api/file={picture.as_posix()}" if picture else ""


def build(pipeline: Future[Any], workspace: Workspace, turns: Turns, sheets: Drawing) -> Any:
    """Return the page as Blocks."""
    generator = Generator(pipeline, workspace, turns)
    with gr.Blocks(analytics_enabled=False) as pictures:
        prompt = gr.Textbox(PROMPT, label="Prompt", lines=2, elem_id="txt2img_prompt")
        gr.Markdown(_HELP)
        panel = accordion.build(_open_accordion, lambda name: f"txt2img_pm_{name}", DEFAULT_MODE, tab.TITLE)
        with gr.Row():
            seed = gr.Number(1, precision=0, label="Seed")
            count = gr.Slider(1, 16, 4, step=1, label="Pictures, each with the next seed")
            steps = gr.Slider(1, 50, STEPS, step=1, label="Steps")
            guidance = gr.Slider(1, 10, GUIDANCE, step=0.5, label="Guidance")
        button = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
        said = gr.HTML(elem_id="demo_said")
        gallery = gr.Gallery(
            label="Pictures, and what the check sees in them", columns=4, format="png", elem_id="txt2img_gallery"
        )

        def generate(text: str, seed: float, count: float, steps: float, guidance: float, *held: Any) -> list[Any]:
            seeds = [int(seed) + index for index in range(int(count))]
            try:
                made = generator.generate(text, accordion.choice_of(*held), seeds, steps=int(steps), guidance=guidance)
            except MergeInputError as error:
                return [problem_html(workspace.public(str(error))), None]
            return [_told(made), [_captioned(picture) for picture in made.pictures]]

        button.click(generate, inputs=[prompt, seed, count, steps, guidance, *panel.controls], outputs=[said, gallery])
    power_merger = tab.build(workspace, {"txt2img_prompt": prompt})
    with gr.Blocks(title=tab.TITLE, analytics_enabled=False) as page:
        progress = gr.HTML(_progress_html(sheets), elem_id="demo_progress")
        with gr.Tabs():
            with gr.TabItem("txt2img"):
                pictures.render()
            with gr.TabItem(tab.TITLE):
                power_merger.render()
            with gr.TabItem("Sheets"):
                shown = gr.HTML(_sheets_html(sheets), elem_id="demo_sheets")
        timer = gr.Timer(1)

        def look_again() -> list[Any]:
            going = bool(sheets.what)  # first, so that the last look sees the end
            return [_progress_html(sheets), _sheets_html(sheets), gr.Timer(active=going)]

        outputs = [progress, shown, timer]
        timer.tick(look_again, outputs=outputs, show_progress="hidden", api_visibility="private")
        page.load(look_again, outputs=outputs, show_progress="hidden", api_visibility="private")
    return page


def launch(page: Any, workspace: Workspace, folders: Collection[Path] = (), **options: Any) -> None:
    """Serve it, on this machine only, with the tab's script and style. folders: of more files that it shows."""
    scripts = "".join(f"<script>{path.read_text('utf-8')}</script>" for path in sorted(ROOT.glob("javascript/*.js")))
    page.queue().launch(
        server_name="127.0.0.1",
        head=scripts,
        css=(ROOT / "style.css").read_text("utf-8") + _STYLE,
        allowed_paths=[str(workspace.folder), *map(str, folders)],
        **options,
    )


@contextmanager
def _open_accordion(value: bool, label: str, elem_id: str) -> Iterator[Any]:
    """What the WebUI's InputAccordion is: a checkbox that is on while the accordion counts."""
    with gr.Accordion(label, open=value):
        enabled = gr.Checkbox(value, label="Merge", elem_id=elem_id)
        yield enabled


def _progress_html(sheets: Drawing) -> str:
    """Return how far the sheets are, and what went wrong; "" when all are there."""
    problems = "".join(map(problem_html, sheets.errors))
    if not sheets.what:
        return problems
    bar = f'<progress value="{sheets.done}" max="{sheets.total}"></progress>'
    now = f"Sheets: {sheets.done} of {sheets.total} pictures, now {html.escape(sheets.what)}"
    return f"<p>{bar}{now}</p>{problems}"


def _sheets_html(sheets: Drawing) -> str:
    """Return the sheets that are ready, in their order."""
    ready = [(name, sheets.sheets[name]) for name in NAMES if name in sheets.sheets]
    images = [
        f'<img alt="{name}" src="/gradio_api/file={html.escape(file.as_posix())}?{file.stat().st_mtime_ns}">'
        for name, file in ready
    ]
    return "<br>".join(images) or "<p>None is ready yet.</p>"


def _told(made: Made) -> str:
    what = f"Merged: <pm:{made.merged}>" if made.merged else "Nothing was merged."
    return "".join(map(note_html, [what, *(f"{note}." for note in made.notes)]))


def _captioned(picture: Any) -> tuple[Any, str]:
    """Return a picture for the gallery, and what the check sees in it."""
    seen = look(picture)
    styles = ", ".join(style for style in seen.styles if seen.has(style))
    caption = f"{seen.colour} {seen.shape or 'something'} on {seen.background}"
    return (picture.transpose(1, 2, 0) * 255).round().astype(np.uint8), f"{caption}, {styles}" if styles else caption
