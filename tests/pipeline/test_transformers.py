"""A LoRA under whatever names on a diffusers pipeline with a transformer: small ones of the real classes."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from lib_pm.core.errors import MergeInputError
from lib_pm.pipeline.apply import NAME, apply, remove
from tests.loras import make_lora

Rows = list[tuple[str, int, int]]  # module, and which rows of the layer are its own


@pytest.fixture
def flux() -> Any:
    model = diffusers.FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    parts = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return diffusers.FluxPipeline(FlowMatchEulerDiscreteScheduler(), transformer=model, **dict.fromkeys(parts))


LAYERS: dict[str, tuple[tuple[int, int], Rows]] = {
    "double_blocks.0.img_attn.qkv": (
        (48, 16),
        [(f"transformer_blocks.0.attn.to_{part}", 16 * i, 16 * (i + 1)) for i, part in enumerate("qkv")],
    ),
    "single_blocks.0.linear1": (
        (112, 16),
        [
            *((f"single_transformer_blocks.0.attn.to_{part}", 16 * i, 16 * (i + 1)) for i, part in enumerate("qkv")),
            ("single_transformer_blocks.0.proj_mlp", 48, 112),
        ],
    ),
    "double_blocks.0.txt_mlp.2": ((16, 64), [("transformer_blocks.0.ff_context.net.2", 0, 16)]),
}


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model."])
def test_fused_layers_arrive_on_the_modules_that_they_are_of(flux: Any, prefix: str) -> None:
    named = {f"{prefix}{name.replace('.', '_') if prefix.endswith('_') else name}": name for name in LAYERS}
    tensors = make_lora({written: LAYERS[name][0] for written, name in named.items()}, 3, 1.5)
    expected = {
        module: 0.5 * tensors[f"{written}.lora_up.weight"][start:end] @ tensors[f"{written}.lora_down.weight"]
        for written, name in named.items()
        for module, start, end in LAYERS[name][1]
    }
    assert apply(flux, tensors).layers == {"transformer": len(expected)}
    for path, delta in expected.items():
        found = flux.transformer.get_submodule(path).get_delta_weight(NAME)
        torch.testing.assert_close(found, delta, rtol=1e-5, atol=1e-6)
    remove(flux)
    assert not any(hasattr(module, "lora_A") for module in flux.transformer.modules())


def test_every_module_of_the_transformer_can_have_one(flux: Any) -> None:
    shapes = {
        f"lora_transformer_{path.replace('.', '_')}": tuple(module.weight.shape)
        for path, module in flux.transformer.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert apply(flux, make_lora(shapes, 2)).layers == {"transformer": len(shapes)}


def test_a_lora_of_another_transformer(flux: Any) -> None:
    tensors = make_lora({"lora_unet_joint_blocks_0_x_block_attn_qkv": (48, 16)}, 2)
    with pytest.raises(MergeInputError, match="lora_unet_joint_blocks_0_x_block_attn_qkv"):
        apply(flux, tensors)
