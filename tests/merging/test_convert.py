"""One LoRA under other names: the same LoRA, for whoever reads these names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lib_pm import convert
from lib_pm.core.choices import NAMES
from lib_pm.core.errors import MergeInputError
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.layouts import Shapes
from tests.loras import write
from tests.merging.test_spellings import expected, layers_of, make, one_and_cut, product, scale_of
from tests.messages import says

FLUX: Shapes = {
    "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
    "lora_unet_single_blocks_37_linear1": (21504, 3072),
    "lora_unet_final_layer_adaLN_modulation_1": (6144, 3072),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
}
NAMES_OF_FLUX = {
    "kohya": set(FLUX),
    "comfy": {
        "diffusion_model.double_blocks.0.img_attn.qkv",
        "diffusion_model.single_blocks.37.linear1",
        "diffusion_model.final_layer.adaLN_modulation.1",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
    },
    "diffusers": {
        *(f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"),
        *(f"transformer.single_transformer_blocks.37.attn.to_{part}" for part in "qkv"),
        "transformer.single_transformer_blocks.37.proj_mlp",
        "transformer.norm_out.linear",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    },
}
NAMES_OF_FLUX["peft"] = {name.replace("transformer.", "base_model.model.", 1) for name in NAMES_OF_FLUX["diffusers"]}
NAMES_OF_FLUX["onetrainer"] = {
    f"lora_te1_{name.removeprefix('text_encoder.')}".replace(".", "_")
    if name.startswith("text")
    else f"lora_{name}".replace(".", "_")
    for name in NAMES_OF_FLUX["diffusers"]
}
METADATA = {"ss_base_model_version": "flux1", "ss_output_name": "flux"}


def flux(tmp_path: Path, alpha: float | None) -> Path:
    tensors = {key: tensor.half() for key, tensor in make(FLUX, 1, alpha).items()}
    return write(tmp_path / "flux.safetensors", tensors, METADATA)


@pytest.mark.parametrize("names", NAMES)
def test_flux_by_all_names(tmp_path: Path, names: str) -> None:
    converted = convert(flux(tmp_path, 3.0), names).tensors
    assert layers_of(converted) == NAMES_OF_FLUX[names]
    assert {tensor.dtype for tensor in converted.values()} == {torch.float16}


@pytest.mark.parametrize("alpha", [None, 3.0, 2.0], ids=["no alpha", "the rank", "another"])
@pytest.mark.parametrize("names", NAMES)
def test_there_and_back(tmp_path: Path, names: str, alpha: float | None) -> None:
    """The same bits, but where an alpha that is not the rank finds no place: then the same LoRA."""
    kohya = convert(flux(tmp_path, alpha), "kohya", output=tmp_path / "kohya.safetensors").tensors
    there = convert(tmp_path / "kohya.safetensors", names, output=tmp_path / "there.safetensors").tensors
    assert load_file(tmp_path / "there.safetensors").keys() == there.keys()
    back = convert(tmp_path / "there.safetensors", "kohya").tensors
    assert back.keys() == kohya.keys()
    if alpha == 2.0 and not any(key.endswith(".alpha") for key in there):
        for name in layers_of(kohya):
            x = torch.randn(kohya[f"{name}.lora_down.weight"].shape[1], 2, dtype=torch.float64)
            right = product(kohya, name, x)
            assert float((product(back, name, x) - right).norm() / right.norm()) < 1e-3
    else:
        assert [key for key in kohya if not torch.equal(kohya[key], back[key])] == []


@pytest.mark.parametrize("family", ["flux1", "z-image", "lumina2", "sd3", "hunyuan-video-1.5"])
def test_parts_become_one(tmp_path: Path, family: str) -> None:
    """Each with an alpha of its own, some of them missing."""
    said, _, cut, cuts = one_and_cut(family)
    path = write(tmp_path / "cut.safetensors", cut, {"ss_base_model_version": said})
    merged = convert(path, "kohya", save_dtype="float32").tensors
    for name, parts in cuts.items():
        name = name.replace("diffusion_model.", "lora_unet_").replace(".", "_")
        x = torch.randn(merged[f"{name}.lora_down.weight"].shape[1], 2, dtype=torch.float64)
        right = expected(cut, parts, x, merged[f"{name}.lora_up.weight"].shape[0])
        assert float((product(merged, name, x) - right).norm() / right.norm()) < 1e-6


def test_a_merge_gets_the_names_too(tmp_path: Path) -> None:
    said, one, cut, cuts = one_and_cut("z-image")
    uses = [
        LoraUse(write(tmp_path / f"{number}.safetensors", tensors, {"ss_base_model_version": said}))
        for number, tensors in enumerate((one, cut))
    ]
    merged, _ = merge(make_recipe(uses, "concat", save_dtype="float32", names="diffusers"))
    assert layers_of(merged) == {
        part.replace("diffusion_model.", "transformer.") for parts in cuts.values() for part in parts
    }
    for name, parts in cuts.items():
        x = torch.randn(3840, 2, dtype=torch.float64)
        right = product(one, name, x) + expected(cut, parts, x, one[f"{name}.lora_up.weight"].shape[0])
        there = {part: [rows] for part, [rows] in parts.items()}
        for part, [(start, end)] in there.items():
            found = product(merged, part.replace("diffusion_model.", "transformer."), x)
            assert float((found - right[start:end]).norm() / right.norm()) < 1e-6


UNET: Shapes = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048),
    "lora_unet_input_blocks_4_0_in_layers_2": (640, 320, 3, 3),
    "lora_unet_middle_block_1_proj_in": (1280, 1280),
    "lora_unet_output_blocks_2_2_conv": (1280, 1280, 3, 3),
    "lora_te2_text_model_encoder_layers_31_self_attn_out_proj": (1280, 1280),
}


def test_sdxl(tmp_path: Path) -> None:
    path = write(tmp_path / "xl.safetensors", make(UNET, 1, 3.0), {"ss_base_model_version": "sdxl_base_v1-0"})
    converted = convert(path, "diffusers", output=tmp_path / "there.safetensors").tensors
    assert layers_of(converted) == {
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.down_blocks.1.resnets.0.conv1",
        "unet.mid_block.attentions.0.proj_in",
        "unet.up_blocks.0.upsamplers.0.conv",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj",
    }
    back = convert(tmp_path / "there.safetensors", "kohya").tensors
    assert all(torch.equal(tensor, back[key]) for key, tensor in load_file(path).items())


def test_a_dtype_alone(tmp_path: Path) -> None:
    path = flux(tmp_path, 2.0)
    convert(path, save_dtype="float32", output=tmp_path / "out.safetensors")
    before, after = load_file(path), load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor.float(), after[key]) for key, tensor in before.items())
    assert {scale_of(after, name) for name in FLUX} == {2 / 3}
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["ss_network_alpha"] == "2.0"


@pytest.mark.parametrize(
    ("shapes", "names", "facts"),
    [
        (FLUX, "civitai", "names … 'civitai' … kohya, comfy, diffusers, peft, onetrainer"),
        (UNET, "comfy", "names … 'comfy' … kohya, diffusers … Stable Diffusion XL"),
        ({"diffusion_model.wonder.0.q": (8, 8)}, "diffusers", "names … 'diffusers' … unknown model"),
        (
            FLUX | {"lora_unet_final_layer_no": (8, 8)},
            "comfy",
            "a.safetensors … lora_unet_final_layer_no … comfy",
        ),
    ],
    ids=["no such names", "not of SDXL", "unknown", "unknown layer"],
)
def test_names_that_there_are_none_of(tmp_path: Path, shapes: Shapes, names: str, facts: str) -> None:
    said = {"ss_base_model_version": "flux1"} if shapes.items() >= FLUX.items() else {}
    path = write(tmp_path / "a.safetensors", make(shapes, 1), said)
    with pytest.raises(MergeInputError) as caught:
        convert(path, names)
    assert says(caught.value, facts), caught.value
