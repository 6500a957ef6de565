"""Block weights of a LoRA, as weights of its real layers. Which layer is in which block is written out here."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.core.params import FACTOR
from lib_pm.merging.plan import open_plan
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.prompt.presets import BUILT_IN
from tests.layouts import BLOCK_LISTS
from tests.loras import make_lora, write
from tests.messages import saying, says

SD1 = {
    "lora_te_text_model_encoder_layers_11_mlp_fc1": "BASE",
    "lora_unet_time_embedding_linear_1": "BASE",
    "lora_unet_conv_in": "IN00",
    "lora_unet_down_blocks_0_attentions_0_proj_in": "IN01",
    "lora_unet_down_blocks_0_resnets_1_conv1": "IN02",
    "lora_unet_down_blocks_0_downsamplers_0_conv": "IN03",
    "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_attn1_to_q": "IN05",
    "lora_unet_down_blocks_2_attentions_0_proj_out": "IN07",
    "lora_unet_down_blocks_3_resnets_1_conv2": "IN11",
    "lora_unet_mid_block_attentions_0_proj_in": "MID",
    "lora_unet_mid_block_resnets_1_conv2": "MID",
    "lora_unet_up_blocks_0_resnets_0_conv1": "OUT00",
    "lora_unet_up_blocks_0_upsamplers_0_conv": "OUT02",
    "lora_unet_up_blocks_1_attentions_0_proj_in": "OUT03",
    "lora_unet_up_blocks_1_upsamplers_0_conv": "OUT05",
    "lora_unet_up_blocks_2_attentions_2_proj_in": "OUT08",
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2": "OUT11",
    "lora_unet_conv_out": "OUT11",
}
SDXL = {
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": "BASE",
    "lora_te2_text_model_encoder_layers_31_mlp_fc2": "BASE",
    "lora_unet_label_emb_0_0": "BASE",
    "lora_unet_input_blocks_0_0": "IN00",
    "lora_unet_input_blocks_1_0_in_layers_2": "IN01",
    "lora_unet_input_blocks_3_0_op": "IN03",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": "IN04",
    "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_2": "IN08",
    "lora_unet_middle_block_1_transformer_blocks_4_attn2_to_v": "MID",
    "lora_unet_output_blocks_0_1_proj_in": "OUT00",
    "lora_unet_output_blocks_2_2_conv": "OUT02",
    "lora_unet_output_blocks_5_1_transformer_blocks_1_attn1_to_k": "OUT05",
    "lora_unet_output_blocks_8_0_out_layers_3": "OUT08",
    "lora_unet_out_2": "OUT08",
}
FLUX = {
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": "CLIP",
    "lora_te3_encoder_block_23_layer_0_SelfAttention_q": "T5",
    "lora_unet_img_in": "IN",
    "lora_unet_time_in_in_layer": "IN",
    "lora_unet_double_blocks_0_img_attn_qkv": "D00",
    "lora_unet_double_blocks_18_txt_mlp_2": "D18",
    "lora_unet_single_blocks_0_linear1": "S00",
    "lora_unet_single_blocks_37_modulation_lin": "S37",
    "lora_unet_final_layer_linear": "OUT",
}
FLUX_DIFFUSERS = {
    "transformer.x_embedder": "IN",
    "transformer.transformer_blocks.0.attn.to_q": "D00",
    "transformer.transformer_blocks.18.ff.net.2": "D18",
    "transformer.single_transformer_blocks.0.attn.to_k": "S00",
    "transformer.single_transformer_blocks.37.proj_mlp": "S37",
    "transformer.proj_out": "OUT",
}
# Flux.1 is told by its shapes too.
FLUX_SHAPES = {
    "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
    "lora_unet_double_blocks_18_txt_mlp_2": (3072, 12288),
    "lora_unet_single_blocks_0_linear1": (21504, 3072),
    "lora_unet_single_blocks_37_modulation_lin": (9216, 3072),
    "transformer.transformer_blocks.0.attn.to_q": (3072, 3072),
    "transformer.transformer_blocks.18.ff.net.2": (3072, 12288),
    "transformer.single_transformer_blocks.0.attn.to_k": (3072, 3072),
    "transformer.single_transformer_blocks.37.proj_mlp": (12288, 3072),
}


def weights_of(tmp_path: Path, names: dict[str, str], lbw: str) -> tuple[dict[str, float], set[str]]:
    """Weight by layer at strength 2, and the layers that a block weight switched off."""
    path = write(tmp_path / "style.safetensors", make_lora({name: FLUX_SHAPES.get(name, (2, 2)) for name in names}, 1))
    with open_plan(make_recipe([LoraUse(path, 2.0, 2.0, lbw)], "concat", presets=BUILT_IN)) as plan:
        sources = [source for layer in (*plan.layers, *plan.left_out) for source in layer.sources]
        assert {layer.name for layer in plan.left_out} == {source.name for source in sources if not source.weight}
    return {source.name: source.weight for source in sources}, {s.name for s in sources if s.off_by_block}


@pytest.mark.parametrize(
    ("names", "length"),
    [(SD1, 17), (SD1, 26), (SDXL, 12), (SDXL, 20), (FLUX, 61), (FLUX_DIFFUSERS, 61)],
    ids=["SD1 17", "SD1 26", "SDXL 12", "SDXL 20", "Flux 61", "Flux diffusers 61"],
)
def test_lists(tmp_path: Path, names: dict[str, str], length: int) -> None:
    """Each number reaches the layers of its block and no others; a block that a list does not name has weight 0."""
    blocks = BLOCK_LISTS[length].split()
    assert len(blocks) == length
    weights, off = weights_of(tmp_path, names, ",".join(str(position + 1) for position in range(length)))
    assert weights == {name: 2.0 * (blocks.index(block) + 1 if block in blocks else 0) for name, block in names.items()}
    assert off == {name for name, block in names.items() if block not in blocks}
    assert bool(off) == (length in (12, 17))


def test_preset(tmp_path: Path) -> None:
    weights, off = weights_of(tmp_path, SD1, "midd")
    on = {"BASE", "IN05", "IN07", "IN08", "MID", "OUT03", "OUT04", "OUT05", "OUT06"}
    assert weights == {name: 2.0 * (block in on) for name, block in SD1.items()}
    assert off == {name for name, block in SD1.items() if block not in on}


def test_named_blocks(tmp_path: Path) -> None:
    """What is not named keeps weight 1; ranges include both ends, in any direction; kinds come on top."""
    weights, _ = weights_of(tmp_path, SD1, "IN05=0.5, OUT05-OUT03=0, base=-1, m00=3, mlp=0.1")
    changed = {"IN05": 0.5, "OUT03": 0.0, "OUT05": 0.0, "BASE": -1.0, "MID": 3.0}
    expected = {name: 2.0 * changed.get(block, 1.0) * (0.1 if "_ff_" in name else 1.0) for name, block in SD1.items()}
    assert weights == pytest.approx(expected)


@pytest.mark.parametrize(
    ("names", "lbw", "facts"),
    [
        (
            SD1,
            "1,1,1",
            "style … 3 … Stable Diffusion 1: 12 (SDXL LoRA), 17 (SD1 LoRA), 20 (SDXL LoCon), 26 (SD1 LoCon)",
        ),
        (FLUX, ",".join(["1"] * 17), "style: 17 block weights … Flux.1: 61 (Flux)"),
        (SD1, ",".join(["1"] * 16 + ["x"]), f"style … block weight … OUT11 … 'x' … {FACTOR}"),
        (SD1, "IN04=nan", f"style … block weight … IN04 … 'nan' … {FACTOR}"),
        (SD1, "IN04=1,MID", "style: 'MID' … block weights … NAME=number … IN04=0.5"),
        (
            {"diffusion_model.blocks.0.self_attn.q": ""},
            "IN04=1",
            "style … block weights … blocks … unknown model",
        ),
    ],
    ids=["length", "Flux length", "no number", "nan", "no weight", "no layout"],
)
def test_messages(tmp_path: Path, names: dict[str, str], lbw: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        weights_of(tmp_path, names, lbw)
    assert says(caught.value, facts), caught.value


@pytest.mark.parametrize(("word", "block"), [("IN12=1", "IN12"), ("OUT03-OUT12=1", "OUT12"), ("D00=1", "D00")])
def test_unknown_block(tmp_path: Path, word: str, block: str) -> None:
    with pytest.raises(MergeInputError, match=saying(f"style … block '{block}' … BASE, IN00, … OUT11")):
        weights_of(tmp_path, SD1, word)
