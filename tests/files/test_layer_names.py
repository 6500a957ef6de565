"""The same layer under two naming schemes in two files is one layer of the merge, with real layer names."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_pm.merging.plan import open_plan
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.loras import KOHYA, PEFT, make_lora, write

BLOCK = "transformer_blocks_0"

# the UNet's layers: kohya's name, diffusers' name
SD_UNET = {
    "lora_unet_conv_in": "unet.conv_in",
    "lora_unet_conv_out": "unet.conv_out",
    "lora_unet_time_embedding_linear_1": "unet.time_embedding.linear_1",
    "lora_unet_down_blocks_0_attentions_1_proj_in": "unet.down_blocks.0.attentions.1.proj_in",
    f"lora_unet_down_blocks_2_attentions_0_{BLOCK}_ff_net_0_proj": (
        "unet.down_blocks.2.attentions.0.transformer_blocks.0.ff.net.0.proj"
    ),
    "lora_unet_down_blocks_2_resnets_0_time_emb_proj": "unet.down_blocks.2.resnets.0.time_emb_proj",
    "lora_unet_down_blocks_0_downsamplers_0_conv": "unet.down_blocks.0.downsamplers.0.conv",
    f"lora_unet_mid_block_attentions_0_{BLOCK}_attn2_to_out_0": (
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
    ),
    "lora_unet_mid_block_resnets_1_conv2": "unet.mid_block.resnets.1.conv2",
    "lora_unet_up_blocks_1_upsamplers_0_conv": "unet.up_blocks.1.upsamplers.0.conv",
    "lora_unet_up_blocks_3_resnets_2_conv_shortcut": "unet.up_blocks.3.resnets.2.conv_shortcut",
}
SD_TEXT = {
    "lora_te_text_model_encoder_layers_11_self_attn_out_proj": (
        "text_encoder.text_model.encoder.layers.11.self_attn.out_proj"
    ),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": "text_encoder.text_model.encoder.layers.0.mlp.fc1",
}
CROSS_ATTENTION = {
    f"lora_unet_down_blocks_1_attentions_0_{BLOCK}_attn2_to_k": (
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    )
}

# SDXL's: the original name (which kohya writes), diffusers' name
SDXL_UNET = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_2_0_emb_layers_1": "down_blocks.0.resnets.1.time_emb_proj",
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    f"input_blocks_4_1_{BLOCK}_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "input_blocks_5_1_proj_in": "down_blocks.1.attentions.1.proj_in",
    "input_blocks_6_0_op": "down_blocks.1.downsamplers.0.conv",
    "input_blocks_8_1_transformer_blocks_9_ff_net_2": "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.2",
    "middle_block_0_in_layers_2": "mid_block.resnets.0.conv1",
    f"middle_block_1_{BLOCK}_attn1_to_out_0": "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
    "output_blocks_0_1_proj_out": "up_blocks.0.attentions.0.proj_out",
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_5_0_skip_connection": "up_blocks.1.resnets.2.conv_shortcut",
    "output_blocks_5_2_conv": "up_blocks.1.upsamplers.0.conv",
    "output_blocks_8_0_in_layers_2": "up_blocks.2.resnets.2.conv1",
}
SDXL_TEXT = {
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    "lora_te2_text_model_encoder_layers_31_self_attn_k_proj": (
        "text_encoder_2.text_model.encoder.layers.31.self_attn.k_proj"
    ),
}


def merged_names(tmp_path: Path, *schemes: list[str], text_width: int) -> list[str]:
    """The layers of a merge of files with these names; every layer has to come from all of them."""
    uses = []
    for index, names in enumerate(schemes):
        shapes = {name: (4, text_width if name.endswith(("attn2_to_k", "attn2.to_k")) else 4) for name in names}
        endings = PEFT if "." in names[0] else KOHYA
        tensors = make_lora(shapes, 1, endings=endings, seed=index)
        uses.append(LoraUse(write(tmp_path / f"{index}.safetensors", tensors)))
    with open_plan(make_recipe(uses, "concat")) as plan:
        assert all(len(layer.sources) == len(schemes) for layer in plan.layers)
        return [layer.name for layer in plan.layers]


@pytest.mark.parametrize("text_width", [768, 1024], ids=["SD1", "SD2"])
def test_sd1_and_sd2(tmp_path: Path, text_width: int) -> None:
    layers = SD_UNET | SD_TEXT | CROSS_ATTENTION
    assert merged_names(tmp_path, list(layers), list(layers.values()), text_width=text_width) == sorted(layers)


def test_names_of_a_bare_unet(tmp_path: Path) -> None:
    """PEFT on a UNet that is in no pipeline: nothing says `unet.`."""
    layers = {
        kohya: dotted.replace("unet.", "base_model.model.") for kohya, dotted in (SD_UNET | CROSS_ATTENTION).items()
    }
    assert merged_names(tmp_path, list(layers), list(layers.values()), text_width=768) == sorted(layers)


def test_sdxl(tmp_path: Path) -> None:
    """Three ways to write it: original names, kohya's prefix on diffusers' names, and diffusers'."""
    original = [f"lora_unet_{name}" for name in SDXL_UNET]
    original.append(f"lora_unet_input_blocks_4_1_{BLOCK}_attn2_to_k")
    dotted = [f"unet.{name}" for name in SDXL_UNET.values()]
    dotted.append("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
    flat = [f"lora_{name.replace('.', '_')}" for name in dotted]
    text = list(SDXL_TEXT)
    schemes = [original + text, flat + text, dotted + list(SDXL_TEXT.values())]
    assert merged_names(tmp_path, *schemes, text_width=2048) == sorted(original + text)


def test_old_attention_processors(tmp_path: Path) -> None:
    """diffusers of 2023 left out the `.0` of `to_out.0`."""
    old = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora"
    tensors = make_lora({old: (4, 4)}, 1, endings=(".up.weight", ".down.weight"))
    new = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    uses = [
        LoraUse(write(tmp_path / "old.safetensors", tensors)),
        LoraUse(write(tmp_path / "new.safetensors", make_lora({new: (4, 4)}, 1, endings=PEFT))),
    ]
    with open_plan(make_recipe(uses, "concat")) as plan:
        (layer,) = plan.layers
        assert layer.name == f"lora_unet_down_blocks_0_attentions_0_{BLOCK}_attn1_to_out_0"
        assert len(layer.sources) == 2
