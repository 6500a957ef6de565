"""The WebUI's own Lora extension: its module, and the files that it knows by name."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from lib_pm.core.errors import MergeInputError
from lib_pm.files.library import Library


def lora_extension() -> Any:
    """Return the module `networks` of the WebUI's own Lora extension."""
    try:
        return importlib.import_module("networks")
    except ImportError as error:
        raise MergeInputError("The WebUI's own Lora extension is disabled; enable it under Extensions.") from error


def find_lora(networks: Any, name: str) -> Path:
    """Return the file that `<lora:name>` stands for in the WebUI, also by sub-folder, or raise a MergeInputError."""
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
    """Return the folders that the WebUI's Lora extension searches; beside its own one, `--lora-dirs` or an old
    LyCORIS folder.

    Its page of cards says which: those whose pictures it may show.
    """
    from modules import shared, ui_extra_networks

    pages = [page for page in ui_extra_networks.extra_pages if page.name == "lora"]
    named = [folder for page in pages for folder in page.allowed_directories_for_previews()]
    first, *others = dict.fromkeys(Path(os.path.abspath(folder)) for folder in (shared.cmd_opts.lora_dir, *named))
    return Library(first, tuple(others), aliases=None)  # find_lora asks the WebUI, which has read them
