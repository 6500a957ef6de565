"""LoHa and LoKr as PEFT saves them, against PEFT's own delta of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
from torch import nn

from lib_pm.core.errors import MergeInputError
from lib_pm.files.reader import open_lora
from tests.loras import make_lora, relative_error, write


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv, self.conv1 = nn.Linear(24, 32), nn.Conv2d(8, 12, 3), nn.Conv2d(16, 16, 1)

    def forward(self, x: Any) -> Any:
        return x


TARGETS = ["linear", "conv", "conv1"]
CONFIGS: dict[str, Any] = {
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS),
    "LoHa, Tucker": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS, use_effective_conv2d=True),
    "LoHa, patterns": lambda: peft.LoHaConfig(
        r=3, alpha=5, target_modules=TARGETS, rank_pattern={"conv": 2}, alpha_pattern={"linear": 7}
    ),
    "LoKr": lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=TARGETS),
    "LoKr, Tucker": lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=TARGETS, use_effective_conv2d=True),
    "LoKr in factors": lambda: peft.LoKrConfig(r=1, alpha=5, target_modules=TARGETS, decompose_both=True),
    "LoKr whole": lambda: peft.LoKrConfig(r=64, alpha=5, target_modules=TARGETS, rank_pattern={"conv1": 32}),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_kinds_of_peft(tmp_path: Path, kind: str) -> None:
    model = peft.get_peft_model(Model(), CONFIGS[kind]())
    for name, parameter in model.named_parameters():
        if "hada_" in name or "lokr_" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    with open_lora(tmp_path / "adapter_model.safetensors") as file:
        assert set(file.layers) == {f"base_model.model.{name}" for name in TARGETS}
        for name in file.layers:
            expected = model.get_submodule(name).get_delta_weight("default").detach().flatten(1)
            assert relative_error(file.read(name).delta(), expected) < 1e-6, name


@pytest.mark.parametrize("begun", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_what_is_right_only_for_a_changed_base_model(tmp_path: Path, begun: str) -> None:
    path = write(tmp_path / "adapter_model.safetensors", make_lora({"unet.x": (8, 6)}, 2))
    (tmp_path / "adapter_config.json").write_text(f'{{"r": 2, "lora_alpha": 2, "init_lora_weights": "{begun}"}}')
    with pytest.raises(MergeInputError) as caught:
        open_lora(path)
    for said in (path.name, "path_initial_model_for_weight_conversion"):
        assert said in str(caught.value)


def test_a_converted_pissa_is_a_lora(tmp_path: Path) -> None:
    """PEFT's own conversion, against the weights of the model that was trained."""
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["linear"], init_lora_weights="pissa")
    base = Model()
    before = base.linear.weight.detach().clone()
    model = peft.get_peft_model(base, config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "begun")
    model.peft_config["default"].init_lora_weights = "pissa"
    layer = model.get_submodule("base_model.model.linear")
    nn.init.normal_(layer.lora_B["default"].weight)
    trained = layer.base_layer.weight.detach() + layer.get_delta_weight("default").detach()
    model.save_pretrained(tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "begun"))
    with open_lora(tmp_path / "out" / "adapter_model.safetensors") as file:
        assert relative_error(file.read("base_model.model.linear").delta(), trained - before) < 1e-5
