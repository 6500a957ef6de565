"""What the live merge needs of a WebUI, and which WebUI this is.

The adapters know the WebUI by what it can do, never by its version: forks keep version numbers and change everything
else. Nothing of the WebUI is kept here: Reload UI leaves these modules in memory, and a checkpoint change must not.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.lora import FULL, split_key
from lib_pm.files.library import Library
from lib_pm.prompt.parse import LoraTag


@dataclass(frozen=True)
class Placed:
    """A merge that is in the model. layers: the names of those that the model took.

    undo: puts back what was replaced, as if it had never been; nothing if the WebUI has replaced the merge since.
    """

    layers: frozenset[str]
    undo: Callable[[], None]


class Replace(Protocol):
    """One WebUI's way to put a LoRA in the place of all that the prompt stacked, but for those in `stacked`."""

    def __call__(
        self, networks: Any, model: Any, name: str, tensors: Mapping[str, Tensor], stacked: Sequence[LoraTag]
    ) -> Placed:
        """networks: the module of the WebUI's Lora extension. model: the loaded one. tensors: as in the LoRA's file.

        name: one that no other content ever had: weights are applied again when a name changes, not when its content
        does. MergeInputError if it cannot be done, with nothing changed.
        """


def find_host(model: Any, networks: Any) -> Replace:
    """The adapter for the WebUI whose model and Lora extension these are; a MergeInputError if there is none."""
    from lib_pm.webui import a1111, forge

    if model is None:
        raise MergeInputError("No model is loaded; choose a checkpoint first.")
    if hasattr(model, "forge_objects_after_applying_lora") and hasattr(networks, "load_lora_for_models"):
        return forge.replace
    if hasattr(networks, "network_apply_weights") and hasattr(networks, "loaded_networks"):
        return a1111.replace
    raise MergeInputError("This WebUI's Lora extension is not supported.")


def lora_extension() -> Any:
    """The module `networks` of the WebUI's own Lora extension."""
    try:
        return importlib.import_module("networks")
    except ImportError as error:
        raise MergeInputError("The WebUI's own Lora extension is disabled; enable it under Extensions.") from error


def find_lora(networks: Any, name: str) -> Path:
    """The file that `<lora:name>` stands for in the WebUI, or by its sub-folder; a MergeInputError names near ones."""
    known = (
        networks.available_networks
        if name.lower() in networks.forbidden_network_aliases  # an alias that several files have
        else networks.available_network_aliases
    )
    disk = known.get(name)
    if disk is not None:
        return Path(disk.filename)
    return webui_library().find(name)


def webui_library() -> Library:
    """The folders that the WebUI's Lora extension searches; beside its own one, `--lora-dirs` or an old LyCORIS folder.

    Its page of cards says which: those whose pictures it may show.
    """
    from modules import shared, ui_extra_networks

    pages = [page for page in ui_extra_networks.extra_pages if page.name == "lora"]
    named = [folder for page in pages for folder in page.allowed_directories_for_previews()]
    first, *others = dict.fromkeys(Path(os.path.abspath(folder)) for folder in (shared.cmd_opts.lora_dir, *named))
    return Library(first, tuple(others), aliases=None)  # find_lora asks the WebUI, which has read them


def layer_of(key: str) -> str:
    """The layer that a tensor of a merge belongs to: `a.b` of `a.b.lora_A.weight`, of `a.b.alpha` and of `a.b.diff`."""
    found = split_key(key)
    return found[0] if found else key.removesuffix(FULL)


def weight_sizes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Layer -> (out, in·kh·kw) of the weight that it changes, of a merge's tensors."""
    out: dict[str, int] = {}
    columns: dict[str, int] = {}
    for key, tensor in tensors.items():
        part = (split_key(key) or ("", "full"))[1]
        if part in ("up", "full"):
            out[layer_of(key)] = tensor.shape[0]
        if part in ("down", "full"):
            columns[layer_of(key)] = tensor[0].numel()
    return {name: (out[name], columns[name]) for name in out}


def model_family(model: Any) -> str:
    """The id of the loaded model's family, "" if the WebUI does not say."""
    return next((family for family in ("sdxl", "sd2", "sd1") if getattr(model, f"is_{family}", False)), "")
