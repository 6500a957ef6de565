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
    """A stand-in for the tab: its parts that JavaScript knows."""
    loras = found(folder)
    data = html.escape(json.dumps(loras))
    presets = html.escape(json.dumps(["NONE", "ALL", "INS", "MIDD", "OUTALL"]))
    with gr.Blocks(title="Power Merger") as page, gr.Column(elem_id="pm_tab"):
        gr.HTML(f"<div hidden data-loras='{data}' data-presets='{presets}'></div>", elem_id="pm_data")
        with gr.Row(elem_id="pm_add_row"):
            chosen = gr.Dropdown([lora["name"] for lora in loras], label="LoRA", elem_id="pm_add")
            add = gr.Button("Add", elem_id="pm_add_button")
        gr.HTML("", elem_id="pm_rows")
        recipe = gr.Textbox(label="Recipe", lines=5, max_lines=20, elem_id="pm_recipe")
        clear = gr.Button("Python writes", elem_id="pm_python_writes")
        add.click(lambda text, name: f"{text}\n<lora:{name}:1>".strip(), [recipe, chosen], recipe)
        clear.click(lambda: "<lora:written/by_python:0.25>", None, recipe)
    return page


def found(folder: Path) -> list[dict[str, str]]:
    loras = []
    for path in sorted(folder.rglob("*.safetensors")):
        name, preview = path.relative_to(folder).with_suffix(""), path.with_suffix(".png")
        thumb = f"file={preview}" if preview.is_file() else ""
        inside = name.parent.as_posix() if name.parent.name else ""
        loras.append({"name": name.as_posix(), "folder": inside, "title": "", "thumb": thumb})
    return loras


if __name__ == "__main__":
    main()
