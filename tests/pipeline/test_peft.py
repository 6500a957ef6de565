"""From PEFT and back: adapters that PEFT saved, merged here, loaded by PEFT again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from lib_pm.core.registry import MODES
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.loras import relative_error

TARGETS = ["q", "proj", "conv"]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(18, 18), "proj": nn.Linear(18, 30), "conv": nn.Conv2d(6, 12, 3)})
            for _ in range(2)
        )


def saved(folder: Path, rank: int, alpha: float, *, rslora: bool = False) -> dict[str, Tensor]:
    """Save an adapter with PEFT; returns its deltas by module, as PEFT itself computes them."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, use_rslora=rslora)
    model = get_peft_model(Model(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return deltas(model)


def deltas(model: PeftModel) -> dict[str, Tensor]:
    return {
        name: module.get_delta_weight("default").detach().double()
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


@pytest.mark.parametrize("mode", [mode for mode in MODES if MODES[mode].method.linear and mode != "add"])
def test_there_and_back(tmp_path: Path, mode: str) -> None:
    """Names of no family known here, alphas in PEFT's own settings, one of them rsLoRA: the sum all the same."""
    one, two = saved(tmp_path / "one", 4, 8.0), saved(tmp_path / "two", 6, 3.0, rslora=True)
    uses = [
        LoraUse(tmp_path / name / "adapter_model.safetensors", strength)
        for name, strength in (("one", 0.8), ("two", -0.5))
    ]
    options = {"svd_rank": 10} if mode.endswith("_svd") else {}
    merged = tmp_path / "merged"
    merged.mkdir()
    merge_to_file(make_recipe(uses, mode, options, save_dtype="float32"), merged / "adapter_model.safetensors")
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    (merged / "adapter_config.json").write_text(json.dumps(config | {"r": 10, "lora_alpha": 10}))

    loaded = deltas(PeftModel.from_pretrained(Model(), merged))
    assert loaded.keys() == one.keys()
    assert len(loaded) == 6
    for name, delta in loaded.items():
        assert relative_error(delta, 0.8 * one[name] - 0.5 * two[name]) < 1e-6
    assert not any(bool(torch.equal(loaded[name], one[name])) for name in one)
