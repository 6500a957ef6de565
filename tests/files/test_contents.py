"""What `inspect` finds in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.files.contents import inspect_file
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.render.inspection_html import inspection_html
from lib_pm.render.text import inspection_text
from tests.kinds import make
from tests.layouts import Shapes
from tests.loras import PEFT, make_lora, write
from tests.messages import saying

TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
CONV = "lora_unet_down_blocks_0_downsamplers_0_conv"
ATTENTION = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
SHAPES: Shapes = {TEXT: (24, 16), CONV: (12, 8, 3, 3), ATTENTION: (24, 768)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors = make_lora({TEXT: (24, 16)}, 4, 2.0, dtype=torch.float16)
    tensors |= make_lora({CONV: (12, 8, 3, 3), ATTENTION: (24, 768)}, 6)
    tags = {"10_cat": {"cat": 3, "red": 9}, "img": {"cat": 7, **{f"tag{i}": 1 for i in range(10)}}}
    metadata = {"ss_tag_frequency": json.dumps(tags), "ss_output_name": "style", "note": "x" * 150}
    return write(tmp_path / "style.safetensors", tensors, metadata)


def test_layers(path: Path) -> None:
    found = inspect_file(path)
    assert found.layers == {
        TEXT: {"shape": "24×16", "rank": 4, "alpha": 2.0, "block": "BASE", "kind": "te", "network": "LoRA"},
        CONV: {"shape": "12×8×3×3", "rank": 6, "alpha": 6.0, "block": "IN03", "kind": "other", "network": "LoRA"},
        ATTENTION: {"shape": "24×768", "rank": 6, "alpha": 6.0, "block": "MID", "kind": "attn", "network": "LoRA"},
    }
    assert (found.file, found.size) == ("style.safetensors", path.stat().st_size)
    assert (found.family, found.naming) == ("Stable Diffusion 1", "kohya")
    assert found.dtypes == {"F16": 1, "F32": 2}
    assert list(found.tags.items())[:2] == [("cat", 10), ("red", 9)]
    assert found.recipe is None


def test_json_is_json(path: Path) -> None:
    value = json.loads(json.dumps(inspect_file(path).to_json()))
    assert value["layers"][TEXT]["alpha"] == 2.0
    assert value["tags"]["cat"] == 10
    assert value["metadata"]["note"] == "x" * 150


def test_a_family_without_a_layout(tmp_path: Path) -> None:
    tensors = make_lora({"diffusion_model.blocks.0.ffn.0": (24, 16)}, 4, endings=PEFT)
    found = inspect_file(write(tmp_path / "wan.safetensors", tensors))
    assert (found.family, found.naming) == ("an unknown model", "peft")
    assert found.layers["diffusion_model.blocks.0.ffn.0"]["block"] == ""
    assert "  blocks: (none) 1" in inspection_text(found).splitlines()
    assert "  rank: 4, alpha: 4 (no alpha stored: the rank is used instead)" in inspection_text(found).splitlines()


def test_a_merged_file_tells_its_recipe(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    merge_to_file(make_recipe([LoraUse(path, 0.5), LoraUse(path)], "add"), target)
    found = inspect_file(target)
    assert found.recipe is not None
    assert [(lora["name"], lora["model"]) for lora in found.recipe["loras"]] == [("style", 0.5), ("style", 1.0)]
    lines = inspection_text(found).splitlines()
    assert "  merged by Power Merger: add of style, style" in lines
    assert not any("power_merger_recipe" in line for line in lines)


@pytest.mark.parametrize("recipe", ["{damaged", "[1]", '"text"'])
def test_a_recipe_that_is_none(tmp_path: Path, recipe: str) -> None:
    tensors = make_lora({TEXT: (24, 16)}, 4)
    path = write(tmp_path / "style.safetensors", tensors, {"power_merger_recipe": recipe})
    assert inspect_file(path).recipe is None


def test_other_kinds(tmp_path: Path) -> None:
    tensors = make("LoHa", {TEXT: (24, 16)})[0] | make("full difference", {ATTENTION: (24, 768)})[0]
    found = inspect_file(write(tmp_path / "x.safetensors", tensors | {"bundle_emb.cat.clip_l": torch.ones(2)}))
    layers = {name: (layer["network"], layer["rank"], layer["alpha"]) for name, layer in found.layers.items()}
    whole = ("full difference", None, None)
    assert layers == {TEXT: ("LoHa", 4, 3.0), ATTENTION: whole, f"{ATTENTION}.bias": ("bias", None, None)}
    assert found.left_out == ["bundle_emb.cat.clip_l"]
    lines = inspection_text(found).splitlines()
    assert "  format: LoHa 1, full difference 1, bias 1, kohya names, F32 3" in lines
    assert "  rank: 4, alpha: 3" in lines
    assert any("bundle_emb.cat.clip_l" in line for line in lines)
    assert "full difference" in inspection_html(found)


def test_norms_alone(tmp_path: Path) -> None:
    tensors, _ = make("norms", {TEXT: (24, 16)})
    assert "  rank: none, alpha: none" in inspection_text(inspect_file(write(tmp_path / "x.safetensors", tensors)))


def test_no_lora(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"first_stage_model.encoder.conv_in.weight": torch.ones(2)})
    with pytest.raises(MergeInputError, match=saying("model.safetensors … checkpoint")):
        inspect_file(path)
