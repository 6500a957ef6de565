"""Every layer finds its module, under every naming scheme; what finds none is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from demo.tiny.lora import kohya_layers
from lib_pm.core.errors import MergeInputError
from lib_pm.families.names import to_original
from lib_pm.pipeline.apply import NAME, apply, remove
from tests.host.by_hand import ALL_BLOCKS, LoraDict, delta, lora_modules, pixels
from tests.messages import saying
from tests.samples import random_lora


def every_layer(model: nn.Module, name: Callable[[str], str]) -> LoraDict:
    """A LoRA on every linear layer and convolution there is, of rank 2 to 4."""
    generator = torch.Generator().manual_seed(0)
    tensors: LoraDict = {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            shape, rank = module.weight.shape, 2 + len(tensors) % 3
            ones = [1] * (len(shape) - 2)
            tensors[f"{name(path)}.lora_down.weight"] = torch.randn(rank, *shape[1:], generator=generator)
            tensors[f"{name(path)}.lora_up.weight"] = torch.randn(shape[0], rank, *ones, generator=generator)
            tensors[f"{name(path)}.alpha"] = torch.tensor(float(1 + len(tensors) % 4))
    return tensors


def flat(path: str) -> str:
    return path.replace(".", "_")


@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_every_sdxl_layer_arrives(sdxl: Any, naming: str) -> None:
    parts = {
        "unet": lambda path: "lora_unet_" + (to_original(flat(path)) if naming == "original" else flat(path)),
        "text_encoder": lambda path: f"lora_te1_text_model_{flat(path)}",
        "text_encoder_2": lambda path: f"lora_te2_{flat(path)}",
    }
    for component, name in parts.items():
        model = getattr(sdxl, component)
        paths = {path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
        tensors = every_layer(model, name)
        assert apply(sdxl, tensors).layers == {component: len(paths)}
        for path in paths:
            # PEFT's own idea of what it adds to the weight, against the formula
            found = model.get_submodule(path).get_delta_weight(NAME).flatten(1)
            torch.testing.assert_close(found.double(), delta(tensors, name(path)), rtol=1e-5, atol=1e-5)
        remove(sdxl)


def test_original_names_are_those_of_kohya() -> None:
    """Guards the test above against a mistake that `to_original` and the code under test would share."""
    known = {  # from SDXL LoRAs that kohya's trainer wrote
        "down_blocks_1_attentions_0_proj_in": "input_blocks_4_1_proj_in",
        "down_blocks_2_attentions_1_proj_out": "input_blocks_8_1_proj_out",
        "mid_block_attentions_0_proj_in": "middle_block_1_proj_in",
        "up_blocks_1_attentions_2_proj_in": "output_blocks_5_1_proj_in",
        "down_blocks_0_downsamplers_0_conv": "input_blocks_3_0_op",
        "up_blocks_0_upsamplers_0_conv": "output_blocks_2_2_conv",
        "down_blocks_0_resnets_1_time_emb_proj": "input_blocks_2_0_emb_layers_1",
    }
    assert {path: to_original(path) for path in known} == known


@pytest.mark.parametrize("rank_of_the_others", [None, 2])
def test_text_projection_arrives(sdxl: Any, rank_of_the_others: int | None) -> None:
    """diffusers cannot read its rank: it refuses the layer alone, and next to layers of another rank."""
    tensors = {
        "lora_te2_text_projection.lora_down.weight": torch.randn(4, 16),
        "lora_te2_text_projection.lora_up.weight": torch.randn(16, 4),
    }
    if rank_of_the_others:
        tensors["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.randn(rank_of_the_others, 16)
        tensors["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.randn(32, rank_of_the_others)
    assert apply(sdxl, tensors).layers == {"text_encoder_2": len(tensors) // 2}
    remove(sdxl)
    assert not hasattr(sdxl.text_encoder_2, "peft_config")


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ],
)
def test_dotted_names(sd1: Any, down: str, up: str) -> None:
    kohya = random_lora(sd1, rank=4, alpha=4)
    apply(sd1, kohya)
    expected = pixels(sd1)
    remove(sd1)
    dotted: LoraDict = {}
    modules = {module: path for path, module in sd1.unet.named_modules()}
    texts = {module: path for path, module in sd1.text_encoder.named_modules()}
    for name, module in kohya_layers(sd1.unet, "lora_unet", ALL_BLOCKS):
        if f"{name}.lora_up.weight" in kohya:
            dotted[f"unet.{modules[module]}{down}"] = kohya[f"{name}.lora_down.weight"]
            dotted[f"unet.{modules[module]}{up}"] = kohya[f"{name}.lora_up.weight"]
    for name, module in kohya_layers(sd1.text_encoder, "lora_te", ALL_BLOCKS):
        dotted[f"text_encoder.text_model.{texts[module]}{down}"] = kohya[f"{name}.lora_down.weight"]
        dotted[f"text_encoder.text_model.{texts[module]}{up}"] = kohya[f"{name}.lora_up.weight"]
    apply(sd1, dotted)
    assert (pixels(sd1) == expected).all()


def test_a_linear_file_on_a_1x1_convolution_and_back(sd1: Any, sdxl: Any) -> None:
    """SD1's proj_in is a convolution, SDXL's a linear layer; trainers have written either for both."""
    apply(sd1, {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.randn(2, 32),
                "unet.mid_block.attentions.0.proj_in.lora_B.weight": torch.randn(32, 2)})  # fmt: skip
    apply(sdxl, {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.randn(2, 16, 1, 1),
                 "unet.mid_block.attentions.0.proj_in.lora_B.weight": torch.randn(16, 2, 1, 1)})  # fmt: skip


def test_wrong_family_is_refused_with_names(sd1: Any) -> None:
    good = random_lora(sd1, rank=2, alpha=2)
    bad = {
        f"lora_unet_input_blocks_7_1_transformer_blocks_{index}_attn1_to_q.{part}.weight": torch.zeros(2, 2)
        for index in range(3, 10)
        for part in ("lora_up", "lora_down")
    }
    first = "lora_unet_input_blocks_7_1_transformer_blocks_3_attn1_to_q"
    with pytest.raises(MergeInputError, match=saying(f"7 of 211 layers … StableDiffusionPipeline … {first}, … 2 more")):
        apply(sd1, good | bad)
    assert lora_modules(sd1) == 0


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({}, "no layers"),
        ({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.zeros(2, 2)}, "LoHa"),
        ({"something.else": torch.zeros(2)}, "something.else … plain LoRA"),
        ({"unet.conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3)}, "unet.conv_in … only … down"),
        (
            {
                "unet.conv_in.lora_A.weight": torch.zeros(2, 4, 1, 1),
                "unet.conv_in.lora_B.weight": torch.zeros(16, 2, 1, 1),
            },
            "unet.conv_in … 16×4×1×1 … model … 16×4×3×3",
        ),
        (
            {
                "lora_unet_conv_in.lora_down.weight": torch.zeros(2, 4, 1, 1),
                "lora_unet_conv_in.lora_up.weight": torch.zeros(16, 2, 1, 1),
                "lora_unet_conv_in.lora_mid.weight": torch.zeros(2, 2, 3, 3),
            },
            "mid factor",
        ),
    ],
)
def test_refusals(sd1: Any, tensors: LoraDict, facts: str) -> None:
    with pytest.raises(MergeInputError, match=saying(facts)):
        apply(sd1, tensors)
    assert lora_modules(sd1) == 0
