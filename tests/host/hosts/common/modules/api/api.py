"""/sdapi/v1/txt2img and img2img, without HTTP: a request's fields in, the images with their infotexts out."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gradio as gr
from modules import infotext_utils, processing, script_callbacks, scripts, shared
from modules.call_queue import queue_lock


class HTTPException(Exception):
    def __init__(self, status_code: int, detail: str):
        super().__init__(detail)
        self.status_code, self.detail = status_code, detail


class Api:
    def __init__(self, app: Any):
        self.app = app
        self._defaults = {runner: self._default_args(runner) for runner in self._runners()}

    @staticmethod
    def _runners() -> tuple[scripts.ScriptRunner, scripts.ScriptRunner]:
        return scripts.scripts_txt2img, scripts.scripts_img2img

    @staticmethod
    def _default_args(runner: scripts.ScriptRunner) -> list[Any]:
        """ui() is called again, twice, only for the values of the controls that it returns."""
        args: list[Any] = [None] * max([1, *(script.args_to for script in runner.scripts)])
        args[0] = 0
        with gr.Blocks():
            for script in runner.scripts:
                if script.ui(script.is_img2img):
                    args[script.args_from : script.args_to] = [
                        control.value for control in script.ui(script.is_img2img)
                    ]
        return args

    def text2imgapi(self, **request: Any) -> processing.Processed:
        return self._generate(processing.StableDiffusionProcessingTxt2Img, scripts.scripts_txt2img, request)

    def img2imgapi(self, **request: Any) -> processing.Processed:
        return self._generate(processing.StableDiffusionProcessingImg2Img, scripts.scripts_img2img, request)

    def pnginfoapi(self, infotext: str) -> dict[str, Any]:
        params = infotext_utils.parse_generation_parameters(infotext)
        script_callbacks.infotext_pasted_callback(infotext, params)
        return params

    def _generate(self, kind: type[Any], runner: scripts.ScriptRunner, request: dict[str, Any]) -> processing.Processed:
        args = list(self._defaults[runner])
        self._read_infotext(runner, request, args)
        chosen = self._choose(runner, request, args)
        for name, given in (request.pop("alwayson_scripts", None) or {}).items():
            script = self._find(name, runner.scripts)
            if not script.alwayson:
                raise HTTPException(422, "Cannot have a selectable script in the always on scripts params")
            for index, value in enumerate(given.get("args", [])[: script.args_to - script.args_from]):
                args[script.args_from + index] = value
        with queue_lock, closing(kind(sd_model=shared.sd_model, **request)) as p:
            p.is_api = True
            p.scripts = runner
            p.script_args = args if chosen else tuple(args)
            shared.state.begin(job=f"scripts_{runner.scripts[0].tabname}" if runner.scripts else "")
            try:
                return runner.run(p, *args) if chosen else processing.process_images(p)
            finally:
                shared.state.end()

    def _read_infotext(self, runner: scripts.ScriptRunner, request: dict[str, Any], args: list[Any]) -> None:
        infotext = request.pop("infotext", None)
        if not infotext:
            return
        params = infotext_utils.parse_generation_parameters(infotext)
        tab = "img2img" if runner is scripts.scripts_img2img else "txt2img"
        for field in infotext_utils.paste_fields[tab]["fields"]:
            if field.api and field.api not in request:
                value = infotext_utils.field_value(field, params)
                if value is not None:
                    request[field.api] = value
            if field.component in runner.inputs:
                value = infotext_utils.field_value(field, params)
                if value is not None:
                    args[runner.inputs.index(field.component)] = value

    def _choose(self, runner: scripts.ScriptRunner, request: dict[str, Any], args: list[Any]) -> bool:
        name, given = request.pop("script_name", None), request.pop("script_args", [])
        if not name:
            return False
        script = self._find(name, runner.selectable_scripts)
        args[script.args_from : script.args_to] = given
        args[0] = runner.selectable_scripts.index(script) + 1
        return True

    @staticmethod
    def _find(name: str, among: list[scripts.Script]) -> scripts.Script:
        for script in among:
            if script.title().lower() == name.lower():
                return script
        raise HTTPException(422, f"Script '{name}' not found")
