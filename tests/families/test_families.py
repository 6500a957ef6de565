"""Layer names and families against the real models' structure and diffusers' own conversion of kohya's names."""

import re
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)

from lib_pm.core.layers import LayerShape
from lib_pm.families.blocks import BLOCK_LISTS
from lib_pm.families.detect import detect
from lib_pm.families.families import OTHER, SD1, SD2, SDXL, either, kind
from lib_pm.families.names import parse_name, to_diffusers, to_original
from lib_pm.families.transformers import FLUX
from tests import layouts

SDXL_BLOCKS = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "attention_head_dim": (5, 10, 20),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@cache
def unet(family: str) -> dict[str, LayerShape]:
    """Dotted module name -> shape of every linear and convolution of the real UNet, built without memory."""
    with torch.device("meta"):
        model = UNet2DConditionModel(**(SDXL_BLOCKS if family == "sdxl" else {"cross_attention_dim": 768}))
    return {
        name: LayerShape(module.weight.shape[0], module.weight.shape[1], tuple(module.weight.shape[2:]))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }


def shapes(layout: layouts.Shapes) -> dict[str, LayerShape]:
    return {name: LayerShape(shape[0], shape[1], shape[2:]) for name, shape in layout.items()}


def test_the_layouts_of_the_tests_are_the_models():
    for family, layout, canonical in (("sd1", layouts.sd15(), SD1), ("sdxl", layouts.sdxl(), SDXL)):
        real = {canonical.name(f"unet.{name}"): shape for name, shape in unet(family).items()}
        for name, shape in shapes(layout).items():
            if name.startswith("lora_unet_"):
                assert shape.fits(real[name])


@pytest.mark.parametrize(("family", "layout"), [(SD1, "sd1"), (SDXL, "sdxl")])
def test_every_module_has_one_name_whoever_wrote_it(family, layout):
    for name in unet(layout):
        flat = name.replace(".", "_")
        written = {
            family.name(f"unet.{name}"),
            family.name(f"lora_unet_{flat}"),
            family.name(f"base_model.model.{name}"),
        }
        if family is SDXL:
            assert to_diffusers(to_original(flat)) == flat
            written.add(family.name(f"lora_unet_{to_original(flat)}"))
        if name.startswith(("down_blocks", "mid_block", "up_blocks")):
            assert len(written) == 1
        assert family.name(next(iter(written))) in written


def test_original_sdxl_names_are_read_as_diffusers_reads_them():
    names = [family_name for family_name in layouts.sdxl() if family_name.startswith("lora_unet_")]
    state = {f"{name}.lora_{part}.weight": torch.zeros(1) for name in names for part in ("down", "up")}
    config = UNet2DConditionModel.extract_init_dict(SDXL_BLOCKS)[0]
    mapped = _maybe_map_sgm_blocks_to_diffusers(dict(state), type("Config", (), {**config, "layers_per_block": 2}))
    theirs, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    modules = {re.sub(r"(\.lora|_lora)\.(down|up)\.weight$", "", key) for key in theirs}
    assert {parse_name(module) for module in modules} == {parse_name(name) for name in names}
    assert len(modules) == 722


@pytest.mark.parametrize("component", ["te", "te1", "te2"])
def test_text_encoder_names(component):
    path = "text_model.encoder.layers.11.self_attn.out_proj"
    prefix = "text_encoder_2" if component == "te2" else "text_encoder"
    written = f"lora_{component}_{path.replace('.', '_')}"
    family = SD1 if component == "te" else SDXL
    assert family.name(f"{prefix}.{path}") == written
    assert family.name(written) == written
    # transformers 5 has no text_model level any more
    assert family.name(f"{prefix}.{path.removeprefix('text_model.')}") == written


@pytest.mark.parametrize(
    ("layers", "version", "family"),
    [
        (layouts.sd15(), "", SD1),
        (layouts.sd15(conv=True), "", SD1),
        (layouts.sd15(text=1024), "", SD2),
        (layouts.sdxl(), "", SDXL),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}, "", SD1),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1": (4096, 1024)}, "", SD2),
        ({"text_encoder.text_model.encoder.layers.0.mlp.fc1": (3072, 768)}, "sdxl_base_v1-0", SDXL),
        ({"lora_unet_mid_block_attentions_0_proj_in": (1280, 1280)}, "sdxl_base_v1-0", SDXL),
        ({"lora_unet_input_blocks_7_1_transformer_blocks_9_ff_net_2": (1280, 5120)}, "", SDXL),
        ({"lora_unet_input_blocks_4_1_proj_in": (640, 640)}, "", SDXL),
        ({"lora_unet_input_blocks_4_1_proj_in": (640, 640)}, "sd_v1", SD1),
        ({"lora_unet_input_blocks_1_1_proj_in": (320, 320)}, "sd_v1", SD1),
        ({"lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072)}, "flux1", FLUX),
        ({"transformer.single_transformer_blocks.3.attn.to_q": (3072, 3072)}, "flux1", FLUX),
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv": (10, 10), "lora_te2_text_model_x": (3, 3)}, "", OTHER),
        ({"diffusion_model.blocks.0.self_attn.q": (10, 10)}, "", OTHER),
        ({"transformer.transformer_blocks.0.attn.to_q": (10, 10)}, "", OTHER),
        ({"something.else": (10, 10)}, "", OTHER),
    ],
)
def test_families_are_told_by_their_layers(layers, version, family):
    assert either(detect(shapes(layers), {"ss_base_model_version": version})) is family


