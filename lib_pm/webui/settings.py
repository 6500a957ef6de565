"""The "Power Merger" section of the WebUI's settings page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from lib_pm.core.choices import DEVICES
from lib_pm.core.registry import MODES
from lib_pm.merging.recipe import DEFAULT_MODE
from lib_pm.prompt.presets import load_presets

_SECTION = ("power_merger", "Power Merger")


@dataclass(frozen=True)
class Settings:
    """cache_mb: how many megabytes of merges are kept in memory. presets: a file of block weight presets, if any."""

    cache_mb: float = 512
    device: str = "auto"
    mode: str = DEFAULT_MODE
    presets: Path | None = None

    def load_presets(self) -> dict[str, str]:
        """Return the presets by name, read each time: the file can change while the WebUI runs."""
        return load_presets(self.presets)


def add_settings() -> None:
    """Add the section; the WebUI calls this when it builds its settings page."""
    from modules import shared

    default, new = Settings(), shared.OptionInfo
    options = {
        "cache_mb": new(
            default.cache_mb, "Memory for merges (MB)", gr.Slider, {"minimum": 0, "maximum": 16384, "step": 64}
        ).info("a merge kept in memory need not be repeated; 0 keeps none"),
        "device": new(default.device, "Device for merging", gr.Dropdown, {"choices": list(DEVICES)}).info(
            "auto uses the GPU if there is one"
        ),
        "mode": new(default.mode, "Default mode", gr.Dropdown, {"choices": list(MODES)})
        .info("takes effect after Reload UI")
        .needs_reload_ui(),
        "presets": new("", "Block weight preset file").info(
            "one NAME:1,1,0,… per line; leave empty to use the file of sd-webui-lora-block-weight"
        ),
    }
    for name, option in options.items():
        option.section = _SECTION
        shared.opts.add_option(f"power_merger_{name}", option)


def read_settings() -> Settings:
    from modules import shared

    default = Settings()
    chosen = getattr(shared.opts, "power_merger_presets", "")
    return Settings(
        getattr(shared.opts, "power_merger_cache_mb", default.cache_mb),
        getattr(shared.opts, "power_merger_device", default.device),
        getattr(shared.opts, "power_merger_mode", default.mode),
        Path(chosen) if chosen else _presets_of_block_weight_extension(),
    )


def _presets_of_block_weight_extension() -> Path | None:
    """Return the preset file of sd-webui-lora-block-weight, if that is installed and enabled."""
    from modules import extensions

    files = (Path(extension.path) / "scripts" / "lbwpresets.txt" for extension in extensions.active())
    return next((file for file in files if file.is_file()), None)
