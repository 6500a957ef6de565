"""The trained model: its pictures show what the captions say, its LoRAs what they are for, and a merge shows both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
pytest.importorskip("peft")
from demo.quality.measure import captions_right, measure
from demo.quality.settings import STACKED, Loras, Setting
from demo.tiny.checks import Seen, look
from demo.tiny.model import render
from demo.tiny.scenes import NEW_SHAPES, SHAPES, STYLES, Scene
from demo.tiny.train_loras import KINDS
from demo.tiny.weights import LORAS, WEIGHTS, load_pipeline
from lib_pm.files.reader import open_lora
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.pipeline.apply import Stacked, apply, remove, stacked

STEPS = 8  # in so few, what a picture is to show is harder to draw than in the demo's 20
COLOURS = [("red", "blue"), ("yellow", "purple"), ("white", "green"), ("cyan", "orange")]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_pipeline()


def plain(shape: str) -> list[Scene]:
    return [Scene(shape, colour, background) for colour, background in COLOURS]


def seen_with(pipeline: Any, names: list[str], scenes: list[Scene]) -> list[Seen]:
    with stacked(pipeline, [Stacked(load_file(LORAS / f"{name}.safetensors")) for name in names]):
        pictures = render(pipeline, [scene.caption for scene in scenes], list(range(len(scenes))), steps=STEPS)
    return [look(picture) for picture in pictures]


def test_the_weights_are_small() -> None:
    loras = [path.stat().st_size for path in LORAS.glob("*.safetensors")]
    assert WEIGHTS.stat().st_size + sum(loras) < 20e6
    assert {tensor.dtype for name, tensor in load_file(WEIGHTS).items() if name != "token_ids"} == {torch.float16}


def test_captions_it_was_never_shown(pipeline: Any) -> None:
    assert captions_right(pipeline, 20) >= 17  # of 200 more than nine in ten are: see docs/quality.md


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_lora_there_is_no_style(pipeline: Any, shape: str) -> None:
    seen = seen_with(pipeline, [], plain(shape))
    assert sum(one.has(style) for one in seen for style in STYLES) <= 1


@pytest.mark.parametrize("content", NEW_SHAPES)
def test_each_content(pipeline: Any, content: str) -> None:
    before, after = (seen_with(pipeline, names, plain(content)) for names in ([], [content]))
    assert sum(one.shape == content for one in before) == 0
    assert sum(one.agrees(scene) for one, scene in zip(after, plain(content), strict=True)) >= 3


@pytest.mark.parametrize("style", STYLES)
def test_each_style(pipeline: Any, style: str) -> None:
    scenes = [scene for shape in ("circle", "square") for scene in plain(shape)]
    seen = seen_with(pipeline, [style], scenes)
    assert sum(one.has(style) for one in seen) >= 7
    assert sum(one.agrees(scene) for one, scene in zip(seen, scenes, strict=True)) >= 6


@pytest.mark.parametrize("name", KINDS)
def test_each_lora_is_what_kohya_writes(name: str) -> None:
    kind = KINDS[name]
    with open_lora(LORAS / f"{name}.safetensors") as lora:
        assert lora.family.id == "sd1"
        assert sum(layer.startswith("lora_te_text_model_encoder_layers_") for layer in lora.layers) == 12 * kind.text
        assert ("lora_unet_mid_block_resnets_0_conv1" in lora.layers) == bool(kind.conv_rank)
        assert lora.read("lora_unet_mid_block_attentions_0_proj_in").rank == kind.rank
    with safe_open(str(LORAS / f"{name}.safetensors"), "pt") as file:
        assert file.metadata()["ss_base_model_version"] == "sd_v1"
        assert file.metadata()["ss_network_dim"] == str(kind.rank)


def test_live_is_stacked_and_saved_is_live(pipeline: Any, tmp_path: Path) -> None:
    prompts, seeds = ["a red heart on a yellow background"], [3]
    uses = [LoraUse(LORAS / "heart.safetensors", 0.9, 0.7), LoraUse(LORAS / "stripes.safetensors", 0.8)]
    recipe = make_recipe(uses, "concat", save_dtype="float32")

    def picture() -> np.ndarray:
        return render(pipeline, prompts, seeds, steps=STEPS) * 255

    base = picture()
    with stacked(pipeline, [Stacked(load_file(use.path), use.model, use.clip) for use in uses]):
        side_by_side = picture()
    tensors, _ = merge(recipe)
    one = apply(pipeline, tensors)
    live = picture()
    remove(pipeline, one.name)
    merge_to_file(recipe, tmp_path / "merged.safetensors")
    pipeline.load_lora_weights(str(tmp_path), weight_name="merged.safetensors", local_files_only=True)
    saved = picture()
    pipeline.unload_lora_weights()

    assert np.abs(side_by_side - base).max() > 50
    assert np.abs(live - side_by_side).max() <= 1
    assert np.abs(saved - live).max() <= 1
    assert np.abs(picture() - base).max() == 0


def test_a_merge_holds_content_and_style(pipeline: Any) -> None:
    loras = Loras("heart", ("outline",))
    merged, both = (measure(pipeline, loras, setting, 16) for setting in (Setting("concat"), Setting(STACKED)))
    assert merged == both
    assert merged.all >= 0.8  # docs/quality.md: in all of 32


def test_weights_without_one_are_refused(tmp_path: Path) -> None:
    tensors = load_file(WEIGHTS)
    del tensors["unet.conv_in.weight"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(RuntimeError, match=r"conv_in\.weight"):
        load_pipeline(tmp_path / "less.safetensors")
