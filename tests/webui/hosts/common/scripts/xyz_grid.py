"""The X/Y/Z plot, of two axes and without a grid: the cells are shallow copies of one `p`."""

from collections import namedtuple
from copy import copy

import gradio as gr
from modules import errors, scripts
from modules.processing import Processed, fix_seed, process_images

AxisInfo = namedtuple("AxisInfo", ["axis", "values"])


def apply_field(field):
    return lambda p, x, xs: setattr(p, field, x)


def apply_prompt(p, x, xs):
    if xs[0] not in p.prompt and xs[0] not in p.negative_prompt:
        raise RuntimeError(f"Prompt S/R did not find {xs[0]} in prompt or negative prompt.")
    p.prompt = p.prompt.replace(xs[0], x)
    p.negative_prompt = p.negative_prompt.replace(xs[0], x)


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.cost = label, type, apply, cost
        self.format_value, self.confirm, self.choices, self.prepare = format_value, confirm, choices, prepare


axis_options = [
    AxisOption("Nothing", str, lambda p, x, xs: None),
    AxisOption("Seed", int, apply_field("seed")),
    AxisOption("CFG Scale", float, apply_field("cfg_scale")),
    AxisOption("Prompt S/R", str, apply_prompt),
]


class Script(scripts.Script):
    def title(self):
        return "X/Y/Z plot"

    def ui(self, is_img2img):
        self.current_axis_options = list(axis_options)  # what is added later is not seen
        labels = [option.label for option in self.current_axis_options]
        controls = []
        for axis in "XY":
            controls += [gr.Dropdown(labels, value=0, type="index", label=f"{axis} type"), gr.Textbox(value="")]
        return controls

    def run(self, p, x_type, x_values, y_type, y_values):
        fix_seed(p)
        axes = []
        for index, text in ((x_type, x_values), (y_type, y_values)):
            option = self.current_axis_options[index]
            words = option.prepare(text) if option.prepare else [word.strip() for word in text.split(",")]
            values = [0] if option.label == "Nothing" else [option.type(word) for word in words]
            if option.confirm:
                option.confirm(p, values)
            axes.append(AxisInfo(option, values))
        x, y = axes
        cells = [(i, j) for i in range(len(x.values)) for j in range(len(y.values))]
        if y.axis.cost > x.axis.cost:  # the costlier axis changes less often
            cells.sort(key=lambda cell: cell[1])
        results = {cell: self._cell(p, x, y, *cell) for cell in cells}
        done = [results[i, j] for j in range(len(y.values)) for i in range(len(x.values))]
        whole = Processed(p, [image for result in done for image in result.images])
        whole.infotexts = [text for result in done for text in result.infotexts[: len(result.images)]]
        return whole

    def _cell(self, p, x, y, i, j):
        pc = copy(p)
        pc.styles = pc.styles[:]
        x.axis.apply(pc, x.values[i], x.values)
        y.axis.apply(pc, y.values[j], y.values)
        try:
            return process_images(pc)
        except Exception as error:  # noqa: BLE001 (as the host does)
            errors.display(error, "generating image for xyz plot")
            return Processed(p, [])
