"""The LoRAs' training: three contents that the base model does not know, and three styles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from demo.tiny.lora import TrainedLora
from demo.tiny.run_state import train
from demo.tiny.scenes import NEW_SHAPES, SHAPES, TEXTURES, random_scenes
from demo.tiny.train_base import make_pairs, noise_loss

_PICTURES, _BATCH = 1000, 32


@dataclass(frozen=True)
class Kind:
    """How a LoRA is made. conv_rank: 0 if it is no LoCon. text: whether it changes the text encoder too."""

    rank: int
    conv_rank: int = 0
    text: bool = False


# Of different ranks and kinds, as LoRAs are that people merge.
KINDS: Mapping[str, Kind] = {
    "star": Kind(4),
    "ring": Kind(8),
    "heart": Kind(4, text=True),
    "stripes": Kind(4, conv_rank=2),
    "outline": Kind(4),
    "twotone": Kind(4),
}


def train_lora(name: str, models: dict[str, Any], tokenizer: Any, *, steps: int, checkpoint: Path, path: Path) -> None:
    """Train one LoRA on the frozen models and write it.

    A content is seen in the base model's pictures, a style on the base model's shapes; no caption names the style.
    """
    kind = KINDS[name]
    content = name in NEW_SHAPES
    scenes = random_scenes(
        list(KINDS).index(name),
        (name,) if content else SHAPES,
        () if content else (name,),
        textures=("",) if name == "stripes" else TEXTURES,
    )
    pairs = make_pairs(models["vae"], tokenizer, list(islice(scenes, _PICTURES)), seed=0)
    unet, text_encoder = models["unet"].requires_grad_(False), models["text_encoder"].requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lora = TrainedLora(unet, text_encoder, rank=kind.rank, conv_rank=kind.conv_rank, text=kind.text)
    with lora.applied():
        train(
            lora.parameters(),
            lambda _: noise_loss(unet, text_encoder, pairs, _BATCH),
            steps=steps,
            rate=3e-3,
            checkpoint=checkpoint,
        )
    lora.save(path, [name] if content else [])
