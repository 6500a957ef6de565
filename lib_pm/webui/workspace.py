"""The WebUI's LoRAs as the tab and the REST interface see them, and how a new one is made known to it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import quote

from lib_pm.core.errors import MergeInputError
from lib_pm.files.library import Library
from lib_pm.merging.devices import choose_device
from lib_pm.webui import a1111, forge
from lib_pm.webui.lora_extension import find_lora, lora_extension, webui_library
from lib_pm.webui.settings import read_settings
from lib_pm.workspace.card import find_picture
from lib_pm.workspace.job_queue import Turn
from lib_pm.workspace.workspace import Workspace

DATA = "data"  # the folder for recipes, in the extension's own


class WebuiWorkspace(Workspace):
    """The folders are the WebUI's; names are found as in a prompt."""

    def __init__(self, extension: Path) -> None:
        from modules import shared

        super().__init__(Path(os.path.abspath(shared.cmd_opts.lora_dir)), extension / DATA, read_settings().device)

    @property
    def library(self) -> Library:
        return webui_library()

    def titles(self) -> Mapping[Path, str]:
        """Return the aliases that the WebUI read from the files' metadata."""
        try:
            known = lora_extension().available_networks.values()
        except MergeInputError:  # without the WebUI's Lora extension files are still files
            return {}
        return {Path(os.path.abspath(disk.filename)): disk.alias for disk in known if disk.alias != disk.name}

    def thumb(self, path: Path, beside: Collection[str]) -> str:
        """Return the link under which the WebUI's cards show the picture."""
        picture = find_picture(path, beside)
        if picture is None:
            return ""
        return f"./sd_extra_networks/thumb?filename={quote(picture.as_posix())}&mtime={picture.stat().st_mtime}"

    def find(self, name: str) -> Path:
        return Path(os.path.abspath(find_lora(lora_extension(), name)))

    def presets(self) -> Mapping[str, str]:
        return read_settings().load_presets()

    def turn(self, device: str) -> Turn:
        """Return the WebUI's own lock for a GPU, whose memory its images need. The CPU is shared."""
        from modules.call_queue import queue_lock

        return super().turn(device) if choose_device(device).type == "cpu" else queue_lock

    def announce(self, path: Path) -> None:
        from modules import sd_models

        networks = lora_extension()
        networks.list_available_networks()
        model = sd_models.model_data.sd_model  # shared.sd_model would load one
        for host in (a1111, forge):
            host.forget_files(networks, model)
        _forget_conds()


def _forget_conds() -> None:
    """Drop the encoded prompts that the WebUI keeps by the LoRAs' names: the old file made them."""
    from modules import processing

    image, hires = processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img
    for kind, names in ((image, ("cached_c", "cached_uc")), (hires, ("cached_hr_c", "cached_hr_uc"))):
        for name in names:
            setattr(kind, name, [None] * len(getattr(kind, name)))  # 2 in some WebUIs, 3 in others
