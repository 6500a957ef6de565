"""What A1111 does where Forge does otherwise."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import tiny_pipeline
import torch
from modules import sd_models, shared
from torch import Tensor


def without_gradients() -> AbstractContextManager[Any]:
    return torch.no_grad()


def load_chosen_model() -> None:
    sd_models.reload_model_weights()


def forget_networks(p: Any) -> None:
    pass


def take_networks(p: Any) -> None:
    pass  # each layer looks at networks.loaded_networks in its forward


def hires_conds_before_sampling(p: Any) -> None:
    """The hires pass computes its own, after its own activation, unless the user wants the first pass's networks."""
    if shared.opts.hires_fix_use_firstpass_conds:
        p.calculate_hr_conds()


def before_hires(p: Any) -> None:
    pass


def denoise(sd_model: Any, x: Tensor, sigma: float, text: Tensor) -> Tensor:
    return sd_model.model.diffusion_model(x, sigma, text)


def decode(latents: Tensor) -> Tensor:
    return tiny_pipeline.decode(latents)