def test_blocks_are_those_of_the_original_names():
    numbers = {"input": "IN", "output": "OUT"}
    for name in layouts.sdxl():
        match = re.match(r"lora_unet_(input|output)_blocks_(\d+)_", name)
        expected = f"{numbers[match[1]]}{int(match[2]):02}" if match else "MID" if "middle" in name else "BASE"
        assert SDXL.block(name) == expected


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("conv_in", "IN00"),
        ("down_blocks_0_attentions_0_proj_in", "IN01"),
        ("down_blocks_0_resnets_1_conv1", "IN02"),
        ("down_blocks_0_downsamplers_0_conv", "IN03"),
        ("down_blocks_1_attentions_0_proj_in", "IN04"),
        ("down_blocks_2_attentions_1_proj_in", "IN08"),
        ("down_blocks_3_resnets_1_conv2", "IN11"),
        ("mid_block_resnets_1_conv1", "MID"),
        ("up_blocks_0_resnets_0_conv1", "OUT00"),
        ("up_blocks_0_upsamplers_0_conv", "OUT02"),
        ("up_blocks_1_attentions_0_proj_in", "OUT03"),
        ("up_blocks_2_upsamplers_0_conv", "OUT08"),
        ("up_blocks_3_attentions_2_proj_in", "OUT11"),
        ("conv_out", "OUT11"),
        ("time_embedding_linear_1", "BASE"),
        # SD1 under its original names
        ("input_blocks_4_1_proj_in", "IN04"),
        ("output_blocks_2_1_conv", "OUT02"),
        ("output_blocks_11_1_proj_in", "OUT11"),
        ("middle_block_2_in_layers_2", "MID"),
    ],
)
def test_blocks_of_sd1(path, block):
    assert SD1.block(f"lora_unet_{path}") == block


def test_the_short_lists_name_just_the_blocks_that_a_lora_has():
    sd15 = {SD1.block(name) for name in layouts.sd15()}
    assert sd15 == set(BLOCK_LISTS[17])
    assert {SDXL.block(name) for name in layouts.sdxl()} == set(BLOCK_LISTS[12])
    sdxl_conv = {SDXL.block(f"unet.{name}") for name in unet("sdxl")}
    assert sdxl_conv == set(BLOCK_LISTS[20])
    assert {SD1.block(f"unet.{name}") for name in unet("sd1")} == set(BLOCK_LISTS[26])


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("lora_unet_double_blocks_7_img_mlp_0", "D07"),
        ("lora_unet_single_blocks_37_linear2", "S37"),
        ("transformer.transformer_blocks.18.attn.to_q", "D18"),
        ("transformer.single_transformer_blocks.0.proj_mlp", "S00"),
        ("diffusion_model.double_blocks.1.img_attn.qkv", "D01"),
        ("lora_unet_img_in", "IN"),
        ("transformer.time_text_embed.timestep_embedder.linear_1", "IN"),
        ("lora_unet_final_layer_linear", "OUT"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "CLIP"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", "T5"),
        ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", "T5"),
    ],
)
def test_blocks_of_flux(name, block):
    assert FLUX.block(name) == block
    assert block in BLOCK_LISTS[61]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "attn"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj", "mlp"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", "other"),
        ("lora_unet_down_blocks_0_resnets_0_conv1", "other"),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", "te"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "te"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "attn"),
        ("lora_unet_double_blocks_0_txt_mlp_2", "mlp"),
        ("diffusion_model.layers.0.attention.to_q", "attn"),
        ("diffusion_model.layers.0.feed_forward.w1", "mlp"),
    ],
)
def test_kinds(name, expected):
    assert kind(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_{}_attentions_0_proj_in",
        "lora_unet_up_blocks_0_resnets_{}_conv1",
        "lora_unet_input_blocks_{}_1_proj_in",
        "lora_unet_double_blocks_{}_img_attn_qkv",
        "transformer.single_transformer_blocks.{}.attn.to_q",
    ],
)
def test_a_number_of_thousands_of_digits_is_no_blocks(name: str) -> None:
    """Python refuses to read it, and nobody has so many blocks."""
    name = name.format("9" * 4400)
    parse_name(name)
    to_original(parse_name(name)[1])
    for family in (SD1, SDXL, FLUX):
        assert family.block(name) == ""
