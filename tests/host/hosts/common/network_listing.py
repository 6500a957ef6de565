"""Which LoRAs there are, by name and by alias: the same in both hosts."""

from __future__ import annotations

import os

from modules import errors, shared
from network import NetworkOnDisk
from ui_extra_networks_lora import ExtraNetworksPageLora

available_networks: dict[str, NetworkOnDisk] = {}
available_network_aliases: dict[str, NetworkOnDisk] = {}
available_network_hash_lookup: dict[str, NetworkOnDisk] = {}
forbidden_network_aliases: dict[str, int] = {}


def process_network_files(names: list[str] | None = None) -> None:
    for filename in (
        filename
        for folder in ExtraNetworksPageLora().allowed_directories_for_previews()
        for filename in shared.walk_files(folder, allowed_extensions=[".pt", ".ckpt", ".safetensors"])
    ):
        name = os.path.splitext(os.path.basename(filename))[0]
        if names and name not in names:
            continue
        try:
            entry = NetworkOnDisk(name, filename)
        except OSError:
            errors.report(f"Failed to load network {name} from {filename}", exc_info=True)
            continue
        available_networks[name] = entry
        if entry.alias in available_network_aliases:  # so a second file of that alias, or the same file seen again
            forbidden_network_aliases[entry.alias.lower()] = 1
        available_network_aliases[name] = available_network_aliases[entry.alias] = entry


def update_available_networks_by_names(names: list[str]) -> None:
    process_network_files(names)


def list_available_networks() -> None:
    for listed in (available_networks, available_network_aliases, available_network_hash_lookup):
        listed.clear()
    forbidden_network_aliases.clear()
    forbidden_network_aliases.update({"none": 1, "Addams": 1})
    os.makedirs(shared.cmd_opts.lora_dir, exist_ok=True)
    process_network_files()


def find_on_disk(names: list[str]) -> list[NetworkOnDisk | None]:
    """One for each name, or None. A new file is found by its name; an unknown name has the whole folder read anew."""

    def look() -> list[NetworkOnDisk | None]:
        return [
            (available_networks if name.lower() in forbidden_network_aliases else available_network_aliases).get(name)
            for name in names
        ]

    missing = [name for name, found in zip(names, look(), strict=True) if found is None]
    if missing:
        update_available_networks_by_names(missing)
    if any(found is None for found in look()):
        list_available_networks()
    return look()
