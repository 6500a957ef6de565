"""Forge, reForge, Forge Classic: LoRAs are patches on copies of the model's UNet and text encoder.

The WebUI builds the patched copies anew when its `current_lora_hash` changes, always from `forge_objects_original`. The
ones that it built for the prompt are kept on `p` and put back afterwards.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.host.port import find_lora
from lib_pm.jobs.prompt import LoraTag

_KEPT = "_power_merger_objects"  # on p: ours, the WebUI's own, the WebUI's hash of those
# LoRAs change weights in place there; a quantized weight cannot be changed and is patched in each forward.
_PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Forge:
    networks: Any

    def replace(self, p: Any, name: str, tensors: Mapping[str, Tensor], stacked: Sequence[LoraTag]) -> frozenset[str]:
        """See `Host.replace`."""
        model, networks = p.sd_model, self.networks
        base = model.forge_objects_original.shallow_copy()
        for tag in stacked:
            if tag.lbw or tag.other:
                raise MergeInputError(
                    f"{', '.join([*([f'lbw={tag.lbw}'] if tag.lbw else []), *tag.other])} of {tag.name} cannot act "
                    "beside a merge in this WebUI, as pm=off leaves it to the WebUI; take one of them out."
                )
            path = str(find_lora(networks, tag.name))
            self._add(model, base, path, networks.load_lora_state_dict(path), tag.model, tag.clip)
        objects = base.shallow_copy()
        arrived = frozenset(_layer(key) for key in tensors)
        if self._add(model, objects, name, tensors) != len(arrived):
            # Given more than 12 tensors that it does not know, the WebUI skips the whole LoRA without a word.
            arrived &= self._known(base)
            fitting = {key: tensor for key, tensor in tensors.items() if _layer(key) in arrived}
            objects = base.shallow_copy()
            taken = self._add(model, objects, name, fitting) if fitting else 0
            if taken != len(arrived):
                raise MergeInputError(f"The WebUI took {taken} of {len(arrived)} layers of the merge.")
        setattr(p, _KEPT, (objects, model.forge_objects_after_applying_lora, model.current_lora_hash))
        model.forge_objects_after_applying_lora = objects
        model.forge_objects = objects.shallow_copy()
        model.current_lora_hash = name  # no hash of the WebUI's: whatever it loads next, it builds anew
        return arrived

    def restore(self, p: Any) -> None:
        """See `Host.restore`. With its own hash back the WebUI keeps what it built, if the prompt's LoRAs stay."""
        ours, own, own_hash = getattr(p, _KEPT, (None, None, None))
        if ours is None:
            return
        delattr(p, _KEPT)
        if p.sd_model.forge_objects_after_applying_lora is ours:
            p.sd_model.forge_objects_after_applying_lora = own
            p.sd_model.current_lora_hash = own_hash

    def _add(
        self,
        model: Any,
        objects: Any,
        name: str,
        tensors: Mapping[str, Tensor],
        unet: float = 1.0,
        clip: float = 1.0,
    ) -> int:
        """Let the WebUI patch the objects with a LoRA; the number of patches that it added."""
        before = _patches(objects)
        # a copy, as Forge Neo may change what it is given
        objects.unet, objects.clip = self.networks.load_lora_for_models(
            objects.unet, objects.clip, dict(tensors), unet, clip, filename=name, **self._online(model)
        )
        return _patches(objects) - before

    def _online(self, model: Any) -> dict[str, bool]:
        """Forge alone asks whether to patch in each forward; as its own loader decides it."""
        settings = getattr(self.networks, "dynamic_args", None)
        if settings is None:
            return {}
        plain = model.forge_objects.unet.model.storage_dtype in _PLAIN_DTYPES
        return {"online_mode": bool(settings.get("online_lora", False)) and not plain}

    def _known(self, objects: Any) -> frozenset[str]:
        """The names of LoRA layers that the WebUI finds in the loaded model."""
        names = self.networks
        if not hasattr(names, "model_lora_keys_unet"):
            names = importlib.import_module("ldm_patched.modules.lora")
        known = names.model_lora_keys_unet(objects.unet.model, {})
        known = names.model_lora_keys_clip(objects.clip.cond_stage_model, known)
        return frozenset(key for key in known if isinstance(key, str))


def _layer(key: str) -> str:
    """`lora_unet_conv_in` of `lora_unet_conv_in.lora_up.weight`."""
    return key.partition(".")[0]


def _patches(objects: Any) -> int:
    """How many patches are on the UNet and the text encoder together. Forge keeps them by LoRA, its forks by weight."""
    return sum(
        len(some)
        for patcher in (objects.unet, objects.clip.patcher)
        for patches in (patcher.lora_patches.values() if hasattr(patcher, "lora_patches") else [patcher.patches])
        for some in patches.values()
    )
