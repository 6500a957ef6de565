"""The autoencoder's training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo.tiny.pictures import Array, paint
from demo.tiny.run_state import train
from demo.tiny.scenes import COLOURS, NEW_SHAPES, SHAPES, STYLES, random_scenes
from demo.tiny.start import start_as_average

_BATCH = 8
_CROPPED = 0.55  # the share of the steps that see a quarter of each picture, and cost as much: colours take many steps
_KL = 1e-4  # per number of the latents; the error is per number of the picture


def train_vae(vae: Any, *, steps: int, checkpoint: Path) -> None:
    """Train on all shapes and styles, those of the LoRAs too: as with SD's, they are no news to the VAE."""
    vae.to(memory_format=torch.channels_last)
    start_as_average(vae)

    def loss(step: int) -> Tensor:
        pictures = 2 * mixed_pictures(_BATCH, seed=step) - 1
        if step < _CROPPED * steps:
            x, y = (8 * int(torch.randint(5, ())) for _ in range(2))
            pictures = pictures[:, :, y : y + 32, x : x + 32]
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        latents = vae.encode(pictures).latent_dist
        error = vae.decode(latents.sample()).sample - pictures
        # Errors at an edge are of opposite signs on its sides: their differences make it sharp.
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        total: Tensor = error.abs().mean() + edges + _KL * latents.kl().mean() / latents.mean[0].numel()
        return total

    train(vae.parameters(), loss, steps=steps, rate=5e-4, checkpoint=checkpoint)
    vae.to(memory_format=torch.contiguous_format)
    standardize(vae)


def mixed_pictures(count: int, seed: int) -> Tensor:
    """Return pictures (count, 3, 64, 64), 0..1, of every shape, any styles and textures; a third in any colour."""
    random = np.random.default_rng(seed)
    scenes = random_scenes(seed, (*SHAPES, *NEW_SHAPES))
    pictures: list[Array] = []
    for _ in range(count):
        scene = next(scenes)
        styles = tuple(style for style in STYLES if random.random() < 0.25)
        named = [np.array(COLOURS[name]) + random.uniform(-12, 12, 3) for name in (scene.colour, scene.background)]
        colours = [np.clip(one if random.random() < 0.67 else random.uniform(0, 255, 3), 0, 255) for one in named]
        pictures.append(paint(type(scene)(**{**vars(scene), "styles": styles}), colours, random))
    return torch.from_numpy(np.stack(pictures))


@torch.no_grad()
def standardize(vae: Any) -> None:
    """Change the latents to mean 0 and deviation 1 / scaling factor in each channel, the pictures staying the same."""
    latents = torch.cat([vae.encode(2 * mixed_pictures(64, seed) - 1).latent_dist.mean for seed in range(1000, 1008)])
    mean = latents.mean(dim=(0, 2, 3))
    factor = 1 / (vae.config.scaling_factor * latents.std(dim=(0, 2, 3)))
    encode, decode = vae.quant_conv, vae.post_quant_conv  # both 1×1, the first gives means and log variances
    channels = len(mean)
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight /= factor[None, :, None, None]
    encode.bias[:channels] -= mean
    encode.bias[:channels] *= factor
    encode.weight[:channels] *= factor[:, None, None, None]
    encode.bias[channels:] += 2 * factor.log()


@torch.no_grad()
def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Return latents (n, 4, 8, 8) of deviation about 1, as the UNet sees them. pictures: (n, 3, 64, 64), 0..1."""
    parts = [vae.encode(2 * part - 1).latent_dist.mean for part in torch.split(pictures, 64)]
    latents: Tensor = torch.cat(parts) * vae.config.scaling_factor
    return latents


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Return pictures (n, 3, 64, 64), 0..1, of latents as `encode` gives them."""
    parts = [vae.decode(part / vae.config.scaling_factor).sample for part in torch.split(latents, 64)]
    pictures: Tensor = torch.cat(parts) / 2 + 0.5
    return pictures.clamp(0, 1)
