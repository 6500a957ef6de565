from __future__ import annotations

from typing import Any

from backend.patcher.base import ModelPatcher
from torch import nn


class JointTextEncoder(nn.ModuleDict):
    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else super().__getattr__(name)


class CLIP:
    def __init__(self, model_dict: dict[str, nn.Module] | None = None, no_init: bool = False):
        if not no_init:
            self.cond_stage_model = JointTextEncoder(model_dict)
            self.patcher = ModelPatcher(self.cond_stage_model)

    def clone(self) -> CLIP:
        copy = CLIP(no_init=True)
        copy.patcher, copy.cond_stage_model = self.patcher.clone(), self.cond_stage_model
        return copy

    def add_patches(self, *args: Any, **kwargs: Any) -> set[str]:
        return self.patcher.add_patches(*args, **kwargs)
