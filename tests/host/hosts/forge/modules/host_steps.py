"""What Forge does where A1111 does otherwise."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import tiny_pipeline
import torch
from backend import memory_management
from modules import extra_networks, sd_models, shared
from torch import Tensor


def without_gradients() -> AbstractContextManager[Any]:
    return torch.inference_mode()


def load_chosen_model() -> None:
    sd_models.forge_model_reload()


def forget_networks(p: Any) -> None:
    """At the start of a batch: the model without any LoRA."""
    p.sd_model.forge_objects = p.sd_model.forge_objects_original.shallow_copy()


def take_networks(p: Any) -> None:
    """After activation, and again before each sampling: whatever was stored as the model with its LoRAs."""
    p.sd_model.forge_objects = p.sd_model.forge_objects_after_applying_lora.shallow_copy()


def hires_conds_before_sampling(p: Any) -> None:
    """At once, with the hires pass's networks activated and then the first pass's again: four activations in all."""
    if not shared.opts.hires_fix_use_firstpass_conds:
        extra_networks.activate(p, p.hr_extra_network_data)
    p.calculate_hr_conds()
    if not shared.opts.hires_fix_use_firstpass_conds:
        extra_networks.activate(p, p.extra_network_data)


def before_hires(p: Any) -> None:
    if "Use same choices" not in p.hr_additional_modules:  # a TypeError for the API's default, None
        raise NotImplementedError("The double has no other modules.")


def denoise(sd_model: Any, x: Tensor, sigma: float, text: Tensor) -> Tensor:
    patcher = sd_model.forge_objects.unet
    memory_management.load_model_gpu(patcher)
    return patcher.model.diffusion_model(x, sigma, text)


def decode(latents: Tensor) -> Tensor:
    return tiny_pipeline.decode(latents)
