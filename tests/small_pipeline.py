"""A small Stable Diffusion 1.x pipeline with random weights: real layer names, no download, under a second an image.

The UNet has SD 1.5's four levels and block types, so that its layers carry the very names that kohya writes
(`lora_unet_down_blocks_1_attentions_0_…`); only the channels are narrow. Nothing here is trained: its images are
abstract patterns, good for showing that two ways of applying a LoRA agree, and no good for showing what a LoRA means.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Image

SIZE = 32  # pixels, both ways
STEPS = 5
PROMPT = "a cat in a red hat"

# Words that become one token; everything else is spelt letter by letter. Enough for prompts that differ.
_WORDS = (
    "a an the in on of and with cat dog hat house tree sea sky red blue green gold old small photo painting".split()
)
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_pipeline(seed: int = 0) -> Any:
    """Return a `StableDiffusionPipeline` on the CPU in float32. The same `seed` gives the same weights, bit for bit."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=SIZE // 2,
            block_out_channels=(16, 32, 32, 32),
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=32,
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )
        # Two levels, so one halving: at 32 pixels the real eight-fold VAE would leave the UNet's middle no pixel.
        vae = AutoencoderKL(
            block_out_channels=(16, 16),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            sample_size=SIZE,
        )
        _make_visible(unet, text_encoder, vae)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def render(pipeline: Any, *, prompt: str = PROMPT, seed: int = 1, steps: int = STEPS) -> Image:
    """Return one `SIZE`×`SIZE` RGB image. The same pipeline state and arguments give the same image."""
    image: Image = pipeline(
        prompt,
        negative_prompt="",
        height=SIZE,
        width=SIZE,
        num_inference_steps=steps,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    return image


def build_tokenizer() -> Any:
    """Return a `CLIPTokenizer` over the ASCII letters, digits and marks, with a few whole words."""
    from transformers import CLIPTokenizer

    vocabulary = [mark + end for mark in map(chr, range(33, 127)) for end in ("", "</w>")]
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # from the right, so that words with a common ending share their merges
            merges.append((pieces[-2], pieces[-1]))
            pieces[-2:] = ["".join(pieces[-2:])]
            vocabulary.append(pieces[-1])
    tokens = [*dict.fromkeys(vocabulary), _START, _END]  # CLIP's own order: the two marks come last
    return CLIPTokenizer(
        {token: index for index, token in enumerate(tokens)}, list(dict.fromkeys(merges)), model_max_length=77
    )


@torch.no_grad()
def _make_visible(unet: torch.nn.Module, text_encoder: torch.nn.Module, vae: torch.nn.Module) -> None:
    """Turn fresh weights, which give a flat grey image, into ones whose image has contrast and answers the prompt."""
    # A trained CLIP's embeddings do not have mean zero; where they do, a random cross-attention averages to nothing.
    text_encoder.get_submodule("final_layer_norm").bias.normal_(mean=0.5, std=0.5)  # type: ignore[operator]
    unet.get_submodule("conv_out").weight.mul_(3.0)  # type: ignore[operator]
