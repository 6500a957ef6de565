from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from modules import host_steps
from modules.shared import state
from tiny_pipeline import sigmas
from torch import Tensor


def sample(p: Any, x: Tensor, noise: Tensor, conds: tuple[Tensor, Tensor], steps: int, strength: float) -> Tensor:
    """Euler's method from `x` with noise on it. Interrupt and Skip leave what there is."""
    cond, uncond = conds
    levels = sigmas(steps, strength)
    x = x + noise * levels[0]
    state.sampling_steps = steps
    for step, (sigma, lower) in enumerate(pairwise(levels)):
        if state.interrupted or state.skipped:
            break
        state.sampling_step = step
        text = torch.cat([cond, uncond])
        with_prompt, without = host_steps.denoise(p.sd_model, torch.cat([x, x]), sigma, text).chunk(2)
        clean = without + p.cfg_scale * (with_prompt - without)
        x = clean + (x - clean) * (lower / sigma)
    return x
