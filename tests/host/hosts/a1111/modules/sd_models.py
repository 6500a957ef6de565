"""A1111's model: one object, into which the weights of another checkpoint are loaded."""

from __future__ import annotations

from typing import Any

import safetensors
import safetensors.torch
import tiny_pipeline
import torch
from modules import script_callbacks, shared
from modules.sd_checkpoints import (  # noqa: F401 (offered by these names)
    CheckpointInfo,
    checkpoints_list,
    get_closet_checkpoint_match,
    select_checkpoint,
)
from torch import Tensor, nn


class _Wrapped(nn.Module):
    def __init__(self, wrapped: nn.Module):
        super().__init__()
        self.wrapped = wrapped

    def forward(self, prompts: list[str]) -> Tensor:
        return self.wrapped(prompts)


class LatentDiffusion(nn.Module):
    """`model.diffusion_model` and `cond_stage_model.wrapped`."""

    is_sd1, is_sd2, is_sdxl, is_sd3, is_ssd = True, False, False, False, False
    cond_stage_key = "txt"

    def __init__(self, info: CheckpointInfo):
        super().__init__()
        unet, text_encoder = tiny_pipeline.build(info.name_for_extra)
        self.model = nn.Module()
        self.model.diffusion_model = unet
        self.cond_stage_model = _Wrapped(text_encoder)
        self.set_checkpoint(info)

    def set_checkpoint(self, info: CheckpointInfo) -> None:
        self.sd_checkpoint_info, self.sd_model_hash, self.sd_model_checkpoint = info, info.shorthash, info.filename

    def get_learned_conditioning(self, prompts: list[str]) -> Tensor:
        return self.cond_stage_model(prompts)


class SdModelData:
    def __init__(self) -> None:
        self.sd_model: LatentDiffusion | None = None

    def get_sd_model(self) -> LatentDiffusion:
        """Loads it if nobody has yet."""
        if self.sd_model is None:
            self.sd_model = LatentDiffusion(select_checkpoint(shared.opts.sd_model_checkpoint))
            script_callbacks.model_loaded_callback(self.sd_model)
        return self.sd_model

    def set_sd_model(self, v: LatentDiffusion | None) -> None:
        self.sd_model = v


model_data = SdModelData()


def reload_model_weights(sd_model: Any = None, info: CheckpointInfo | None = None) -> LatentDiffusion:
    info = info or select_checkpoint(shared.opts.sd_model_checkpoint)
    model = model_data.get_sd_model()
    if model.sd_checkpoint_info != info:
        unet, text_encoder = tiny_pipeline.build(info.name_for_extra)
        model.model.diffusion_model.load_state_dict(unet.state_dict())
        model.cond_stage_model.wrapped.load_state_dict(text_encoder.state_dict())
        model.set_checkpoint(info)
        script_callbacks.model_loaded_callback(model)
    return model


def read_state_dict(checkpoint_file: str, print_global_state: bool = False, map_location: Any = None) -> Any:
    if not checkpoint_file.lower().endswith(".safetensors"):
        return torch.load(checkpoint_file, map_location=map_location, weights_only=True)
    return safetensors.torch.load_file(checkpoint_file, device=map_location or "cpu")


def read_metadata_from_safetensors(filename: str) -> dict[str, str]:
    with safetensors.safe_open(filename, "pt") as file:
        return dict(file.metadata() or {})


shared.opts.onchange("sd_model_checkpoint", reload_model_weights, call=False)
