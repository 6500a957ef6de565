"""What a merge will do, from the headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.merging.merge import merge
from lib_pm.merging.plan import Plan, open_plan
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.layouts import Shapes
from tests.loras import KOHYA, PEFT, make_lora, write
from tests.messages import says

ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
SD1: Shapes = {ATTENTION: (4, 768), "lora_unet_down_blocks_0_attentions_0_proj_in": (4, 4)}
SD2: Shapes = {ATTENTION: (4, 1024)}
SDXL: Shapes = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (4, 2048),
    "lora_te2_text_model_encoder_layers_0_mlp_fc1": (4, 4),
}
Z_IMAGE: Shapes = {
    "diffusion_model.layers.0.attention.qkv": (11520, 3840),
    "diffusion_model.layers.0.feed_forward.w1": (10240, 3840),
}
QWEN_NAME = "transformer_blocks.59.attn.add_k_proj"
QWEN: Shapes = {f"transformer.{QWEN_NAME}": (3072, 3072)}
WAN: Shapes = {"diffusion_model.blocks.0.self_attn.q": (5120, 5120), "diffusion_model.blocks.0.ffn.0": (13824, 5120)}
FLUX: Shapes = {
    "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
    "lora_unet_single_blocks_37_linear1": (21504, 3072),
}
BFL: Shapes = {"diffusion_model.single_blocks.37.linear1": (21504, 3072)}
FLUX_DIFFUSERS: Shapes = {"transformer.single_transformer_blocks.37.proj_out": (3072, 15360)}
NEW: Shapes = {"diffusion_model.wonders.0.attention.q": (4, 4)}
LIKE_FLUX = "Flux.1, Chroma or HunyuanVideo"


def lora(folder: Path, name: str, shapes: Shapes, rank: int = 1, **how: Any) -> LoraUse:
    endings = PEFT if "." in next(iter(shapes)) else KOHYA
    return LoraUse(write(folder / f"{name}.safetensors", make_lora(shapes, rank, endings=endings)), **how)


def planned(*uses: LoraUse, **settings: Any) -> Plan:
    with open_plan(make_recipe(uses, **{"mode": "concat", **settings})) as plan:
        return plan


def refusal(*uses: LoraUse, **settings: Any) -> str:
    with pytest.raises(MergeInputError) as caught:
        planned(*uses, **settings)
    assert all(str(use.path.parent) not in str(caught.value) for use in uses)
    return str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "titles"),
    [
        (SD1, SDXL, ("Stable Diffusion 1", "Stable Diffusion XL")),
        (SD1, SD2, ("Stable Diffusion 1", "Stable Diffusion 2")),
        (SDXL, WAN, ("Stable Diffusion XL", "Wan 14B")),
        (QWEN, WAN, ("Qwen-Image", "Wan 14B")),
    ],
    ids=["SD1 SDXL", "SD1 SD2", "SDXL Wan", "Qwen Wan"],
)
def test_different_families_are_refused(tmp_path: Path, one: Shapes, other: Shapes, titles: tuple[str, str]) -> None:
    message = refusal(lora(tmp_path, "a", one), lora(tmp_path, "b", other))
    facts = f"different models … a.safetensors is … {titles[0]}, … b.safetensors is … {titles[1]}. … --force"
    assert says(message, facts), message


@pytest.mark.parametrize(
    ("shapes", "title", "naming"),
    [
        (FLUX, LIKE_FLUX, "kohya"),
        (FLUX_DIFFUSERS, LIKE_FLUX, "peft"),
        (Z_IMAGE, "Z-Image", "peft"),
        (QWEN, "Qwen-Image", "peft"),
        (WAN, "Wan 14B", "peft"),
        (NEW, "an unknown model", "peft"),
    ],
    ids=["Flux kohya", "Flux diffusers", "Z-Image", "Qwen", "Wan", "unknown"],
)
def test_other_families_merge_by_their_own_names(tmp_path: Path, shapes: Shapes, title: str, naming: str) -> None:
    plan = planned(lora(tmp_path, "a", shapes), lora(tmp_path, "b", shapes, rank=3))
    assert [layer.name for layer in plan.layers] == sorted(shapes)
    assert all(len(layer.sources) == 2 for layer in plan.layers)
    assert (plan.family.title, plan.naming) == (title, naming)


@pytest.mark.parametrize("dotted", [True, False])
def test_known_families_are_written_with_kohyas_names(tmp_path: Path, dotted: bool) -> None:
    """Whatever the inputs are called by: every WebUI reads those."""
    name = "unet.down_blocks.0.attentions.0.proj_in" if dotted else "lora_unet_down_blocks_0_attentions_0_proj_in"
    plan = planned(lora(tmp_path, "a", {name: (4, 4)}))
    assert plan.naming == "kohya"
    assert plan.layers[0].name == "lora_unet_down_blocks_0_attentions_0_proj_in"


@pytest.mark.parametrize(
    ("one", "other", "written"),
    [
        (WAN, {"blocks.0.self_attn.q": (5120, 5120)}, "diffusion_model.blocks.0.self_attn.q"),
        (WAN, {"transformer.blocks.0.attn1.to_q": (5120, 5120)}, "diffusion_model.blocks.0.self_attn.q"),
        (WAN, {"diffusion_model.blocks.0.attn1.to_q": (5120, 5120)}, "diffusion_model.blocks.0.self_attn.q"),
        (
            QWEN,
            {"lora_unet_transformer_blocks_59_attn_add_k_proj": (3072, 3072)},
            "diffusion_model.transformer_blocks.59.attn.add_k_proj",
        ),
        (
            QWEN,
            {"lycoris_transformer_blocks_59_attn_add_k_proj": (3072, 3072)},
            "diffusion_model.transformer_blocks.59.attn.add_k_proj",
        ),
        (
            FLUX,
            {"transformer.single_transformer_blocks.37.attn.to_q": (3072, 3072)},
            "lora_unet_single_blocks_37_linear1",
        ),
    ],
    ids=["no prefix", "layout and prefix", "layout", "kohya", "lycoris", "a part of it"],
)
def test_one_layer_under_two_names(tmp_path: Path, one: Shapes, other: Shapes, written: str) -> None:
    plan = planned(lora(tmp_path, "a", one), lora(tmp_path, "b", other, rank=3))
    (both,) = [layer for layer in plan.layers if len(layer.sources) == 2]
    assert (both.name, both.rank) == (written, 4)
    assert {str(source.name) for source in both.sources} & set(other) == set(other)


def test_a_layer_that_no_table_has_keeps_its_name_where_there_is_one_layout(tmp_path: Path) -> None:
    strange = {"transformer.transformer_blocks.59.attn.norm_q": (3072, 1), "transformer.proj_wonder": (8, 8)}
    plan = planned(
        lora(tmp_path, "a", QWEN | strange), lora(tmp_path, "b", {f"diffusion_model.{QWEN_NAME}": (3072, 3072)})
    )
    names = {name.replace("transformer.", "diffusion_model.", 1) for name in QWEN | strange}
    assert {layer.name for layer in plan.layers} == names


def test_what_two_families_call_alike_needs_no_family(tmp_path: Path) -> None:
    plan = planned(
        lora(tmp_path, "a", FLUX),
        lora(tmp_path, "b", {"diffusion_model.double_blocks.0.img_attn.proj": (3072, 3072)} | BFL),
    )
    assert plan.family.title == LIKE_FLUX
    assert {layer.name for layer in plan.layers} == {*FLUX, "lora_unet_double_blocks_0_img_attn_proj"}


@pytest.mark.parametrize(
    ("one", "other", "facts"),
    [
        (NEW, {"wonders.0.attention.q": (4, 4)}, "unknown model"),
        (WAN, {"blocks.0.self_attn.q": (5120, 5120), "wonder.0.q": (4, 4)}, "b.safetensors … wonder.0.q … Wan 14B"),
        (
            {"lora_unet_double_blocks_0_img_mlp_0": (12288, 3072)},
            {"transformer.transformer_blocks.0.ff.net.0.proj": (12288, 3072)},
            "a.safetensors … lora_unet_double_blocks_0_img_mlp_0 … HunyuanVideo",
        ),
    ],
    ids=["unknown", "unknown layer", "not told which"],
)
def test_names_that_cannot_be_converted(tmp_path: Path, one: Shapes, other: Shapes, facts: str) -> None:
    message = refusal(lora(tmp_path, "a", one), lora(tmp_path, "b", other))
    names = f"a.safetensors … b.safetensors … {min(one)} … {min(other)}"
    assert says(message, f"{names} … {facts} … same naming scheme"), message


def test_layers_of_different_shapes(tmp_path: Path) -> None:
    uses = [
        lora(tmp_path, "a", SD1),
        lora(tmp_path, "b", SD1 | {"lora_unet_down_blocks_0_attentions_0_proj_in": (6, 4)}),
    ]
    message = refusal(*uses)
    facts = (
        "lora_unet_down_blocks_0_attentions_0_proj_in … shapes … a.safetensors 4×4 … b.safetensors 6×4 … base models"
    )
    assert says(message, facts), message


def test_a_1x1_convolution_and_a_linear_layer_are_the_same(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    for order in ("ab", "ba"):
        uses = {"a": lora(tmp_path, "a", {name: (6, 4)}), "b": lora(tmp_path, "b", {name: (6, 4, 1, 1)})}
        (layer,) = planned(*(uses[key] for key in order)).layers
        assert layer.shape.kernel == (1, 1)


def test_layers_that_only_some_have(tmp_path: Path) -> None:
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    plan = planned(lora(tmp_path, "a", SD1, model=0.5), lora(tmp_path, "b", SD1 | {name: (4, 4)}, clip=0.25))
    sources = {
        layer.name: [(source.lora, source.name, source.weight) for source in layer.sources] for layer in plan.layers
    }
    assert sources == {key: [(0, key, 0.5), (1, key, 1.0)] for key in SD1} | {name: [(1, name, 0.25)]}


def test_the_same_file_twice(tmp_path: Path) -> None:
    use = lora(tmp_path, "a", SD1)
    plan = planned(use, LoraUse(use.path, 0.5))
    assert [[source.weight for source in layer.sources] for layer in plan.layers] == [[1.0, 0.5]] * len(SD1)


def test_one_layer_under_two_names_in_a_file(tmp_path: Path) -> None:
    dotted = "unet.down_blocks.0.attentions.0.proj_in"
    flat = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = make_lora({flat: (4, 4)}, 1) | make_lora({dotted: (4, 4)}, 1, endings=PEFT)
    use = LoraUse(write(tmp_path / "a.safetensors", tensors))
    assert says(refusal(use), f"a.safetensors … {flat} twice … {flat} … {dotted}")


@pytest.mark.parametrize(
    ("mode", "options", "rank"),
    [
        ("concat", {}, 7),
        ("add", {}, 5),
        ("add_svd", {"rank": 3}, 3),
        ("add_svd", {"rank": 9}, 6),
        ("ties_svd", {"rank": 9}, 6),
        ("ties_svd", {"rank": 5}, 5),
    ],
)
def test_the_rank_of_a_layer_is_known_beforehand(tmp_path: Path, mode: str, options: dict[str, int], rank: int) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    uses = [lora(tmp_path, "a", {name: (6, 8)}, rank=2), lora(tmp_path, "b", {name: (6, 8)}, rank=5)]
    assert planned(*uses, mode=mode, options=options).layers[0].rank == rank
    tensors, _ = merge(make_recipe(uses, mode, options))
    assert tensors[f"{name}.lora_down.weight"].shape[0] == rank


def test_files_are_closed(tmp_path: Path) -> None:
    plan = planned(lora(tmp_path, "a", SD1))
    with pytest.raises(Exception, match="closed"):
        plan.files[0].read(ATTENTION)


TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
ALL_KINDS: Shapes = {
    TEXT: (4, 4),
    ATTENTION: (4, 768),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2": (4, 4),
    "lora_unet_mid_block_resnets_0_conv1": (4, 4, 3, 3),
}
KIND = dict(zip(ALL_KINDS, ("te", "attn", "mlp", "other"), strict=True))


@pytest.mark.parametrize("layers", [("attn",), ("mlp", "te"), ("other",), ("attn", "mlp", "te", "other")])
def test_layer_filters(tmp_path: Path, layers: tuple[str, ...]) -> None:
    plan = planned(lora(tmp_path, "a", ALL_KINDS), layers=layers)
    assert {KIND[layer.name] for layer in plan.layers} == set(layers)
    assert {KIND[layer.name] for layer in plan.left_out} == set(KIND.values()) - set(layers)


@pytest.mark.parametrize(
    ("apply", "weights"),
    [("model + clip", {"te": -0.5, "attn": 2.0}), ("model", {"attn": 2.0}), ("clip", {"te": -0.5})],
)
def test_apply(tmp_path: Path, apply: str, weights: dict[str, float]) -> None:
    shapes = {TEXT: (4, 4), ATTENTION: (4, 768)}
    plan = planned(lora(tmp_path, "a", shapes, model=2.0, clip=-0.5), apply=apply)
    assert {KIND[layer.name]: layer.sources[0].weight for layer in plan.layers} == weights


def test_strength_zero_is_not_switched_off_by_a_block(tmp_path: Path) -> None:
    plan = planned(lora(tmp_path, "a", ALL_KINDS, model=0.0, lbw="te=0.5,attn=0"))
    assert [layer.name for layer in plan.layers] == [TEXT]
    assert not any(source.off_by_block for layer in plan.left_out for source in layer.sources)
