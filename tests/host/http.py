"""A real WebUI, driven through its API."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from lib_pm.core.layers import LayerShape
from tests.host.double import layer_shapes
from tests.host.server import Kind, Result, ServerError, full_payload

_PREFIXES = {  # SD1's checkpoint layout, and the start that parse_name knows
    "model.diffusion_model.": "lora_unet_",
    "cond_stage_model.transformer.": "lora_te_",
}


class HttpServer:
    """See the protocol in server.py. The files that tests make must be where this process can write them."""

    def __init__(self, url: str):
        self._url = url.rstrip("/")

    @contextmanager
    def cleaned_up(self) -> Iterator[HttpServer]:
        """Without the tests' LoRAs afterwards, and with the checkpoint that was loaded before."""
        loaded = self._get("options")["sd_model_checkpoint"]
        try:
            yield self
        finally:
            for path in self.lora_folder.rglob("pm_contract_*"):
                if path.is_file():
                    path.unlink()
            if self._get("options")["sd_model_checkpoint"] != loaded:
                self.set_checkpoint(loaded)

    @cached_property
    def kind(self) -> Kind:
        return "forge" if any(key.startswith("forge_") for key in self._get("options")) else "a1111"

    @cached_property
    def lora_folder(self) -> Path:
        try:
            return Path(self._get("cmd-flags")["lora_dir"])
        except ServerError:  # Forge does not get over a --port; it tells where the LoRAs are that it has
            folders = [Path(lora["path"]).parent for lora in self._get("loras")]
            return min(folders, key=lambda folder: len(folder.parts))

    @cached_property
    def checkpoints(self) -> list[str]:
        return [model["title"] for model in self._get("sd-models")]

    @cached_property
    def layers(self) -> Mapping[str, LayerShape]:
        chosen = self._get("options")["sd_model_checkpoint"]
        models = self._get("sd-models")
        model = next(
            (m for m in models if chosen in (m["title"], m["model_name"], Path(m["filename"]).name)), models[0]
        )
        weights = {}
        with safe_open(model["filename"], "pt") as file:
            for key in file.keys():  # noqa: SIM118 (a safe_open is no dict)
                for prefix, ours in _PREFIXES.items():
                    if key.startswith(prefix):
                        weights[ours + key.removeprefix(prefix)] = tuple(file.get_slice(key).get_shape())
        return layer_shapes(weights)

    def txt2img(self, prompt: str, **payload: Any) -> Result:
        return self._generate("txt2img", full_payload(self.kind, prompt, payload))

    def img2img(self, prompt: str, image: np.ndarray, **payload: Any) -> Result:
        # The host encodes the picture with random numbers that go on from where the image before left them.
        self.txt2img("anything, to leave them where it always does", seed=1, steps=1)
        request = full_payload(self.kind, prompt, payload) | {"init_images": [_png(image)]}
        if "mask" in request:
            request["mask"] = _png(request["mask"])
        return self._generate("img2img", request)

    def _generate(self, task: str, request: dict[str, Any]) -> Result:
        answer = self._call(task, request)
        images = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")) for image in answer["images"]
        ]
        return Result(images, json.loads(answer["info"])["infotexts"], comments=None)  # the API does not tell them

    def axes(self, tab: str = "txt2img") -> list[str]:
        scripts = [script for script in self._get("script-info") if script["is_img2img"] == (tab == "img2img")]
        plot = next(script for script in scripts if script["name"] == "x/y/z plot")
        return next(argument["choices"] for argument in plot["args"] if argument["label"] == "X type")

    def reload_ui(self) -> None:
        """As the page's button does it: by the host's own endpoint for it, if it was started with --api-server-stop."""
        raise NotImplementedError("The API has no Reload UI.")

    def set_checkpoint(self, name: str) -> None:
        self._call("options", {"sd_model_checkpoint": name})

    def _get(self, path: str) -> Any:
        return self._call(path, None)

    def _call(self, path: str, request: dict[str, Any] | None) -> Any:
        body = None if request is None else json.dumps(request).encode()
        call = urllib.request.Request(f"{self._url}/sdapi/v1/{path}", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(call, timeout=900) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read())
            raise ServerError(str(answer.get("errors") or answer.get("detail") or answer)) from error


def _png(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
