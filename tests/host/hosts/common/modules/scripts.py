"""Scripts: loaded by path, a new instance for each tab, callbacks called in order, their exceptions swallowed."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr
from modules import errors, extensions, paths, script_callbacks, script_loading
from modules.ordering import in_order

AlwaysVisible = object()


class PostSampleArgs:
    def __init__(self, samples: Any):
        self.samples = samples


class PostprocessImageArgs:
    def __init__(self, image: Any):
        self.image = image


class PostprocessBatchListArgs:
    def __init__(self, images: list[Any]):
        self.images = images


class Script:
    name = filename = section = group = tabname = None
    args_from = args_to = 0
    alwayson = is_txt2img = is_img2img = False
    create_group = True
    infotext_fields = paste_field_names = controls = None
    setup_for_ui_only = False

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> Any:
        pass

    def show(self, is_img2img: bool) -> Any:
        return True

    def run(self, p: Any, *args: Any) -> Any:
        pass

    def elem_id(self, item_id: str) -> str:
        tab = ("img2img" if self.is_img2img else "txt2img") + "_" if self.show(True) == self.show(False) else ""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{tab}{title}_{item_id}"


def _passed_over(self: Script, *args: Any, **kwargs: Any) -> None:
    """A callback that the script does not have."""


_BEFORE_ARGS = {"postprocess": 1, "postprocess_image": 1, "postprocess_batch_list": 1, "post_sample": 1}  # besides p
_CALLBACKS = (
    "setup before_process process before_process_batch after_extra_networks_activate process_batch before_hr "
    "process_before_every_sampling post_sample postprocess_batch postprocess_batch_list postprocess_image postprocess"
).split()
for _method in _CALLBACKS:
    setattr(Script, _method, _passed_over)

current_basedir = paths.script_path


def basedir() -> str:
    """The folder of the extension whose script is being executed; the host's own at any other time."""
    return current_basedir


class ScriptFile(NamedTuple):
    basedir: str
    filename: str
    path: str


class ScriptClassData(NamedTuple):
    script_class: type[Script]
    path: str
    basedir: str
    module: Any


scripts_data: list[ScriptClassData] = []
scripts_txt2img: ScriptRunner
scripts_img2img: ScriptRunner


def list_scripts() -> list[ScriptFile]:
    """The host's own, then each extension's; later or earlier than another if a metadata.ini says so."""
    orders = {f"/{file.filename}": (file, None) for file in _scripts_in(paths.script_path)}
    for extension in extensions.active():
        for file in _scripts_in(extension.path):
            order = extension.metadata.script_order(file.filename)
            orders[order.name] = (file, order)
    earlier: dict[str, set[str]] = {name: set() for name in orders}

    def named(text: str) -> list[str]:
        return [name for name in orders if name == text or name.startswith(f"{text}/")]

    for name, (_, order) in orders.items():
        for after in order.after if order else []:
            earlier[name].update(named(after))
        for before in order.before if order else []:
            for later in named(before):
                earlier[later].add(name)
    return [orders[name][0] for name in in_order(earlier)]


def _scripts_in(base: str) -> list[ScriptFile]:
    folder = os.path.join(base, "scripts")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [ScriptFile(base, name, os.path.join(folder, name)) for name in names if name.endswith(".py")]


def load_scripts() -> None:
    """Execute every script anew, its extension's folder first on sys.path while it is, and register its classes."""
    global current_basedir, scripts_txt2img, scripts_img2img
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    searched = sys.path
    for file in list_scripts():
        try:
            if file.basedir != paths.script_path:
                sys.path = [file.basedir, *searched]
            current_basedir = file.basedir
            module = script_loading.load_module(file.path)
            for value in module.__dict__.values():  # imported classes too, the base class among them
                if inspect.isclass(value) and issubclass(value, Script):
                    scripts_data.append(ScriptClassData(value, file.path, file.basedir, module))
        except Exception:  # noqa: BLE001 (as the host does)
            errors.report(f"Error loading script: {file.filename}", exc_info=True)
        finally:
            sys.path = searched
            current_basedir = paths.script_path
    scripts_txt2img, scripts_img2img = ScriptRunner(), ScriptRunner()


class ScriptRunner:
    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.infotext_fields: list[Any] = []
        self.paste_field_names: list[str] = []
        self.inputs: list[Any] = [None]

    def initialize_scripts(self, is_img2img: bool) -> None:
        for listed in (self.scripts, self.alwayson_scripts, self.selectable_scripts):
            listed.clear()
        for data in scripts_data:
            if data.script_class is Script:
                continue  # has no title; the host trips over it and goes on
            try:
                script = data.script_class()
            except Exception:  # noqa: BLE001
                errors.report(f"failed to initialize Script {data.path}", exc_info=True)
                continue
            script.filename = data.path
            script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
            script.tabname = "img2img" if is_img2img else "txt2img"
            visible = script.show(is_img2img)
            script.alwayson = visible is AlwaysVisible
            if visible:
                self.scripts.append(script)
                (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)

    def setup_ui(self) -> list[Any]:
        self.inputs = [gr.Dropdown(label="Script", choices=["None"], value="None", type="index", elem_id="script_list")]
        for script in (*self.alwayson_scripts, *self.selectable_scripts):
            with gr.Group(visible=script.alwayson) as script.group:
                try:
                    self._create_ui(script)
                except Exception:  # noqa: BLE001
                    errors.report(f"Error creating UI for {script.filename}", exc_info=True)
        return self.inputs

    def _create_ui(self, script: Script) -> None:
        script.args_from = script.args_to = len(self.inputs)
        controls = script.controls = script.ui(script.is_img2img)
        script.name = script.title().lower()
        if controls is None:
            return
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []
        self.inputs += controls
        script.args_to = len(self.inputs)

    def run(self, p: Any, *args: Any) -> Any:
        """The script chosen in the page's list (args[0], from 1), or None if there is none."""
        if not args[0]:
            return None
        script = self.selectable_scripts[args[0] - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def ordered_scripts(self, method: str) -> list[Script]:
        callbacks: list[script_callbacks.ScriptCallback] = []
        for script in self.alwayson_scripts:
            if getattr(type(script), method) is not _passed_over:
                script_callbacks.add_callback(
                    callbacks,
                    script,
                    category=f"script_{method}",
                    name=type(script).__name__,
                    filename=script.filename,
                )
        return [callback.callback for callback in script_callbacks.sort_callbacks(callbacks)]

    def __getattr__(self, method: str) -> Callable[..., None]:
        """`runner.process(p, …)` calls it on all always-on scripts. An exception is printed, and no one is told."""
        if method not in _CALLBACKS:
            raise AttributeError(method)

        def call(p: Any, *first: Any, **kwargs: Any) -> None:
            assert len(first) == _BEFORE_ARGS.get(method, 0), method
            for script in self.ordered_scripts(method):
                try:
                    args = p.script_args[script.args_from : script.args_to]
                    getattr(script, method)(p, *first, *args, **kwargs)
                except Exception:  # noqa: BLE001 (as the host does)
                    errors.report(f"Error running {method}: {script.filename}", exc_info=True)

        return call

    def setup_scrips(self, p: Any, *, is_ui: bool = True) -> None:
        self.setup(p)
