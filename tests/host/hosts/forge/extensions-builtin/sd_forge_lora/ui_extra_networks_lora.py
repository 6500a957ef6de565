"""The page of the LoRAs' cards, with the folders of Forge Neo's `--lora-dirs`, of which Forge has none."""

from __future__ import annotations

from modules import shared, ui_extra_networks


class ExtraNetworksPageLora(ui_extra_networks.ExtraNetworksPage):
    def __init__(self) -> None:
        super().__init__("Lora")

    def allowed_directories_for_previews(self) -> list[str]:
        return [shared.cmd_opts.lora_dir, *shared.cmd_opts.lora_dirs]
