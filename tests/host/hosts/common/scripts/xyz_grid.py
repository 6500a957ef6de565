"""The X/Y/Z plot: cells are shallow copies of one `p`, and a cell that raises is black."""

import csv
import re
from collections import namedtuple
from copy import copy
from itertools import product

import gradio as gr
import numpy as np
from modules import errors, scripts
from modules.processing import Processed, create_infotext, fix_seed, process_images
from PIL import Image

AxisInfo = namedtuple("AxisInfo", ["axis", "values"])
made = []  # for tests: the cells (x, y, z) of the last plot in the order in which they were made
labels = []  # and what its grid says of each axis

_NUMBER = r"\s*([+-]?\s*\d+(?:\.\d*)?)\s*"
_RANGE = re.compile(rf"{_NUMBER}-{_NUMBER}(?:\(\+?{_NUMBER}\)|\[\s*(\d+)\s*\])?\s*")


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
        self.confirm, self.choices, self.prepare = confirm, choices, prepare
        self.format_value = format_value or (lambda p, option, x: f"{option.label}: {x}")


class AxisOptionTxt2Img(AxisOption):
    is_img2img = False


axis_options = [
    AxisOption("Nothing", str, lambda p, x, xs: None),
    AxisOption("Seed", int, apply_field("seed")),
    AxisOption("Steps", int, apply_field("steps")),
    AxisOptionTxt2Img("Hires steps", int, apply_field("hr_second_pass_steps")),
    AxisOption("CFG Scale", float, apply_field("cfg_scale")),
    AxisOption("Prompt S/R", str, apply_prompt),
]


def split(text):
    return [word.strip() for row in csv.reader([text], skipinitialspace=True) for word in row]


def expand(kind, word):
    """`0-1 [5]` is five numbers from 0 to 1, `1-7 (+2)` every second one. Only for int and float, and no subclass."""
    if kind not in (int, float):
        return [word]
    found = _RANGE.fullmatch(word)
    if not found:
        return [word] if word.strip() else []
    start, end, step, count = found.groups()
    if count:
        return np.linspace(kind(start), kind(end), int(count)).tolist()
    step = kind(step or 1)
    return np.arange(kind(start), kind(end) + (1 if kind is int else step), step).tolist()


class Script(scripts.Script):
    def title(self):
        return "X/Y/Z plot"

    def ui(self, is_img2img):
        # What is added later is not seen; a subclass of AxisOption needs is_img2img.
        self.current_axis_options = [
            option for option in axis_options if type(option) is AxisOption or option.is_img2img == is_img2img
        ]
        menu = [option.label for option in self.current_axis_options]
        controls = []
        for axis in "XYZ":
            controls += [
                gr.Dropdown(
                    menu, value=0, type="index", label=f"{axis} type", elem_id=self.elem_id(f"{axis.lower()}_type")
                ),
                gr.Textbox(value="", label=f"{axis} values", elem_id=self.elem_id(f"{axis.lower()}_values")),
                gr.Dropdown([], value=[], multiselect=True, label=f"{axis} values"),
            ]
        csv_mode = gr.Checkbox(False, elem_id=self.elem_id("csv_mode"))
        names = "legend lone_images sub_grids random_seeds vary_x vary_y vary_z".split()
        return [*controls, *(gr.Checkbox(False, label=name) for name in names), gr.Slider(0, 500), csv_mode]

    def run(self, p, *args):
        fix_seed(p)
        is_text = args[-1]
        axes = [self._values(p, is_text, *args[at : at + 3]) for at in (0, 3, 6)]
        texts = dict(zip("XYZ", args[1:9:3], strict=True))
        labels[:] = [[a.axis.format_value(p, a.axis, x) for x in a.values] for a in axes]
        done, grid_text, size = {}, None, (p.width, p.height)
        made[:] = sorted(product(*(range(len(axis.values)) for axis in axes)), key=_nested([a.axis.cost for a in axes]))
        for at in made:
            pc = copy(p)
            pc.styles = pc.styles[:]
            for axis, index in zip(axes, at, strict=True):
                axis.axis.apply(pc, axis.values[index], axis.values)
            try:
                done[at] = process_images(pc)
            except Exception as error:  # noqa: BLE001 (as the host does)
                errors.display(error, "generating image for xyz plot")
                done[at] = Processed(p, [])
            if at == (0, 0, 0):
                grid_text = self._grid_text(pc, axes, texts)
        order = sorted(done, key=lambda at: at[::-1])
        images = [done[at].images[0] if done[at].images else Image.new("RGB", size) for at in order]
        whole = copy(done[made[0]])
        whole.images = [Image.fromarray(np.concatenate([np.asarray(image) for image in images], 1)), *images]
        whole.infotexts = [grid_text, *(done[at].infotexts[0] if done[at].images else None for at in order)]
        return whole

    def _values(self, p, is_text, index, text, chosen):
        option = self.current_axis_options[index or 0]
        if option.label == "Nothing":
            return AxisInfo(option, [0])
        words = chosen if option.choices is not None and not is_text else (option.prepare or split)(text)
        values = [option.type(value) for word in words for value in expand(option.type, word)]
        if option.confirm:
            option.confirm(p, values)
        return AxisInfo(option, values)

    def _grid_text(self, pc, axes, texts):
        """Also of a cell that could not be made."""
        pc.extra_generation_params = copy(pc.extra_generation_params)
        pc.extra_generation_params["Script"] = self.title()
        for (name, text), axis in zip(texts.items(), axes, strict=True):
            if axis.axis.label != "Nothing":
                pc.extra_generation_params |= {f"{name} Type": axis.axis.label, f"{name} Values": text}
        return create_infotext(pc, pc.all_prompts, pc.all_seeds, pc.all_subseeds)


def _nested(costs):
    """The costliest axis is the outermost loop; without one that is costlier than both others it is z, y, x."""
    first = next((a for a in range(3) if all(costs[a] > costs[b] for b in range(3) if b != a)), None)
    rest = sorted((a for a in range(3) if a != first), key=lambda a: (-costs[a], -a))
    loops = (2, 1, 0) if first is None else (first, *rest)
    return lambda at: [at[axis] for axis in loops]
