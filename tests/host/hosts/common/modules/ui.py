from __future__ import annotations

from typing import Any

import gradio as gr
from modules import infotext_utils, script_callbacks, scripts

gr.made = script_callbacks.after_component_callback


def create_ui() -> Any:
    """The page: settings, the scripts' controls in both tabs, then the tabs of extensions."""
    infotext_utils.reset()
    script_callbacks.ui_settings_callback()
    with gr.Blocks() as demo:
        for tab, runner, is_img2img in (
            ("txt2img", scripts.scripts_txt2img, False),
            ("img2img", scripts.scripts_img2img, True),
        ):
            runner.initialize_scripts(is_img2img)
            prompt = gr.Textbox(label="Prompt", value="", elem_id=f"{tab}_prompt")
            runner.setup_ui()
            fields = [infotext_utils.PasteField(prompt, "Prompt", api="prompt"), *runner.infotext_fields]
            infotext_utils.add_paste_fields(tab, None, fields)
    demo.tabs = script_callbacks.ui_tabs_callback()
    return demo
