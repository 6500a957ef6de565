"""Forge, reForge, Forge Classic: LoRAs are patches on copies of the model's UNet and text encoder.

The WebUI builds the patched copies anew when its `current_lora_hash` changes, always from `forge_objects_original`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats import BIAS
from lib_pm.prompt.parse import LoraTag
from lib_pm.webui.adapter import Placement, layer_of, weight_sizes
from lib_pm.webui.lora_extension import find_lora

# LoRAs change weights in place there; a quantized weight cannot be changed and is patched in each forward.
_PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def replace(
    networks: Any, model: Any, name: str, tensors: Mapping[str, Tensor], stacked: Sequence[LoraTag]
) -> Placement:
    """See `Replace`."""
    objects = model.forge_objects_original.shallow_copy()
    for tag in stacked:
        _add_file(networks, model, objects, tag)
    # Given more than 12 tensors that it does not know, the WebUI skips the whole LoRA without a word.
    layers = _fitting(networks, objects, weight_sizes(tensors))
    fitting = {key: tensor for key, tensor in tensors.items() if layer_of(key) in layers}
    taken = _add(networks, model, objects, name, fitting) if fitting else 0
    if taken != len(layers):
        raise MergeInputError(f"The WebUI accepted {taken} of {len(layers)} layers of the merge.")
    own, own_hash = model.forge_objects_after_applying_lora, model.current_lora_hash
    model.forge_objects_after_applying_lora = objects
    model.forge_objects = objects.shallow_copy()
    model.current_lora_hash = name  # no hash of the WebUI's: whatever it loads next, it builds anew

    def undo() -> None:
        """With its own hash back, the WebUI keeps what it built while the prompt's LoRAs stay the same."""
        if model.forge_objects_after_applying_lora is objects:
            model.forge_objects_after_applying_lora = own
            model.current_lora_hash = own_hash

    return Placement(layers, undo)


def _add_file(networks: Any, model: Any, objects: Any, tag: LoraTag) -> None:
    """Patch the objects with a LoRA's file at its strengths, as the WebUI does."""
    unread = [*([f"lbw={tag.lbw}"] if tag.lbw else []), *tag.other]
    if unread:
        raise MergeInputError(
            f"{', '.join(unread)} of {tag.name} cannot act beside a merge in this WebUI, because pm=off leaves the "
            "LoRA to the WebUI; remove one of them."
        )
    path = str(find_lora(networks, tag.name))
    _add(networks, model, objects, path, networks.load_lora_state_dict(path), tag.model, tag.clip)


def _add(
    networks: Any,
    model: Any,
    objects: Any,
    name: str,
    tensors: Mapping[str, Tensor],
    unet: float = 1.0,
    clip: float = 1.0,
) -> int:
    """Let the WebUI patch the objects with a LoRA; return how many patches it added."""
    before = _patches(objects)
    # a copy, as Forge Neo may change what it is given
    objects.unet, objects.clip = networks.load_lora_for_models(
        objects.unet, objects.clip, dict(tensors), unet, clip, filename=name, **_online(networks, model)
    )
    return _patches(objects) - before


def _online(networks: Any, model: Any) -> dict[str, bool]:
    """Return whether to patch in each forward, decided as the WebUI's own loader does.

    Forge and Forge Neo ask for it.
    """
    settings = getattr(networks, "dynamic_args", None)
    if settings is None:
        return {}
    if not isinstance(settings, dict):  # Forge Neo's is a class, and what the user chose there holds for every dtype
        return {"online_mode": bool(settings.online_lora)}
    plain = model.forge_objects.unet.model.storage_dtype in _PLAIN_DTYPES
    return {"online_mode": bool(settings.get("online_lora", False)) and not plain}


def _fitting(networks: Any, objects: Any, sizes: Mapping[str, tuple[int, int]]) -> frozenset[str]:
    """Return the layers that the WebUI finds in the loaded model, where their weight is of the same size."""
    names = (
        networks if hasattr(networks, "model_lora_keys_unet") else importlib.import_module("ldm_patched.modules.lora")
    )
    models = objects.unet.model, objects.clip.cond_stage_model
    weights = {key: weight for model in models for key, weight in model.named_parameters()}
    known = names.model_lora_keys_clip(models[1], names.model_lora_keys_unet(models[0], {}))
    return frozenset(layer for layer, size in sizes.items() if _finds(layer, known, weights, size))


def _finds(layer: str, known: Mapping[str, Any], weights: Mapping[str, Tensor], size: tuple[int, int]) -> bool:
    """known: layer -> the name of its weight."""
    if layer.endswith(BIAS):
        weight = known.get(layer.removesuffix(BIAS))
        bias = weights.get(weight.removesuffix(".weight") + ".bias") if isinstance(weight, str) else None
        return bias is not None and _fits(bias, size)
    return layer in known and _fits(weights.get(known[layer]), size)


def _fits(weight: Tensor | None, size: tuple[int, int]) -> bool:
    """Return whether a weight is of this size.

    Only a plain one has a size to compare: a quantized one is packed, and some keys stand for a part of one.
    """
    return weight is None or not weight.is_floating_point() or size == (weight.shape[0], weight[0].numel())


def forget_files(networks: Any, model: Any) -> None:
    """Let the WebUI read and apply anew what it keeps of a LoRA by its name alone: the file was written."""
    if not hasattr(model, "forge_objects_original"):
        return  # not one of these WebUIs, or no model yet
    if hasattr(networks.load_lora_state_dict, "cache_clear"):
        networks.load_lora_state_dict.cache_clear()
    model.current_lora_hash = ""
    objects = model.forge_objects_original
    for patcher in (objects.unet, objects.clip.patcher):
        if hasattr(patcher.model, "lora_loader"):
            patcher.model.lora_loader.loaded_hash = ""


def _patches(objects: Any) -> int:
    """Return how many patches are on the UNet and the text encoder together.

    Forge keeps them by LoRA, its forks by weight.
    """
    return sum(
        len(some)
        for patcher in (objects.unet, objects.clip.patcher)
        for patches in (patcher.lora_patches.values() if hasattr(patcher, "lora_patches") else [patcher.patches])
        for some in patches.values()
    )
