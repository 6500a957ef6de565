"""The training of the UNet and, with it, of the text encoder, on captions and precomputed latents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from demo.tiny.model import noise_schedule
from demo.tiny.pictures import draw
from demo.tiny.run_state import train
from demo.tiny.scenes import Scene, random_scenes
from demo.tiny.start import quiet_branches
from demo.tiny.train_vae import encode

_PICTURES = 30_000
_EMPTY, _SHORT = 0.1, 0.1  # shares of captions that are left out (for guidance), and that don't tell the background
# The weight of the noise's error that makes it the error of v (the picture's and the noise's alike): without it, little
# is learnt where the noise is strongest, and there the colours are decided. Above this, one step would be all others.
_MOST_WEIGHT = 20.0


@dataclass(frozen=True)
class Pairs:
    """Latents (n, 4, 8, 8) and, for each, the token ids (77,) of its caption and of the short one."""

    latents: Tensor
    captions: Tensor
    short: Tensor
    empty: Tensor  # (77,), the ids of no caption


def make_pairs(vae: Any, tokenizer: Any, scenes: Sequence[Scene], seed: int) -> Pairs:
    random = np.random.default_rng(seed)
    parts = []
    for some in _chunks(scenes, 64):
        parts.append(encode(vae, torch.from_numpy(np.stack([draw(scene, random) for scene in some]))))
    captions = token_ids(tokenizer, [scene.caption for scene in scenes])
    short = token_ids(tokenizer, [scene.short_caption for scene in scenes])
    return Pairs(torch.cat(parts), captions, short, token_ids(tokenizer, [""])[0])


def token_ids(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return token ids, (n, 77), padded as the pipeline pads."""
    ids: Tensor = tokenizer(
        list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def noise_loss(unet: Any, text_encoder: Any, pairs: Pairs, count: int) -> Tensor:
    """Return the weighted error of the predicted noise on `count` random pairs, with torch's own random numbers."""
    chosen = torch.randint(len(pairs.latents), (count,))
    ids = torch.where(torch.rand(count, 1) < _SHORT, pairs.short[chosen], pairs.captions[chosen])
    ids = torch.where(torch.rand(count, 1) < _EMPTY, pairs.empty, ids)
    signal = noise_schedule().alphas_cumprod
    # Evenly spread over all times, so that a step's loss depends little on which times it happens to get
    times = ((torch.arange(count) + torch.rand(count)) * (len(signal) / count)).long()
    kept = signal[times].view(-1, 1, 1, 1)
    noise = torch.randn(count, *pairs.latents.shape[1:])
    noisy = kept.sqrt() * pairs.latents[chosen] + (1 - kept).sqrt() * noise
    found = unet(noisy, times, encoder_hidden_states=text_encoder(ids).last_hidden_state).sample
    weight = (1 / kept).clamp(max=_MOST_WEIGHT)
    loss: Tensor = (weight * (found - noise) ** 2).mean()
    return loss


def train_base(models: dict[str, Any], tokenizer: Any, *, steps: int, batch: int, seed: int, checkpoint: Path) -> None:
    """Train `unet` and `text_encoder` in place, on scenes that are not held out."""
    unet, text_encoder = (models[name].train().requires_grad_(True) for name in ("unet", "text_encoder"))
    quiet_branches(unet, ("conv2", "proj_out", "conv_out"))
    scenes = list(islice((scene for scene in random_scenes(seed) if not scene.held_out), _PICTURES))
    pairs = make_pairs(models["vae"], tokenizer, scenes, seed)
    train(
        parameters(unet, text_encoder),
        lambda _: noise_loss(unet, text_encoder, pairs, batch),
        steps=steps,
        rate=1.5e-3,
        checkpoint=checkpoint,
        average=0.999,
    )


def parameters(*models: nn.Module) -> Iterable[nn.Parameter]:
    return [parameter for model in models for parameter in model.parameters()]


def _chunks(scenes: Sequence[Scene], size: int) -> Iterator[Sequence[Scene]]:
    for start in range(0, len(scenes), size):
        yield scenes[start : start + size]
