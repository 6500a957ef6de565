"""The page of the LoRAs' cards. A1111 searches the folder of its old LyCORIS extension too."""

from __future__ import annotations

from modules import shared, ui_extra_networks


class ExtraNetworksPageLora(ui_extra_networks.ExtraNetworksPage):
    def __init__(self) -> None:
        super().__init__("Lora")

    def allowed_directories_for_previews(self) -> list[str]:
        return [shared.cmd_opts.lora_dir, shared.cmd_opts.lyco_dir_backcompat]
