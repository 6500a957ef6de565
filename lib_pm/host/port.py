"""What the live merge needs of a WebUI, and which WebUI this is.

The adapters know the WebUI by what it can do, never by its version: forks keep version numbers and change everything
else. They keep no model and no patcher: Reload UI leaves this module in memory, and a checkpoint change must not.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.jobs.library import Library
from lib_pm.jobs.prompt import LoraTag


class Host(Protocol):
    """One WebUI's way to hold LoRAs. `p` is its processing object, `networks` the module of its Lora extension."""

    def replace(self, p: Any, name: str, tensors: Mapping[str, Tensor], stacked: Sequence[LoraTag]) -> frozenset[str]:
        """Put one LoRA, given as its state dict, in the place of all that the prompt stacked, but for those `stacked`.

        name: a name that no other content ever had: weights are applied again when a name changes, not when its
        content does. Returns the names of the layers that the model took.
        """

    def restore(self, p: Any) -> None:
        """Put back what `replace` replaced, as if it had never been called; nothing if it was not."""


def find_host(p: Any) -> Host:
    """The adapter for the WebUI that `p` comes from; a MergeInputError if it can take no LoRA."""
    from lib_pm.host.a1111 import A1111
    from lib_pm.host.forge import Forge

    model = p.sd_model
    if model is None:
        raise MergeInputError("No model is loaded; choose a checkpoint first.")
    networks = lora_extension()
    if hasattr(model, "forge_objects_after_applying_lora") and hasattr(networks, "load_lora_for_models"):
        return Forge(networks)
    if hasattr(networks, "network_apply_weights") and hasattr(networks, "loaded_networks"):
        return A1111(networks)
    raise MergeInputError("This WebUI's Lora extension is of a kind that is not known here.")


def lora_extension() -> Any:
    """The module `networks` of the WebUI's own Lora extension."""
    try:
        return importlib.import_module("networks")
    except ImportError as error:
        raise MergeInputError("The WebUI's own Lora extension is switched off; switch it on in Extensions.") from error


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
    from modules import shared

    return Library(Path(shared.cmd_opts.lora_dir)).find(name)


def model_family(model: Any) -> str:
    """The id of the loaded model's family, "" if the WebUI does not say."""
    return next((family for family in ("sdxl", "sd2", "sd1") if getattr(model, f"is_{family}", False)), "")
