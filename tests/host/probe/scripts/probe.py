"""An extension that does whatever a test wants."""

import sys
from pathlib import Path

import gradio as gr
import probe_hooks
from modules import script_callbacks, scripts

BASEDIR = scripts.basedir()
WAS_ON_PATH = str(Path(__file__).parents[1]) in sys.path


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        probe_hooks.call("ui", is_img2img)
        with gr.Group():
            amount = gr.Slider(0, 10, 3, label="Amount")
            is_on = gr.Checkbox(False, label="On")
        self.infotext_fields = [(amount, "Probe amount"), (is_on, lambda params: "Probe amount" in params)]
        return [amount, is_on]

    def process(self, p, *args):
        probe_hooks.call("process", p, *args)

    def before_process_batch(self, p, *args, **kwargs):
        probe_hooks.call("before_process_batch", p, *args, **kwargs)

    def after_extra_networks_activate(self, p, *args, **kwargs):
        probe_hooks.call("after_extra_networks_activate", p, *args, **kwargs)

    def process_batch(self, p, *args, **kwargs):
        probe_hooks.call("process_batch", p, *args, **kwargs)

    def process_before_every_sampling(self, p, *args, **kwargs):
        probe_hooks.call("process_before_every_sampling", p, *args, **kwargs)

    def postprocess(self, p, processed, *args):
        probe_hooks.call("postprocess", p, processed, *args)


script_callbacks.on_before_ui(lambda: probe_hooks.call("before_ui"))
script_callbacks.on_script_unloaded(lambda: probe_hooks.call("script_unloaded"))
