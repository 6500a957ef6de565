"""PEFT's own settings of a LoRA, which say what its tensors do not: against PEFT's own delta of each layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lib_pm.core.errors import MergeInputError
from lib_pm.files.alpha_patterns import AlphaPatterns
from lib_pm.files.contents import inspect_file
from lib_pm.files.reader import open_lora
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.merging.resize import NewRank, preview_resize
from lib_pm.render.report_html import report_html
from lib_pm.render.text import inspection_text, report_text
from tests.loras import PEFT, make_lora, relative_error, write
from tests.messages import saying, says

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
        ('"bias": "all"', "trained biases"),
        ('"use_qalora": true', "QALoRA"),
    ],
)
def test_kinds_that_only_the_settings_give_away(tmp_path: Path, setting: str, kind: str) -> None:
    path = write(tmp_path / "adapter_model.safetensors", make_lora({LAYER: (24, 16)}, 4, endings=PEFT))
    (tmp_path / "adapter_config.json").write_text(f'{{"lora_alpha": 4, {setting}}}')
    with pytest.raises(MergeInputError) as caught:
        open_lora(path)
    assert says(caught.value, f"adapter_model.safetensors … plain LoRA … {kind} … not supported"), caught.value
    assert str(tmp_path) not in str(caught.value)


def test_dora_by_the_settings_without_magnitudes(tmp_path: Path) -> None:
    path = write(tmp_path / "adapter_model.safetensors", make_lora({LAYER: (24, 16)}, 4, endings=PEFT))
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4, "use_dora": true}')
    with pytest.raises(MergeInputError) as caught:
        open_lora(path)
    assert says(caught.value, "adapter_model.safetensors … DoRA … use_dora … magnitudes"), caught.value


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_settings_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    tensors = make_lora({f"unet.{LAYER}": (24, 16)}, 4, endings=PEFT)
    path = write(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": text})
    with pytest.raises(MergeInputError, match=saying("lora.safetensors … PEFT settings … read")):
        open_lora(path)


def test_a_file_without_its_config_says_that_its_alpha_is_a_guess(tmp_path: Path) -> None:
    with_lora(lora_alpha=8).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    recipe = make_recipe([LoraUse(path)], "concat")

    def texts() -> list[str]:
        (_, report), new = merge(recipe), NewRank(2)
        said = [
            inspection_text(inspect_file(path)),
            report_text(report),
            report_text(preview_resize(path, new)),
            report_html(report),
        ]
        return [text for text in said if "no alpha stored: the rank is used instead" in text]

    assert not texts()
    (tmp_path / "adapter_config.json").unlink()
    assert len(texts()) == 4
    assert inspect_file(path).to_json()["without_alpha"] == 5


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("to_q", ["attn1.to_q", "attn2.to_q"]),
        ("attn1.to_q", ["attn1.to_q"]),
        ("mid_block.attn1.to_q", ["attn1.to_q"]),
        ("^mid_block.attn1.to_q", ["attn1.to_q"]),
        ("^attn1.to_q", []),
        (r".*\.attn1\.to_q", ["attn1.to_q"]),
        (r"mid_block\.attn2\.to_k$", ["attn2.to_k"]),
        ("o_q", []),
        ("ttn1.to_q", []),
    ],
)
def test_a_pattern_fits_what_it_fits_in_peft(tmp_path: Path, pattern: str, fits: list[str]) -> None:
    """Against PEFT's own rule, for each form that is understood."""
    from peft.utils.other import get_pattern_key

    layers = [f"mid_block.attn{block}.{name}" for block in (1, 2) for name in ("to_q", "to_k")]
    tensors = make_lora({f"unet.{layer}": (24, 16) for layer in layers}, 4, endings=PEFT)
    settings = {"unet.lora_alpha": 4, "unet.alpha_pattern": {pattern: 20}}
    path = write(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": json.dumps(settings)})
    found = {name.removeprefix("unet."): alpha for name, alpha in alphas(path).items()}
    assert found == {layer: 20 if get_pattern_key([pattern], layer) == pattern else 4 for layer in layers}
    assert [layer.removeprefix("mid_block.") for layer in layers if found[layer] == 20] == fits


def test_of_patterns_that_fit_the_first_counts(tmp_path: Path) -> None:
    layer = "unet.mid_block.attn1.to_q"
    for order in (["to_q", "^mid_block.attn1.to_q", "attn1.to_q"], ["^mid_block.attn1.to_q", "attn1.to_q", "to_q"]):
        patterns = {pattern: place for place, pattern in enumerate(order, start=10)}
        settings = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "unet.alpha_pattern": patterns})}
        path = write(tmp_path / "lora.safetensors", make_lora({layer: (24, 16)}, 4, endings=PEFT), settings)
        assert alphas(path) == {layer: 10}


@pytest.mark.parametrize("pattern", [r"(a|a|_|[a-z0-9_]*)*Z", ".*to_k", r"layers\.\d+\.to_q", "to_(q|k)", "", "("])
def test_other_regular_expressions_are_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    name = "unet.mid_block." + "a" * 40
    settings = {"unet.lora_alpha": 4, "unet.alpha_pattern": {pattern: 8}}
    path = write(
        tmp_path / "lora.safetensors",
        make_lora({name: (24, 16)}, 4, endings=PEFT),
        {"lora_adapter_metadata": json.dumps(settings)},
    )
    with pytest.raises(MergeInputError) as caught:
        alphas(path)
    facts = f"lora.safetensors … alpha_pattern … {pattern!r} … layer's name … its end"
    assert says(caught.value, facts), caught.value


def test_thousands_of_patterns_are_looked_up_not_tried(tmp_path: Path) -> None:
    """What each layer costs does not grow with the patterns: none of them is compared with any layer."""
    patterns = AlphaPatterns.of({f"block.{number}.to_k": float(number) for number in range(5000)})
    compared = []

    class Name(str):
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    assert patterns.alpha(Name("unet.down.block.4999.to_k")) == 4999
    assert patterns.alpha(Name("unet.down.block.4999.to_q")) is None
    assert len(compared) < 10


TROUBLE = [
    '{"lora_alpha": "16"}',
    '{"lora_alpha": {}}',
    '{"lora_alpha": NaN}',
    '{"lora_alpha": 1e999}',
    '{"lora_alpha": true}',
    f'{{"lora_alpha": 1{"0" * 400}}}',
    f'{{"lora_alpha": 1{"0" * 5000}}}',
    '{"lora_alpha": 4, "alpha_pattern": [1]}',
    '{"lora_alpha": 4, "alpha_pattern": {"to_q": "8"}}',
    '{"lora_alpha": 4, "use_rslora": "no"}',
    "[" * 100_000,
    '{"a":' * 100_000,
    "3",
    "null",
    "",
    '{"lora_alpha": 4, "x": "' + "x" * 2**20 + '"}',
]


@pytest.mark.parametrize(
    ("settings", "beside"),
    [
        *((text, False) for text in TROUBLE),
        *((text.encode(), True) for text in TROUBLE),
        (b'"\xed\xb2\x80"', True),
        (b"\xff\xfe", True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_of_any_kind_are_understood_or_refused(tmp_path: Path, settings: Any, beside: bool) -> None:
    tensors = make_lora({LAYER: (24, 16)}, 4, endings=PEFT)
    if beside:
        path = write(tmp_path / "adapter_model.safetensors", tensors)
        (tmp_path / "adapter_config.json").write_bytes(settings)
    else:
        path = write(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": settings})
    with pytest.raises(MergeInputError, match=saying(f"{path.name} … PEFT settings")):
        alphas(path)
