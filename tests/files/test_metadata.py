"""What a written file says about itself."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lib_pm import __version__
from lib_pm.files.metadata import RECIPE_KEY
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe, recipe_from_json
from tests.layouts import Shapes
from tests.loras import PEFT, make_lora, write
from tests.messages import says

SD1: Shapes = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (24, 16),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (24, 768),
}
SD2: Shapes = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (24, 1024)}
SDXL: Shapes = {"lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k": (24, 2048)}
FLUX: Shapes = {
    "lora_unet_double_blocks_0_img_mod_lin": (18432, 3072),
    "lora_unet_single_blocks_0_linear1": (21504, 3072),
}
WAN: Shapes = {"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}
CONV: Shapes = {"lora_unet_mid_block_resnets_0_conv1": (24, 16, 3, 3)}


def lora(folder: Path, name: str, shapes: Shapes = SD1, rank: int = 4, **metadata: str) -> LoraUse:
    endings = {"endings": PEFT} if "." in next(iter(shapes)) else {}
    tensors = make_lora(shapes, rank, seed=len(name), **endings)
    return LoraUse(write(folder / f"{name}.safetensors", tensors, metadata))


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return dict(file.metadata())


def merged(folder: Path, recipe: Recipe, **how: Any) -> dict[str, str]:
    target = folder / "my merge.safetensors"
    merge_to_file(recipe, target, **how)
    return metadata_of(target)


def test_what_is_written(tmp_path: Path) -> None:
    uses = [lora(tmp_path, "one", **{"modelspec.title": "Number One"}), lora(tmp_path, "two")]
    before = datetime.now(timezone.utc).replace(microsecond=0)
    metadata = merged(tmp_path, make_recipe(uses, "concat"))
    assert before <= datetime.fromisoformat(metadata.pop("modelspec.date")) <= datetime.now(timezone.utc)
    assert len(metadata.pop("sshs_model_hash")) == 64  # tests of the writer compare them
    assert len(metadata.pop("sshs_legacy_hash")) == 8
    assert metadata.pop("modelspec.hash_sha256").startswith("0x")
    assert json.loads(metadata.pop(RECIPE_KEY))["version"] == __version__
    assert metadata == {
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "8.0",
        "ss_output_name": "my merge",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "my merge",
        "modelspec.merged_from": "Number One, two",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.resolution": "512x512",
    }


@pytest.mark.parametrize(
    ("shapes", "base", "v2", "architecture"),
    [
        (SD1, "sd_v1", "False", "stable-diffusion-v1/lora"),
        (SD2, "sd_v2", "True", "stable-diffusion-v2-768-v/lora"),
        (SDXL, "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
        (WAN, None, None, None),
    ],
    ids=["SD1", "SD2", "SDXL", "Wan"],
)
def test_base_model_that_no_input_names(
    tmp_path: Path, shapes: Shapes, base: str | None, v2: str | None, architecture: str | None
) -> None:
    """Without ss_base_model_version the WebUI hides an SDXL LoRA from SDXL models."""
    metadata = merged(tmp_path, make_recipe([lora(tmp_path, "a", shapes)], "concat"))
    fields = ("ss_base_model_version", "ss_v2", "modelspec.architecture")
    assert tuple(metadata.get(field) for field in fields) == (base, v2, architecture)


def test_base_model_that_the_inputs_name(tmp_path: Path) -> None:
    uses = [
        lora(tmp_path, "a", ss_base_model_version="sd_1.5_mine", **{"modelspec.resolution": "640x640"}),
        lora(tmp_path, "b"),
        lora(tmp_path, "c", ss_base_model_version="sd_1.5_mine"),
    ]
    metadata = merged(tmp_path, make_recipe(uses, "concat"))
    assert metadata["ss_base_model_version"] == "sd_1.5_mine"
    assert metadata["modelspec.resolution"] == "640x640"


def test_tags_are_added_up(tmp_path: Path) -> None:
    uses = [
        lora(tmp_path, "a", ss_tag_frequency='{"10_cat": {"cat": 3, "red": 1}, "img": {"sky": 2}}'),
        lora(tmp_path, "b", ss_tag_frequency='{"10_cat": {"cat": 4, "blue": 5}, "x": "no tags", "y": {"z": "many"}}'),
        lora(tmp_path, "c", ss_tag_frequency="{damaged"),
        lora(tmp_path, "d"),
    ]
    assert json.loads(merged(tmp_path, make_recipe(uses, "concat"))["ss_tag_frequency"]) == {
        "10_cat": {"cat": 7, "red": 1, "blue": 5},
        "img": {"sky": 2},
        "x": {},
        "y": {},
    }


@pytest.mark.parametrize(
    ("shapes", "mode", "options", "dim", "alpha", "conv"),
    [
        (SD1, "add_svd", {"rank": 3}, "3", "3.0", None),
        (SD1 | CONV, "add_svd", {"rank": 3, "conv_rank": 2}, "3", "3.0", "2"),
        (SD1 | CONV, "add_svd", {"rank": 3, "conv_rank": 0}, "3", "3.0", None),
        (CONV, "add_svd", {"rank": 3, "conv_rank": 2}, "2", "3.0", "2"),
        ({**SD1, "lora_unet_conv_out": (2, 16)}, "add_svd", {"rank": 3}, "Dynamic", "3.0", None),
    ],
    ids=["linear", "both", "conv left out", "conv alone", "dynamic"],
)
def test_ranks(
    tmp_path: Path, shapes: Shapes, mode: str, options: dict[str, int], dim: str, alpha: str, conv: str | None
) -> None:
    metadata = merged(tmp_path, make_recipe([lora(tmp_path, "a", shapes)], mode, options))
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == (dim, alpha)
    arguments = json.loads(metadata.get("ss_network_args", "null"))
    assert arguments == (None if conv is None else {"conv_dim": conv, "conv_alpha": alpha.removesuffix(".0")})


@pytest.mark.parametrize("mode", ["concat", "dare_ties_svd"])
def test_the_recipe_repeats_the_merge(tmp_path: Path, mode: str) -> None:
    one, two = lora(tmp_path, "one"), lora(tmp_path, "three")
    uses = [LoraUse(one.path, -0.3, 0.7, "IN04=0.5,MID=0.25"), LoraUse(two.path, 1.5)]
    options = {"density": 0.4, "seed": 9, "rank": 5} if mode == "dare_ties_svd" else {"lambda": 0.5}
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    merge_to_file(make_recipe(uses, mode, options, save_dtype="bfloat16", layers=["attn"]), first)
    written = json.loads(metadata_of(first)[RECIPE_KEY])
    assert [lora["name"] for lora in written["loras"]] == ["one", "three"]
    merge_to_file(recipe_from_json(written, [one.path, two.path]), again)
    tensors, repeated = load_file(first), load_file(again)
    assert tensors.keys() == repeated.keys()
    assert all(tensors[name].dtype == torch.bfloat16 for name in tensors)
    assert all(torch.equal(tensors[name], repeated[name]) for name in tensors)
    assert metadata_of(again)["sshs_model_hash"] == metadata_of(first)["sshs_model_hash"]


def test_the_recipe_names_the_files_by_their_model_hash(tmp_path: Path) -> None:
    """A merged file's own hash is the content under which a merge of it lists it."""
    target = tmp_path / "first.safetensors"
    merge_to_file(make_recipe([lora(tmp_path, "a")], "concat"), target)
    second = merged(tmp_path, make_recipe([LoraUse(target)], "concat"))
    assert json.loads(second[RECIPE_KEY])["loras"][0]["content"] == metadata_of(target)["sshs_model_hash"]


def test_repeating_says_that_a_file_has_changed(tmp_path: Path) -> None:
    one, two, other = lora(tmp_path, "one"), lora(tmp_path, "two"), lora(tmp_path, "three")
    first = tmp_path / "first.safetensors"
    merge_to_file(make_recipe([one, two], "concat"), first)
    written = json.loads(metadata_of(first)[RECIPE_KEY])
    same = merge_to_file(recipe_from_json(written, [one.path, two.path]), tmp_path / "same.safetensors")
    changed = merge_to_file(recipe_from_json(written, [one.path, other.path]), tmp_path / "changed.safetensors")
    assert same.notes == []
    (note,) = changed.notes
    assert says(note, "three.safetensors … not the file … recipe")


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    """Half a character in a name comes of bytes that are no UTF-8; the header of a file cannot hold it."""
    odd = tmp_path / "caf\udce9.safetensors"
    try:
        lora(tmp_path, "style").path.rename(odd)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has no such names")
    found = merged(tmp_path, make_recipe([LoraUse(odd)], "concat"))
    assert found["modelspec.merged_from"] == "caf\\udce9"
