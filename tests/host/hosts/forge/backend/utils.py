from __future__ import annotations

from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn


def load_torch_file(ckpt: str, safe_load: bool = False, device: Any = None) -> dict[str, Tensor]:
    if ckpt.lower().endswith(".safetensors"):
        return safetensors.torch.load_file(ckpt)
    return torch.load(ckpt, map_location="cpu", weights_only=True)


def set_attr_raw(model: nn.Module, path: str, value: nn.Parameter) -> None:
    *parents, name = path.split(".")
    setattr(model.get_submodule(".".join(parents)), name, value)
