"""Forge's LoRAs: patches on clones of the model's patchers, made anew when names or strengths change."""

from __future__ import annotations

import functools
import os
from typing import Any

import network
import torch
from backend.args import dynamic_args
from backend.patcher.lora import load_lora, model_lora_keys_clip, model_lora_keys_unet
from backend.utils import load_torch_file
from modules import errors, sd_models
from network_listing import (  # noqa: F401 (offered by these names)
    available_network_aliases,
    available_network_hash_lookup,
    available_networks,
    find_on_disk,
    forbidden_network_aliases,
    list_available_networks,
    process_network_files,
    update_available_networks_by_names,
)

extra_network_lora: Any = None
loaded_networks: list[network.Network] = []
networks_in_memory: dict[str, network.Network] = {}
_UNMATCHED = 12  # tensors; with more of them the LoRA counts as another model's


def load_lora_for_models(
    model: Any,
    clip: Any,
    lora: dict[str, torch.Tensor],
    strength_model: float,
    strength_clip: float,
    filename: str = "default",
    online_mode: bool = False,
) -> tuple[Any, Any]:
    """Clones with the LoRA's patches; if it fits badly the very objects that were given, and a line in the log."""
    unet_keys = model_lora_keys_unet(model.model) if model is not None else {}
    clip_keys = model_lora_keys_clip(clip.cond_stage_model) if clip is not None else {}
    lora_unet, unmatched = load_lora(lora, unet_keys)
    lora_clip, unmatched = load_lora(unmatched, clip_keys)
    if len(unmatched) > _UNMATCHED:
        print(f"[LORA] LoRA version mismatch: {filename}")
        return model, clip
    if unmatched:
        print(f"[LORA] Loading {filename} with unmatched keys {list(unmatched)}")

    def patched(part: Any, patches: dict[str, Any], strength: float) -> Any:
        clone = part.clone()
        loaded = clone.add_patches(filename=filename, patches=patches, strength_patch=strength, online_mode=online_mode)
        return part if len(patches) - len(loaded) > _UNMATCHED else clone

    if model is not None and lora_unet:
        model = patched(model, lora_unet, strength_model)
    if clip is not None and lora_clip:
        clip = patched(clip, lora_clip, strength_clip)
    return model, clip


@functools.lru_cache(maxsize=5)
def load_lora_state_dict(filename: str) -> dict[str, torch.Tensor]:
    """Kept by name: a file that has changed since is not read again."""
    return load_torch_file(filename, safe_load=True)


def load_network(name: str, network_on_disk: Any) -> network.Network:
    net = network.Network(name, network_on_disk)
    net.mtime = os.path.getmtime(network_on_disk.filename)
    return net


def load_networks(names: list[str], te_multipliers=None, unet_multipliers=None, dyn_dims=None) -> None:
    """In every batch and pass, with no names too. Nothing is done if files and strengths are those of the last time."""
    current = sd_models.model_data.get_sd_model()
    if current is None:
        return
    loaded_networks.clear()
    found = find_on_disk(names)
    for on_disk, name in zip(found, names, strict=True):
        try:
            net = load_network(name, on_disk)
        except Exception as error:  # noqa: BLE001 (as the host does)
            errors.display(error, f"loading network {on_disk.filename}")  # and raises itself where there is none
            continue
        net.mentioned_name = name
        on_disk.read_hash()
        loaded_networks.append(net)

    online = dynamic_args.get("online_lora", False)
    if current.forge_objects.unet.model.storage_dtype in (torch.float32, torch.float16, torch.bfloat16):
        online = False
    targets = [
        [on_disk.filename, unet, te, online]
        for on_disk, unet, te in zip(found, unet_multipliers, te_multipliers, strict=True)
    ]
    if current.current_lora_hash == str(targets):
        return
    current.current_lora_hash = str(targets)
    objects = current.forge_objects
    objects.unet, objects.clip = current.forge_objects_original.unet, current.forge_objects_original.clip
    for filename, unet, te, online_mode in targets:
        objects.unet, objects.clip = load_lora_for_models(
            objects.unet,
            objects.clip,
            load_lora_state_dict(filename),
            unet,
            te,
            filename=filename,
            online_mode=online_mode,
        )
    current.forge_objects_after_applying_lora = objects.shallow_copy()


list_available_networks()
