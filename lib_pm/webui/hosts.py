"""Which WebUI this is, and what model is loaded in it.

A WebUI is known by what it can do, never by its version: forks keep version numbers and change everything else.
Nothing of the WebUI is kept here: Reload UI leaves these modules in memory, and a checkpoint change must not.
"""

from __future__ import annotations

from typing import Any

from lib_pm.core.errors import MergeInputError
from lib_pm.webui import a1111, forge
from lib_pm.webui.adapter import Replace


def find_host(model: Any, networks: Any) -> Replace:
    """Return the adapter for the WebUI with this model and Lora extension; a MergeInputError if there is none."""
    if model is None:
        raise MergeInputError("No model is loaded; choose a checkpoint first.")
    if hasattr(model, "forge_objects_after_applying_lora") and hasattr(networks, "load_lora_for_models"):
        return forge.replace
    if hasattr(networks, "network_apply_weights") and hasattr(networks, "loaded_networks"):
        return a1111.replace
    raise MergeInputError("This WebUI's Lora extension is not supported.")


def model_family(model: Any) -> str:
    """Return the id of the loaded model's family, "" if the WebUI does not say."""
    return next((family for family in ("sdxl", "sd2", "sd1") if getattr(model, f"is_{family}", False)), "")
