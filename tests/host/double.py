"""The doubles as servers: a host's modules, its model and its API, within this process."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib_pm.core.layers import LayerShape
from lib_pm.families.families import SD1
from tests.host.imports import HOSTS, host_modules
from tests.host.server import Kind, Result, ServerError, full_payload

REPOSITORY = Path(__file__).parents[2]
EXTENSION = "sd-webui-power-merger"  # the folder that users clone it into, and its name in metadata.ini


class Double:
    """Made by `running`; see the protocol in server.py. `module` and `probe` are for what no API can ask."""

    def __init__(self, kind: Kind, root: Path):
        self.kind = kind
        self.lora_folder = root / "models" / "Lora"
        self.lora_folder.mkdir(parents=True)
        self._root = root
        self._api: Any = None

    def start(self, extensions: Mapping[str, Path]) -> None:
        paths = self.module("paths")
        paths.script_path, paths.data_path = str(HOSTS / "common"), str(self._root)
        paths.models_path = str(self._root / "models")
        paths.extensions_dir = str(self._root / "extensions")
        paths.extensions_builtin_dir = str(HOSTS / self.kind / "extensions-builtin")
        paths.cloned_extensions = {name: str(folder) for name, folder in extensions.items()}
        self.restart()

    def restart(self) -> None:
        """Looks for extensions again."""
        self._api = self.module("initialize").start()

    @staticmethod
    def module(name: str) -> Any:
        """The double's `modules.name`."""
        return importlib.import_module(f"modules.{name}")

    @property
    def probe(self) -> Any:
        """The module that the probe's script has imported, if that extension is there."""
        return importlib.import_module("probe_hooks")

    @property
    def checkpoints(self) -> list[str]:
        return [info.name_for_extra for info in self.module("sd_models").checkpoints_list.values()]

    @property
    def layers(self) -> Mapping[str, LayerShape]:
        return _tiny_layers()

    def txt2img(self, prompt: str, **payload: Any) -> Result:
        return self._answer(self._api.text2imgapi, prompt, payload)

    def img2img(self, prompt: str, image: np.ndarray, **payload: Any) -> Result:
        return self._answer(self._api.img2imgapi, prompt, payload | {"init_images": [image]})

    def _answer(self, endpoint: Any, prompt: str, payload: Mapping[str, Any]) -> Result:
        request = full_payload(self.kind, prompt, payload)
        for only_for_files in ("save_images", "send_images"):
            request.pop(only_for_files, None)
        try:
            processed = endpoint(**request)
        except Exception as error:
            raise ServerError(str(error)) from error
        images = [np.asarray(image) for image in processed.images]
        return Result(images, list(processed.infotexts), processed.comments)

    def axes(self, tab: str = "txt2img") -> list[str]:
        runner = getattr(self.module("scripts"), f"scripts_{tab}")
        plot = next(script for script in runner.scripts if script.title() == "X/Y/Z plot")
        return list(plot.controls[0].choices)

    def reload_ui(self) -> None:
        self._api = self.module("initialize").reload_ui()

    def set_checkpoint(self, name: str) -> None:
        self.module("shared").opts.set("sd_model_checkpoint", name)

    def swallowed(self) -> list[str]:
        """Exceptions that the host printed and passed over, oldest first."""
        return [record["traceback"] for record in self.module("errors").exception_records]

    def paste(self, infotext: str, tab: str = "txt2img") -> dict[str, Any]:
        """What "Send to" sets in the tab: label of the control -> value."""
        utils = self.module("infotext_utils")
        params = utils.parse_generation_parameters(infotext)
        self.module("script_callbacks").infotext_pasted_callback(infotext, params)
        fields = utils.paste_fields[tab]["fields"]
        return {control.label: value for control, value in utils.pasted(params, fields).items()}


@cache
def _tiny_layers() -> Mapping[str, LayerShape]:
    """The same for every checkpoint of either kind."""
    from tiny_pipeline import build  # there while a double runs

    unet, text_encoder = build("any")
    weights = {f"lora_unet_{path}": weight for path, weight in unet.named_parameters()}
    weights |= {
        f"lora_te_{path.removeprefix('transformer.')}": weight for path, weight in text_encoder.named_parameters()
    }
    return layer_shapes({name: tuple(weight.shape) for name, weight in weights.items()})


def layer_shapes(weights: Mapping[str, tuple[int, ...]]) -> dict[str, LayerShape]:
    """From weights by the model's own names (`lora_unet_` and a path with dots) to layers by kohya's names."""
    shapes = {}
    for name, (out, *inner) in weights.items():
        if name.endswith(".weight") and len(inner) in (1, 3) and "embeddings" not in name:
            layer = SD1.name(name.removesuffix(".weight").replace(".", "_"))
            shapes[layer] = LayerShape(out, inner[0], tuple(inner[1:]))
    return shapes


@contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Without oneDNN, which takes longer to prepare one of a few channels than others take to do it."""
    flags = torch.backends.mkldnn
    before = flags.enabled
    flags.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        flags.enabled = before


@contextmanager
def running(kind: Kind, root: Path, extensions: Mapping[str, Path] | None = None) -> Iterator[Double]:
    """A started double. extensions: name -> folder; this one if not given."""
    with host_modules(kind), _plain_convolutions():
        double = Double(kind, root)
        folder = os.environ.get("PM_EXTENSION", REPOSITORY)
        double.start({EXTENSION: Path(folder)} if extensions is None else extensions)
        yield double


@contextmanager
def nothing_swallowed(double: Double) -> Iterator[None]:
    """Fails if the host has passed over an exception of ours: it would pass for an image without the merge."""
    yield
    traces = double.swallowed()
    double.module("errors").exception_records.clear()
    ours = [trace for trace in traces if "lib_pm" in trace or "power_merger" in trace]
    assert not ours, ours[0]
