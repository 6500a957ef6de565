"""Which model a LoRA is for, on the real models' layers: never one that it cannot be for, whatever part was trained."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lib_pm.core.layers import LayerShape
from lib_pm.families.detect import FAMILIES, detect, stated
from lib_pm.families.families import either
from tests.layouts import Shapes
from tests.models import spellings, whole

# Models that no row of the table is for: their LoRAs are for an unknown model.
NOT_LISTED = {"kandinsky5"}
# Every layer of the first is one of the second too.
PART_OF = {"ltx-13b": "ltx2", "cosmos": "anima"}


def ids(shapes: Shapes, **metadata: str) -> set[str]:
    layers = {name: LayerShape(shape[0], shape[1], shape[2:]) for name, shape in shapes.items()}
    return {family.id for family in detect(layers, metadata)}


def only(pattern: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {name: shape for name, shape in shapes.items() if re.search(pattern, name)}


PARTS = {
    "attention": only(r"attn|attention"),
    "first block": only(r"[._](0|0_1|1_1|4_1)[._]"),
    "one block": only(r"(blocks|layers|refiner)[._]3[._]"),
    "even blocks": only(r"(blocks|layers|refiner)[._]\d*[02468][._]"),
    "double blocks": only(r"double|[._]transformer_blocks|joint"),
    "single blocks": only(r"single"),
    "queries": only(r"(to_q|[._]q|q_proj|qkv|w1q)$"),
    "mlp": only(r"mlp|ff|feed_forward"),
    "without modulations": lambda shapes: {n: s for n, s in shapes.items() if not re.search("mod|norm|ada", n)},
}


@pytest.mark.parametrize(("family", "spelling"), spellings())
def test_a_whole_lora_is_told(family: str, spelling: str) -> None:
    expected = {family} - NOT_LISTED
    if family in PART_OF:
        expected.add(PART_OF[family])
    assert ids(whole(family, spelling)) == expected


@pytest.mark.parametrize("part", PARTS)
def test_a_part_claims_no_other_family(part: str) -> None:
    """Several may be left, one alone only if it is the right one."""
    wrong = {}
    for family, spelling in spellings():
        chosen = PARTS[part](whole(family, spelling))
        found = ids(chosen) if chosen else {family}
        if family not in found and not (family in NOT_LISTED and not found):
            wrong[family, spelling] = found
    assert wrong == {}


def test_double_blocks_alone_may_be_flux() -> None:
    """Two of its blocks are named and shaped as HunyuanVideo's in ComfyUI's spelling, all of them as nothing else."""
    double = PARTS["double blocks"](whole("flux1", "kohya"))
    assert ids(double) == {"flux1", "hunyuan-video"}
    assert ids(double, ss_base_model_version="flux1") == {"flux1"}


@pytest.mark.parametrize(
    ("said", "families"),
    [
        ("stable-diffusion-xl-v1-base/lora", {"sdxl"}),
        ("sdxl_base_v1-0", {"sdxl"}),
        ("sdxl_base_v0-9", {"sdxl"}),
        ("sdxl_1.0", {"sdxl"}),
        ("stable-diffusion-v1/lora", {"sd1"}),
        ("sd_v1", {"sd1"}),
        ("sd_v1_v", {"sd1"}),
        ("sd_1.5", {"sd1"}),
        ("stable-diffusion-v2-768-v/lora", {"sd2"}),
        ("sd_v2_v", {"sd2"}),
        ("sd_3", {"sd3", "sd3.5-large"}),
        ("stable-diffusion-3-m/lora", {"sd3"}),
        ("stable-diffusion-3-5-medium/lora", {"sd3"}),
        ("stable-diffusion-3-5-large/lora", {"sd3.5-large"}),
        ("flux-1-dev/lora", {"flux1"}),
        ("Flux.1-dev/lora", {"flux1"}),
        ("flux-1-schnell/lora", {"flux1"}),
        ("flux.1_kontext", {"flux1"}),
        ("flux_kontext", {"flux1"}),
        ("flux1", {"flux1"}),
        ("Flux.2-dev/lora", {"flux2-dev"}),
        ("flux2_klein_4b", {"flux2-klein-4b"}),
        ("flux_2_klein_9b", {"flux2-klein-9b"}),
        ("chroma/lora", {"chroma"}),
        ("chroma_radiance", {"chroma-radiance"}),
        ("hunyuan-video/lora", {"hunyuan-video"}),
        ("framepack", {"hunyuan-video"}),
        ("hunyuan-video-1.5/lora", {"hunyuan-video-1.5"}),
        ("hunyuan-image-2.1/lora", {"hunyuan-image"}),
        ("Qwen-Image-Edit-2511/lora", {"qwen-image"}),
        ("wan2.1/lora", {"wan-14b", "wan-5b", "wan-1.3b"}),
        ("wan_2.2_14b", {"wan-14b"}),
        ("wan_2.2_5b", {"wan-5b"}),
        ("wan2.1_t2v_1.3b", {"wan-1.3b"}),
        ("Z-Image/lora", {"z-image"}),
        ("zimage", {"z-image"}),
        ("lumina-2/lora", {"lumina2"}),
        ("anima-preview/lora", {"anima"}),
        ("ltx2", {"ltx2"}),
        ("hidream_i1", {"hidream"}),
        ("kolors", {"kolors"}),
        ("pony", set(FAMILIES)),
        ("illustrious-xl", set(FAMILIES)),
        ("my own model", set(FAMILIES)),
        ("", set(FAMILIES)),
    ],
)
def test_what_trainers_call_a_model(said: str, families: set[str]) -> None:
    assert stated({"modelspec.architecture": said}) == families
    assert stated({"ss_base_model_version": said}) == families


def test_ss_v2_tells_sd2_from_all_others() -> None:
    assert stated({"ss_v2": "True"}) == {"sd2"}
    assert stated({"ss_v2": "False"}) == set(FAMILIES) - {"sd2"}
    assert stated({"ss_v2": "False", "ss_base_model_version": "flux1"}) == {"flux1"}


def test_who_contradicts_himself_says_nothing() -> None:
    assert stated({"modelspec.architecture": "flux-1-dev/lora", "ss_base_model_version": "sd_1.5"}) == set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "said", "found"),
    [
        ("sdxl", "kolors", {"kolors"}),  # the very same layers
        ("flux1", "longcat_image", {"longcat"}),
        ("sdxl", "flux1", {"sdxl"}),  # the layers are the truth
        ("sdxl", "sd_v1", {"sdxl"}),
        ("flux1", "sd_1.5", {"flux1"}),
        ("cosmos", "anima", {"anima"}),
        ("cosmos", "cosmos_predict2", {"cosmos"}),
    ],
)
def test_the_files_word_decides_what_its_layers_leave_open(family: str, said: str, found: set[str]) -> None:
    assert ids(whole(family, "kohya"), ss_base_model_version=said) == found


@pytest.mark.parametrize(
    ("layers", "said", "found"),
    [
        # SDXL's first text encoder is Flux.1's too
        ({"lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}, "flux1", {"flux1"}),
        ({"lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}, "sdxl_base_v1-0", {"sdxl"}),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}, "", {"sd1"}),
        ({"lora_unet_mid_block_attentions_0_proj_in": (1280, 1280)}, "", {"sd1", "sd2"}),
        ({"unet.mid_block.attentions.0.proj_in": (1280, 1280)}, "", {"sd1", "sd2", "sdxl"}),
        ({"unet.mid_block.attentions.0.proj_in": (8, 8)}, "", {"sd1"}),  # a small model for trials
        ({"lora_unet_wonders_0_attn_to_q": (3072, 3072)}, "", set()),
        ({"transformer.transformer_blocks.0.wonder": (3072, 3072)}, "", set()),
        ({"transformer.transformer_blocks.0.attn.to_q": (3072, 3071)}, "", set()),
        ({f"transformer.transformer_blocks.{10**9}.attn.to_q": (3072, 3072)}, "", set()),
    ],
)
def test_few_layers(layers: Shapes, said: str, found: set[str]) -> None:
    assert ids(layers, ss_base_model_version=said) == found


def test_what_may_be_for_several_is_labelled_as_none() -> None:
    several = either([FAMILIES["flux1"], FAMILIES["chroma"], FAMILIES["hunyuan-video"]])
    assert several.title == "Flux.1, Chroma or HunyuanVideo"
    assert (several.base_version, several.architecture) == ("", "")
    assert several.block_lists == (61,)
    assert several.block("lora_unet_double_blocks_3_img_attn_qkv") == "D03"
