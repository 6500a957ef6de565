from __future__ import annotations

import torch
from backend.patcher.base import ModelPatcher
from torch import nn


class KModel(nn.Module):
    storage_dtype = computation_dtype = torch.float32

    def __init__(self, model: nn.Module):
        super().__init__()
        self.diffusion_model = model


class UnetPatcher(ModelPatcher):
    pass
