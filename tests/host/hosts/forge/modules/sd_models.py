"""Forge's model: none at the start; a new engine for each checkpoint, loaded when an image is asked for."""

from __future__ import annotations

from typing import Any

import safetensors
import tiny_pipeline
import torch
from backend import memory_management
from backend.patcher.clip import CLIP
from backend.patcher.unet import KModel, UnetPatcher
from backend.utils import load_torch_file
from modules import script_callbacks, shared
from modules.sd_checkpoints import (  # noqa: F401 (offered by these names)
    CheckpointInfo,
    checkpoints_list,
    get_closet_checkpoint_match,
    select_checkpoint,
)
from torch import Tensor


class ForgeObjects:
    def __init__(self, unet: Any, clip: Any, vae: Any, clipvision: Any):
        self.unet, self.clip, self.vae, self.clipvision = unet, clip, vae, clipvision

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet, self.clip, self.vae, self.clipvision)


class StableDiffusion:
    """forge_objects: what is used now; …_original: without any LoRA; …_after_applying_lora: with the prompt's."""

    is_sd1, is_sd2, is_sdxl, is_sd3 = True, False, False, False
    is_inpaint = False

    def __init__(self, info: CheckpointInfo):
        unet, text_encoder = tiny_pipeline.build(info.name_for_extra)
        objects = ForgeObjects(UnetPatcher(KModel(unet)), CLIP({"clip_l": text_encoder}), None, None)
        self.forge_objects = objects
        self.forge_objects_original = objects.shallow_copy()
        self.forge_objects_after_applying_lora = objects.shallow_copy()
        self.current_lora_hash = str([])
        self.sd_checkpoint_info, self.sd_model_hash, self.filename = info, info.shorthash, info.filename
        self.comments: list[str] = []
        self.extra_generation_params: dict[str, Any] = {}
        self.first_stage_model = self.cond_stage_model = None

    @torch.inference_mode()
    def get_learned_conditioning(self, prompts: list[str]) -> Tensor:
        memory_management.load_model_gpu(self.forge_objects.clip.patcher)
        return self.forge_objects.clip.cond_stage_model.clip_l(prompts)


class FakeInitialModel:
    """(So Forge calls it.) What `shared.sd_model` is before the first image: nearly nothing."""

    cond_stage_model = None
    chunk_length = 75


class SdModelData:
    def __init__(self) -> None:
        self.sd_model: Any = FakeInitialModel()
        self.loaded: CheckpointInfo | None = None

    def get_sd_model(self) -> Any:
        return self.sd_model

    def set_sd_model(self, v: Any) -> None:
        self.sd_model = v


model_data = SdModelData()


def forge_model_reload() -> tuple[Any, bool]:
    info = select_checkpoint(shared.opts.sd_model_checkpoint)
    if model_data.loaded == info:
        return model_data.sd_model, False
    model_data.set_sd_model(StableDiffusion(info))
    model_data.loaded = info
    script_callbacks.model_loaded_callback(model_data.sd_model)
    return model_data.sd_model, True


def reload_model_weights(sd_model: Any = None, info: Any = None, forced_reload: bool = False) -> None:
    """Of no effect in Forge."""


def read_state_dict(checkpoint_file: str, print_global_state: bool = False, map_location: Any = None) -> Any:
    return load_torch_file(checkpoint_file)


def read_metadata_from_safetensors(filename: str) -> dict[str, str]:
    with safetensors.safe_open(filename, "pt") as file:
        return dict(file.metadata() or {})
