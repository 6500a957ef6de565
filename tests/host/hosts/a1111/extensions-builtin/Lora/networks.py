"""A1111's LoRAs: those in use are listed, and each layer of the model takes them in, lazily, before it runs."""

from __future__ import annotations

import os
import re
from typing import Any

import network
import network_modules
import torch
from lora_names import to_original
from modules import errors, sd_models, shared
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
from torch import nn

extra_network_lora: Any = None
loaded_networks: list[network.Network] = []
networks_in_memory: dict[str, network.Network] = {}


def assign_network_names_to_compvis_modules(sd_model: Any) -> None:
    """`network_layer_mapping`, and the hooks that stand for A1111's own patch of every layer's forward and loading."""
    mapping = {}
    for root in (sd_model.cond_stage_model.wrapped, sd_model.model):
        for path, module in root.named_modules():
            name = path.replace(".", "_")
            mapping[name] = module
            is_hooked = hasattr(module, "network_layer_name")
            module.network_layer_name = name
            if isinstance(module, (nn.Linear, nn.Conv2d)) and not is_hooked:
                module.register_forward_pre_hook(lambda layer, inputs: network_apply_weights(layer))
                module.register_load_state_dict_post_hook(lambda layer, keys: network_reset_cached_weight(layer))
    sd_model.network_layer_mapping = mapping


def _find_layer(name: str) -> tuple[str, nn.Module | None]:
    mapping = shared.sd_model.network_layer_mapping
    key = name
    if name.startswith("lora_unet_"):
        key = f"diffusion_model_{to_original(name.removeprefix('lora_unet_'))}"
    elif match := re.match(r"lora_te1?_(text_model_.+)", name):
        key = f"transformer_{match[1]}"
    return key, mapping.get(key)


def load_network(name: str, network_on_disk: Any) -> network.Network:
    net = network.Network(name, network_on_disk)
    net.mtime = os.path.getmtime(network_on_disk.filename)
    sd = sd_models.read_state_dict(network_on_disk.filename)
    if not hasattr(shared.sd_model, "network_layer_mapping"):
        assign_network_names_to_compvis_modules(shared.sd_model)
    matched: dict[str, network_modules.NetworkWeights] = {}
    for key_network, weight in sd.items():
        layer, _, part = key_network.partition(".")
        key, module = _find_layer(layer)
        if module is not None:  # what fits no layer is left out, and only a debug log says so
            matched.setdefault(key, network_modules.NetworkWeights(key_network, key, {}, module)).w[part] = weight
    net.modules = {key: network_modules.create_module(net, weights) for key, weights in matched.items()}
    return net


def purge_networks_from_memory() -> None:
    while len(networks_in_memory) > shared.opts.lora_in_memory_limit:
        networks_in_memory.pop(next(iter(networks_in_memory)))


def load_networks(names: list[str], te_multipliers=None, unet_multipliers=None, dyn_dims=None) -> None:
    """In every batch and pass, with no names too. One that is already loaded, by name, is read again if it is newer."""
    already = {net.name: net for net in loaded_networks if net.name in names}
    loaded_networks.clear()
    failed = []
    for index, (on_disk, name) in enumerate(zip(find_on_disk(names), names, strict=True)):
        net = already.get(name)
        if on_disk is not None:
            net = net or networks_in_memory.get(name)
            if net is None or os.path.getmtime(on_disk.filename) > net.mtime:
                try:
                    net = load_network(name, on_disk)
                except Exception as error:  # noqa: BLE001 (as the host does)
                    errors.display(error, f"loading network {on_disk.filename}")
                    continue
                networks_in_memory.pop(name, None)
                networks_in_memory[name] = net
            net.mentioned_name = name
            on_disk.read_hash()
        if net is None:
            failed.append(name)
            continue
        net.te_multiplier = te_multipliers[index] if te_multipliers else 1.0
        net.unet_multiplier = unet_multipliers[index] if unet_multipliers else 1.0
        net.dyn_dim = dyn_dims[index] if dyn_dims else None
        loaded_networks.append(net)
    if failed:
        print(f"Lora not found: {', '.join(failed)}")
    purge_networks_from_memory()


def network_restore_weights_from_backup(layer: Any) -> None:
    if getattr(layer, "network_weights_backup", None) is not None:
        layer.weight.copy_(layer.network_weights_backup)


def network_apply_weights(layer: Any) -> None:
    """Nothing is done as long as names and multipliers are those of the last time, whatever the networks hold now."""
    current = getattr(layer, "network_current_names", ())
    wanted = tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in loaded_networks)
    if current == wanted:
        return
    with torch.no_grad():
        if getattr(layer, "network_weights_backup", None) is None:
            if current != ():
                raise RuntimeError(f"{layer.network_layer_name}: no backup, and the weights are not unchanged")
            layer.network_weights_backup = layer.weight.to("cpu", copy=True)
        network_restore_weights_from_backup(layer)
        for net in loaded_networks:
            module = net.modules.get(layer.network_layer_name)
            if module is None:
                continue
            try:
                updown, _ = module.calc_updown(layer.weight)
                layer.weight.copy_((layer.weight.to(updown.dtype) + updown).to(layer.weight.dtype))
            except RuntimeError:  # a shape that does not fit: counted, and said in a comment at the end
                counted = extra_network_lora.errors
                counted[net.name] = counted.get(net.name, 0) + 1
    layer.network_current_names = wanted


def network_reset_cached_weight(layer: Any) -> None:
    layer.network_current_names = ()
    layer.network_weights_backup = None


list_available_networks()
