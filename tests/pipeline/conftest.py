"""Small pipelines with the real layer names. Each test gets one without a LoRA on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.host.by_hand import pixels
from tests.samples import write_samples
from tests.small_pipeline import build_pipeline, build_tokenizer


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries() -> None:
    import diffusers
    import transformers

    diffusers.logging.set_verbosity(logging.ERROR)
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def _sd1_pipeline() -> Any:
    return build_pipeline()


@pytest.fixture(scope="session")
def base(_sd1_pipeline: Any) -> np.ndarray:
    """The pixels of `sd1` without a LoRA."""
    return pixels(_sd1_pipeline)


@pytest.fixture(scope="session")
def samples(_sd1_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A style, which is a LoCon, and a character."""
    return write_samples(tmp_path_factory.mktemp("samples"), _sd1_pipeline)


@pytest.fixture(scope="session")
def _sdxl_pipeline() -> Any:
    return build_sdxl_pipeline()


@pytest.fixture
def sd1(_sd1_pipeline: Any) -> Iterator[Any]:
    """SD 1.5's topology."""
    yield _sd1_pipeline
    _sd1_pipeline.unload_lora_weights()


@pytest.fixture
def sdxl(_sdxl_pipeline: Any) -> Iterator[Any]:
    """SDXL's topology, fewer transformer blocks; the second text encoder has a projection."""
    yield _sdxl_pipeline
    _sdxl_pipeline.unload_lora_weights()


def build_sdxl_pipeline() -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = build_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16, 16),
            norm_num_groups=4,
            attention_head_dim=(2, 4, 4),
            cross_attention_dim=32,
            layers_per_block=2,
            transformer_layers_per_block=(1, 2, 3),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4),
            text_encoder=CLIPTextModel(config),
            text_encoder_2=CLIPTextModelWithProjection(config),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(),
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
