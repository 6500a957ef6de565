"""PEFT's own settings of a LoRA, which say what its tensors do not: against PEFT's own delta of each layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lib_pm.core.errors import MergeInputError
from lib_pm.jobs.reader import open_lora
from tests.loras import PEFT, make_lora, relative_error, write

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(16, 24), nn.Linear(12, 24)


class Block(nn.Module):
    """Named as a UNet's block is, so that the layers of two of them differ in the start of the name only."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(), Attention()
        self.conv1 = nn.Conv2d(8, 12, 3)

    def forward(self, x: Any) -> Any:
        return x


SETTINGS: dict[str, dict[str, Any]] = {
    "alpha": {"lora_alpha": 12},
    "rsLoRA": {"lora_alpha": 6, "use_rslora": True},
    "patterns": {"lora_alpha": 4, "rank_pattern": {"to_k": 3}, "alpha_pattern": {"attn2.to_k": 20, "conv1": 1}},
}


def with_lora(**settings: Any) -> Any:
    """A model with random LoRA factors on it, by PEFT."""
    import peft

    model = peft.get_peft_model(
        nn.ModuleDict({"mid_block": Block()}),
        peft.LoraConfig(r=4, target_modules=["to_q", "to_k", "conv1"], **settings),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


def assert_reads_as_peft(path: Path, model: Any, prefix: str) -> None:
    names = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    with open_lora(path) as file:
        assert set(file.layers) == {name.replace("base_model.model.", prefix) for name in names}
        for name in names:
            expected = model.get_submodule(name).get_delta_weight("default").detach().flatten(1)
            layer = file.read(name.replace("base_model.model.", prefix))
            assert relative_error(layer.delta(), expected) < 1e-6, name


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_config_beside_the_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = with_lora(**settings)
    model.save_pretrained(tmp_path)
    assert_reads_as_peft(tmp_path / "adapter_model.safetensors", model, "base_model.model.")


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_metadata_of_diffusers(tmp_path: Path, settings: dict[str, Any]) -> None:
    import diffusers
    import peft

    model = with_lora(**settings)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers={
            key.removeprefix("base_model.model."): tensor
            for key, tensor in peft.get_peft_model_state_dict(model).items()
        },
        unet_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    assert_reads_as_peft(tmp_path / "pytorch_lora_weights.safetensors", model, "unet.")


def alphas(path: Path) -> dict[str, float]:
    with open_lora(path) as file:
        return {name: file.alpha(name) for name in file.layers}


def test_each_component_has_its_own_settings(tmp_path: Path) -> None:
    text = "text_model.encoder.layers.0.self_attn.q_proj"
    names = [f"unet.{LAYER}", f"text_encoder.{text}", f"text_encoder_2.{text}"]
    settings = {"unet.lora_alpha": 1, "text_encoder.lora_alpha": 2, "text_encoder_2.lora_alpha": 3}
    tensors = make_lora(dict.fromkeys(names, (24, 16)), 4, endings=PEFT)
    path = write(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": json.dumps(settings)})
    assert alphas(path) == {names[0]: 1, names[1]: 2, names[2]: 3}


def test_component_without_settings_has_the_rank_as_alpha(tmp_path: Path) -> None:
    names = [f"unet.{LAYER}", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"]
    tensors = make_lora(dict.fromkeys(names, (24, 16)), 4, endings=PEFT)
    path = write(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": '{"unet.lora_alpha": 8}'})
    assert alphas(path) == {names[0]: 8, names[1]: 4}


def test_an_alpha_tensor_comes_before_the_settings(tmp_path: Path) -> None:
    tensors = make_lora({f"unet.{LAYER}": (24, 16)}, 4, endings=PEFT) | {f"unet.{LAYER}.alpha": torch.tensor(2.0)}
    path = write(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": '{"unet.lora_alpha": 8}'})
    assert alphas(path) == {f"unet.{LAYER}": 2}


def test_a_config_beside_another_file_is_not_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "style.safetensors", make_lora({f"unet.{LAYER}": (24, 16)}, 4, endings=PEFT))
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 99}')
    assert alphas(path) == {f"unet.{LAYER}": 4}


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ('"use_dora": true', "DoRA"),
        ('"bias": "all"', "trained biases"),
        ('"lora_bias": true', "LoRA with biases"),
        ('"use_qalora": true', "QALoRA"),
    ],
)
def test_kinds_that_only_the_settings_give_away(tmp_path: Path, setting: str, kind: str) -> None:
    path = write(tmp_path / "adapter_model.safetensors", make_lora({LAYER: (24, 16)}, 4, endings=PEFT))
    (tmp_path / "adapter_config.json").write_text(f'{{"lora_alpha": 4, {setting}}}')
    with pytest.raises(MergeInputError) as caught:
        open_lora(path)
    assert str(caught.value) == (
        f"adapter_model.safetensors is not a plain LoRA but {kind}; this kind is not supported yet."
    )


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_settings_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    tensors = make_lora({f"unet.{LAYER}": (24, 16)}, 4, endings=PEFT)
    path = write(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": text})
    with pytest.raises(MergeInputError, match=r"lora\.safetensors: its PEFT settings cannot be read: "):
        open_lora(path)
