"""The original layout, name by name and number by number against diffusers' and transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
from torch import Tensor

from demo.tiny import export
from demo.tiny.model import VAE_WIDTHS, build_models, build_pipeline, build_tokenizer, clip_merges


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Random weights: what has no effect in a trained model would hide a mistake."""
    models = build_models()
    for model in models.values():
        model.eval().requires_grad_(False)
    torch.manual_seed(0)
    for weight in models["vae"].parameters():
        weight += 0.02 * torch.randn_like(weight)
    return models


@pytest.fixture(scope="module")
def folder(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export.export(build_pipeline(models, build_tokenizer()), folder)
    return folder


def half(model: Any) -> dict[str, Tensor]:
    return {key: tensor.half().float() for key, tensor in model.state_dict().items()}


def test_diffusers_reads_the_unet(models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    models["unet"].save_config(tmp_path)
    read = UNet2DConditionModel.from_single_file(
        str(folder / f"{export.NAME}.safetensors"), config=str(tmp_path), local_files_only=True
    )
    expected, found = half(models["unet"]), read.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_diffusers_reads_the_vae_and_decodes_the_same(models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    config = dict(models["vae"].config) | {"norm_num_groups": 32, "block_out_channels": [4 * w for w in VAE_WIDTHS]}
    AutoencoderKL.from_config(config).save_config(tmp_path)
    read = AutoencoderKL.from_single_file(
        str(folder / f"{export.NAME}.safetensors"), config=str(tmp_path), local_files_only=True
    ).eval()
    with torch.no_grad():
        picture = torch.rand(1, 3, 64, 64)
        ours, theirs = (vae.encode(picture).latent_dist.mean for vae in (models["vae"], read))
        assert ours.std() > 0.1
        torch.testing.assert_close(theirs, ours, atol=5e-3, rtol=0)
        torch.testing.assert_close(read.decode(ours).sample, models["vae"].decode(ours).sample, atol=5e-3, rtol=0)


def test_the_text_encoder_has_clips_names(models: dict[str, Any], folder: Path) -> None:
    tensors = load_file(folder / f"{export.NAME}.safetensors")
    found = convert_ldm_clip_checkpoint(tensors)
    expected = half(models["text_encoder"])
    assert {key.removeprefix("text_model.") for key in found} == {key.removeprefix("text_model.") for key in expected}
    for key, tensor in expected.items():
        assert torch.equal(found["text_model." + key.removeprefix("text_model.")].float(), tensor)


def test_every_name_is_of_the_original_layout(folder: Path) -> None:
    names = set(load_file(folder / f"{export.NAME}.safetensors"))
    # SD 1.5's checkpoint has 686 tensors in its UNet, of which none depends on its widths but the skip connections
    unet = {name for name in names if name.startswith("model.diffusion_model.")}
    assert len([name for name in unet if "skip_connection" not in name]) == 686 - 2 * 14
    assert "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight" in unet
    assert "first_stage_model.decoder.up.3.upsample.conv.weight" in names
    assert "first_stage_model.encoder.mid.attn_1.proj_out.weight" in names
    assert "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight" in names


def test_the_vocabulary_is_clips() -> None:
    assert len(clip_merges()) == 48894
    tokenizer = build_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77
    # As in OpenAI's CLIP
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("hello world!").input_ids == [49406, 3306, 1002, 256, 49407]
