"""Serves the tab in a bare page, with the gradio of the Python that runs this file: one of the WebUIs'.

    .venv-gradio4/bin/python tests/browser/page.py --packages .venv/lib/python3.11/site-packages --loras FOLDER

Prints the page's address when it is up. `/?plain` is the same page without the tab's JavaScript.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--packages", type=Path, required=True, help="where torch is; this Python's own packages win")
    parser.add_argument("--loras", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it would ask the network
    sys.path[1:1] = [str(ROOT)]
    sys.path.append(str(arguments.packages))
    import gradio as gr

    add_to_head(gr)
    page = build(gr, arguments.loras)
    page.queue()
    page.launch(
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
        show_api=False,
        allowed_paths=[str(ROOT), str(arguments.loras)],
    )
    print("ready", page.local_url, flush=True)
    threading.Event().wait()


def add_to_head(gr: Any) -> None:
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


def build(gr: Any, folder: Path) -> Any:
    """A stand-in for the tab: its parts that JavaScript knows; and what a test lets Python do to them."""
    with gr.Blocks(title="Power Merger") as page:
        with gr.Column(elem_id="pm_tab"):
            data = gr.HTML(lists(folder), elem_id="pm_data")
            with gr.Row(elem_id="pm_add_row"):
                names = [lora["name"] for lora in found(folder)]
                chosen = gr.Dropdown(names, label="LoRA", elem_id="pm_add")
                add = gr.Button("Add", elem_id="pm_add_button")
            gr.HTML("", elem_id="pm_rows")
            recipe = gr.Textbox(label="Recipe", lines=5, max_lines=20, elem_id="pm_recipe")
            refresh = gr.Button("Refresh", elem_id="pm_refresh")
            insert = gr.Button("Insert into txt2img", elem_id="pm_insert_txt2img")
            save = gr.Button("Merge and save", elem_id="pm_save")
            saved = gr.HTML("", elem_id="pm_saved")
            add.click(lambda text, name: f"{text}\n<lora:{name}:1>".strip(), [recipe, chosen], recipe)
            refresh.click(lambda: lists(folder), None, data)
            save.click(lambda: "<div data-saved='new'></div>", None, saved)
        writes, echo = gr.Button("Python writes", elem_id="test_writes"), gr.Button("Echo", elem_id="test_echo")
        heard = gr.Textbox(label="Heard", lines=2, elem_id="test_heard")
        writes.click(lambda: "<lora:written/by_python:0.25>", None, recipe)
        echo.click(lambda text: text, recipe, heard)
        insert.click(lambda text: text, recipe, heard)
    return page


def lists(folder: Path) -> str:
    loras, presets = (html.escape(json.dumps(one)) for one in (found(folder), ["NONE", "ALL", "MIDD", "OUTALL"]))
    return f"<div hidden data-loras='{loras}' data-presets='{presets}'></div>"


def found(folder: Path) -> list[dict[str, str]]:
    loras = []
    for path in sorted(folder.rglob("*.safetensors")):
        name, preview = path.relative_to(folder).with_suffix(""), path.with_suffix(".png")
        thumb = f"file={preview}" if preview.is_file() else ""
        inside = name.parent.as_posix() if name.parent.name else ""
        loras.append({"name": name.as_posix(), "folder": inside, "title": title(path), "thumb": thumb})
    return loras


def title(path: Path) -> str:
    from safetensors import safe_open

    if not path.stat().st_size:
        return ""
    with safe_open(path, "pt") as file:
        return str((file.metadata() or {}).get("ss_output_name", ""))


if __name__ == "__main__":
    main()
