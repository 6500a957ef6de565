"""A patcher: the model it shares with its clones, and its own list of patches, which it does not apply itself."""

from __future__ import annotations

from typing import Any

from backend.patcher.lora import LoraLoader, names_of
from torch import nn


class ModelPatcher:
    def __init__(self, model: nn.Module):
        self.model = model
        self.lora_patches: dict[tuple[Any, ...], dict[str, list[Any]]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)
        self.lora_loader = model.lora_loader

    def clone(self) -> ModelPatcher:
        copy = type(self)(self.model)
        copy.lora_patches = dict(self.lora_patches)
        copy.model_options = dict(self.model_options)
        return copy

    def is_clone(self, other: Any) -> bool:
        return getattr(other, "model", None) is self.model

    def add_patches(
        self,
        *,
        filename: str,
        patches: dict[str, Any],
        strength_patch: float = 1.0,
        strength_model: float = 1.0,
        online_mode: bool = False,
    ) -> set[str]:
        """Returns the keys that the model has. A second set of patches under the same key replaces the first."""
        found = patches.keys() & set(names_of(self.model))
        self.lora_patches[(filename, strength_patch, strength_model, online_mode)] = {
            key: [[strength_patch, patches[key], strength_model, None, None]] for key in patches if key in found
        }
        return found

    def has_online_lora(self) -> bool:
        return any(online for *_, online in self.lora_patches)

    def refresh_loras(self) -> None:
        self.lora_loader.refresh(self.lora_patches)

    def forge_unpatch_model(self, target_device: Any = None) -> None:
        """Of objects, of which the double patches none."""

    def model_state_dict(self) -> dict[str, Any]:
        return self.model.state_dict()
