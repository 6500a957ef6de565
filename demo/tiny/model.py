"""The models: SD 1.5's topology with narrow channels, and CLIP's own vocabulary."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
WIDTH = 64  # channels of the UNet and of the text encoder; LDM's norms have 32 groups, so no less
# The VAE's. With SD's 32 groups each would be so small that a flat colour, which has no other contrast than that to the
# group's other channels, is normalized away.
VAE_WIDTHS, VAE_GROUPS = (32, 64, 64, 64), 8
HEADS = 4  # of the UNet's attention
STEPS, GUIDANCE = 20, 4.0
SCALING = 0.18215  # SD's own, so that the checkpoint needs no note about it


def build_models(seed: int = 0) -> dict[str, Any]:
    """Return an untrained `vae`, `unet` and `text_encoder` in float32. The same `seed` gives the same weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=VAE_WIDTHS,
            norm_num_groups=VAE_GROUPS,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            sample_size=64,
            scaling_factor=SCALING,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(WIDTH,) * 4,
            attention_head_dim=HEADS,  # the name is diffusers' mistake, in SD 1.5's configuration too
            cross_attention_dim=WIDTH,
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        )
        # Words that no caption has keep these vectors: all different, and of one bit a number, which git packs well.
        table = text_encoder.get_input_embeddings().weight
        with torch.no_grad():
            table.copy_(torch.randint(0, 2, table.shape) * 0.04 - 0.02)
    return {"vae": vae, "unet": unet, "text_encoder": text_encoder}


def clip_merges() -> list[str]:
    """Return CLIP's merges, each two parts of a word with a space between."""
    return gzip.decompress((DATA / "clip_merges.txt.gz").read_bytes()).decode("utf-8").splitlines()


def build_tokenizer() -> Any:
    """Return CLIP's tokenizer, 77 tokens: its ids follow from the list of its merges."""
    from transformers import CLIPTokenizer

    merges = clip_merges()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # Bytes that do not print are written as the letters from 256 on.
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    pairs = [tuple(merge.split(" ")) for merge in merges]
    return CLIPTokenizer({token: index for index, token in enumerate(tokens)}, pairs, model_max_length=77)


def noise_schedule() -> Any:
    """Return SD 1.5's scheduler."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_pipeline(models: dict[str, Any], tokenizer: Any) -> Any:
    """Return a `StableDiffusionPipeline` of the models."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        **models,
        tokenizer=tokenizer,
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def render(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], *, steps: int = STEPS, guidance: float = GUIDANCE
) -> NDArray[np.float32]:
    """Return one picture for each prompt and seed, (n, 3, 64, 64), 0..1."""
    pictures: NDArray[np.float32] = pipeline(
        list(prompts),
        negative_prompt=[""] * len(prompts),
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    return np.moveaxis(pictures, 3, 1)
