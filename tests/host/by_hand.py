"""What a LoRA does to a pipeline, apart from the code under test: weights changed by hand, and the images then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo.tiny.lora import kohya_layers
from tests.samples import random_lora
from tests.small_pipeline import render

LoraDict = dict[str, Tensor]
ALL_BLOCKS = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D", "CLIPAttention", "CLIPMLP")


def pixels(pipeline: Any) -> np.ndarray:
    return np.asarray(render(pipeline, steps=2)).astype(int)


def delta(tensors: LoraDict, name: str) -> Tensor:
    """scale · up @ down in float64, shaped (out, in·kh·kw): written apart from the code under test."""
    up, down = tensors[f"{name}.lora_up.weight"].double(), tensors[f"{name}.lora_down.weight"].double()
    alpha = tensors.get(f"{name}.alpha")
    return (1.0 if alpha is None else float(alpha) / down.shape[0]) * (up.flatten(1) @ down.flatten(1))


@contextmanager
def changed_by_hand(pipeline: Any, *uses: tuple[LoraDict, float, float]) -> Iterator[None]:
    """The base weights with every delta added densely, and put back afterwards. uses: (tensors, model, clip)."""
    modules = [
        *kohya_layers(pipeline.text_encoder, "lora_te", ALL_BLOCKS),
        *kohya_layers(pipeline.unet, "lora_unet", ALL_BLOCKS),
    ]
    saved = [(module, module.weight.detach().clone()) for _, module in modules]
    with torch.no_grad():
        for name, module in modules:
            for tensors, model, clip in uses:
                if f"{name}.lora_up.weight" in tensors:
                    strength = clip if name.startswith("lora_te") else model
                    module.weight += (strength * delta(tensors, name)).reshape(module.weight.shape).float()
    try:
        yield
    finally:
        with torch.no_grad():
            for module, weight in saved:
                module.weight.copy_(weight)


def mixed(pipeline: Any, *, alphas: Callable[[int, int], float | None]) -> LoraDict:
    """Ranks 8 and 4 in turn, and an alpha for each layer from its index and rank."""
    wide, narrow = (
        random_lora(pipeline, rank=8, alpha=8, conv_rank=8),
        random_lora(pipeline, rank=4, alpha=4, conv_rank=4, seed=1),
    )
    tensors: LoraDict = {}
    for index, name in enumerate(sorted({key.split(".")[0] for key in wide})):
        source = narrow if index % 3 == 0 else wide
        down = source[f"{name}.lora_down.weight"]
        tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"] = source[f"{name}.lora_up.weight"], down
        alpha = alphas(index, down.shape[0])
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


def lora_modules(pipeline: Any) -> int:
    return sum(
        hasattr(module, "lora_A") for part in (pipeline.unet, pipeline.text_encoder) for module in part.modules()
    )
