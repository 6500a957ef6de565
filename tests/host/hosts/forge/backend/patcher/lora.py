"""From a LoRA's tensors to patches, and from patches into weights."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from backend.utils import set_attr_raw
from lora_names import to_original
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_DIFFUSERS_PATHS = [  # what a UNet of SD1 can have by diffusers' names; those whose layer is missing are dropped below
    *(f"down_blocks_{level}_{kind}_{i}" for level in range(4) for kind in ("attentions", "resnets") for i in range(2)),
    *(f"up_blocks_{level}_{kind}_{i}" for level in range(4) for kind in ("attentions", "resnets") for i in range(3)),
    "mid_block_attentions_0",
    "mid_block_resnets_0",
    "mid_block_resnets_1",
]
_WHOLE = [
    "conv_in",
    "conv_out",
    "time_embedding_linear_1",
    "time_embedding_linear_2",
    *(f"down_blocks_{level}_downsamplers_0_conv" for level in range(3)),
    *(f"up_blocks_{level}_upsamplers_0_conv" for level in range(3)),
]
_RESNET = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")
_BLOCK = "transformer_blocks_0_"
_TRANSFORMER = (
    "proj_in",
    "proj_out",
    *(_BLOCK + f"{attn}_to_{part}" for attn in ("attn1", "attn2") for part in ("q", "k", "v", "out_0")),
    *(_BLOCK + part for part in ("ff_net_0_proj", "ff_net_2")),
)


@functools.cache
def names_of(model: nn.Module) -> tuple[str, ...]:
    """Of its parameters, which stay when what is in them changes."""
    return tuple(name for name, _ in model.named_parameters())


def model_lora_keys_unet(model: nn.Module, key_map: dict[str, str] = {}) -> dict[str, str]:  # noqa: B006
    """LoRA layer -> the model's parameter. (The default is one dict for all calls, as it is in Forge.)"""
    by_name = {
        key.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_"): key
        for key in names_of(model)
        if key.endswith(".weight")
    }
    for name, key in by_name.items():
        key_map[f"lora_unet_{name}"] = key
        key_map[key.removesuffix(".weight")] = key
    paths = list(_WHOLE)
    for path in _DIFFUSERS_PATHS:
        paths += [f"{path}_{layer}" for layer in (_TRANSFORMER if "attentions" in path else _RESNET)]
    for path in paths:
        if to_original(path) in by_name:
            key_map[f"lora_unet_{path}"] = by_name[to_original(path)]
    return key_map


def model_lora_keys_clip(model: nn.Module, key_map: dict[str, str] = {}) -> dict[str, str]:  # noqa: B006
    for key in names_of(model):
        match = re.fullmatch(
            r"clip_l\.transformer\.(text_model\.encoder\.layers\.\d+\.(?:self_attn|mlp)\..+)\.weight", key
        )
        if match:
            for prefix in ("lora_te_", "lora_te1_"):
                key_map[prefix + match[1].replace(".", "_")] = key
            key_map[f"text_encoder.{match[1]}"] = key
    return key_map


def load_lora(lora: dict[str, Tensor], to_load: dict[str, str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(patches by the model's parameter, what is left of the LoRA)."""
    patches: dict[str, Any] = {}
    loaded = set()
    for layer, key in to_load.items():
        alpha = lora.get(f"{layer}.alpha")
        loaded.add(f"{layer}.alpha")
        for up, down, mid in (
            (f"{layer}.lora_up.weight", f"{layer}.lora_down.weight", f"{layer}.lora_mid.weight"),
            (f"{layer}.lora_B.weight", f"{layer}.lora_A.weight", ""),
        ):
            if up in lora:
                scale = None if alpha is None else alpha.item()
                patches[key] = ("lora", (lora[up], lora[down], scale, lora.get(mid), None))
                loaded |= {up, down, mid}
                break
        if f"{layer}.diff" in lora:
            patches[key] = ("diff", (lora[f"{layer}.diff"],))
            loaded.add(f"{layer}.diff")
    return patches, {key: tensor for key, tensor in lora.items() if key not in loaded}


def merge_lora_to_weight(patches: list[Any], weight: Tensor, key: str = "online_lora") -> Tensor:
    merged = weight.float().clone()
    for strength, (kind, value), *_ in patches:
        if kind == "diff":
            if value[0].shape == merged.shape:
                merged += strength * value[0].to(merged.dtype)
            else:
                print(f"shape mismatch, {key} not merged: {tuple(value[0].shape)}, {tuple(merged.shape)}")
            continue
        up, down, alpha, mid, _ = value
        scale = 1.0 if alpha is None else alpha / len(down)
        if mid is not None:
            difference = torch.einsum("or,rskl,si->oikl", up.float().flatten(1), mid.float(), down.float().flatten(1))
        else:
            difference = up.float().flatten(1) @ down.float().flatten(1)
        if difference.numel() == merged.numel():
            difference = difference.reshape(merged.shape)
        elif merged.shape[1] > difference.shape[1]:  # a narrower LoRA is filled up with zeros, without a word
            difference = F.pad(difference, (0, merged.shape[1] - difference.shape[1]))
        merged += strength * scale * difference
    return merged.to(weight.dtype)


class LoraLoader:
    """One for each model, shared by all its patchers: knows which patches its weights hold now."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.backup: dict[str, nn.Parameter] = {}
        self.loaded_hash = str([])

    @torch.inference_mode()
    def refresh(self, lora_patches: dict[tuple[Any, ...], dict[str, list[Any]]], offload_device: Any = None) -> None:
        """Nothing is done as long as file names and strengths are those of the last time, whatever the patches hold."""
        wanted = str(list(lora_patches))
        if wanted == self.loaded_hash:
            return
        for key, weight in self.backup.items():
            set_attr_raw(self.model, key, weight)
        self.backup = {}
        by_key: dict[str, list[Any]] = {}
        for patches in lora_patches.values():
            for key, listed in patches.items():
                by_key[key] = by_key.get(key, []) + listed
        for key, listed in by_key.items():
            weight = self.model.get_parameter(key)
            self.backup[key] = weight
            merged = merge_lora_to_weight(listed, weight, key)
            set_attr_raw(self.model, key, nn.Parameter(merged, requires_grad=False))
        self.loaded_hash = wanted
