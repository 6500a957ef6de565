"""Kinds of network that change the base model's own weight: DoRA, against PEFT's and by formulas; and what gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lib_pm import cli
from lib_pm import merge as python_merge
from lib_pm.core.errors import MergeInputError
from lib_pm.files.checkpoint import Checkpoint
from lib_pm.files.contents import inspect_file
from lib_pm.files.reader import open_lora
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.kinds import make
from tests.loras import delta, make_lora, relative_error, write

NAME = "lora_unet_mid_block_attentions_0_proj_in"
CONV = "lora_unet_mid_block_resnets_0_conv1"
SHAPES: dict[str, tuple[int, ...]] = {NAME: (24, 16), CONV: (12, 8, 3, 3)}
# The same layers in checkpoints of other layouts.
LAYOUTS = {
    "diffusers": ("mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"),
    "original": (
        "model.diffusion_model.middle_block.1.proj_in",
        "model.diffusion_model.middle_block.0.in_layers.2",
    ),
}


def weights(layout: str = "diffusers") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    named = zip(LAYOUTS[layout], SHAPES.values(), strict=True)
    return {f"{name}.weight": torch.randn(*sizes, generator=generator) * 0.1 for name, sizes in named}


def by_rows(changed: Tensor, magnitude: Tensor) -> Tensor:
    return changed / changed.flatten(1).norm(dim=1).view(-1, *[1] * (changed.ndim - 1)) * magnitude


def by_columns(changed: Tensor, magnitude: Tensor) -> Tensor:
    return changed / changed.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *[1] * (changed.ndim - 2)) * magnitude


DoRA = tuple[dict[str, Tensor], dict[str, Tensor]]


def dora(kind: str, axis: int, changed_by: Callable[[Tensor, Tensor], Tensor]) -> DoRA:
    """A DoRA with lengths along that axis, as LyCORIS writes them, and its deltas in float64."""
    tensors, changes = (make_lora(SHAPES, 4, 2.0), None) if kind == "LoRA" else make(kind, SHAPES)
    found = {}
    for (name, sizes), weight in zip(SHAPES.items(), weights().values(), strict=True):
        size = [1] * len(sizes)
        size[axis] = sizes[axis]
        magnitude = torch.rand(size, generator=torch.Generator().manual_seed(3)) + 0.5
        change = delta(tensors, name) if changes is None else changes[name]
        found[name] = (changed_by(weight.double() + change.view(sizes), magnitude.double()) - weight.double()).flatten(
            1
        )
        tensors[f"{name}.dora_scale"] = magnitude
    return tensors, found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr", "LoKr whole"])
@pytest.mark.parametrize(("axis", "changed_by"), [(0, by_rows), (1, by_columns)], ids=["rows", "columns"])
def test_dora_of_every_kind(
    tmp_path: Path, kind: str, axis: int, changed_by: Callable[[Tensor, Tensor], Tensor], layout: str
) -> None:
    tensors, expected = dora(kind, axis, changed_by)
    path = write(tmp_path / "dora.safetensors", tensors)
    with Checkpoint(write(tmp_path / "base.safetensors", weights(layout))) as base, open_lora(path, base) as file:
        for name in SHAPES:
            assert relative_error(file.read(name).delta(), expected[name]) < 2e-6


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(16, 16), nn.Conv2d(8, 8, 3)

    def forward(self, x: Any) -> Any:
        return x


def test_dora_of_peft(tmp_path: Path) -> None:
    """Square layers, whose sizes do not tell rows from columns."""
    torch.manual_seed(1)
    plain = Model()
    before = {key: tensor.detach().clone() for key, tensor in plain.state_dict().items()}
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["linear", "conv"])
    model = peft.get_peft_model(plain, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.uniform_(parameter, 0.1, 1)
    model.save_pretrained(tmp_path)
    base = write(tmp_path / "base.safetensors", before)
    after = model.merge_and_unload().state_dict()
    with Checkpoint(base) as checkpoint, open_lora(tmp_path / "adapter_model.safetensors", checkpoint) as file:
        for name in ("linear", "conv"):
            expected = (after[f"{name}.weight"] - before[f"{name}.weight"]).flatten(1)
            assert relative_error(file.read(f"base_model.model.{name}").delta(), expected) < 1e-5


def test_without_the_base_model(tmp_path: Path) -> None:
    """It can be looked at; a merge is refused with the way out."""
    path = write(tmp_path / "dora.safetensors", dora("LoRA", 0, by_rows)[0])
    assert inspect_file(path).networks == {"LoRA with DoRA": 2}
    with pytest.raises(MergeInputError) as caught:
        merge(make_recipe([LoraUse(path)], "concat"))
    for said in ("dora.safetensors", NAME, "DoRA", "--base FILE"):
        assert said in str(caught.value)


@pytest.mark.parametrize("wrong", ["missing", "size", "dtype", "infinite"])
def test_another_base_model(tmp_path: Path, wrong: str) -> None:
    path = write(tmp_path / "dora.safetensors", dora("LoRA", 0, by_rows)[0])
    tensors = weights()
    key = f"{LAYOUTS['diffusers'][0]}.weight"
    match wrong:
        case "missing":
            del tensors[key]
        case "size":
            tensors[key] = torch.ones(24, 20)
        case "dtype":
            tensors[key] = torch.ones(24, 16, dtype=torch.int8)
        case "infinite":
            tensors[key][0, 0] = float("inf")
    with pytest.raises(MergeInputError) as caught:
        python_merge([path], base=write(tmp_path / "base.safetensors", tensors))
    assert "dora.safetensors" in str(caught.value) or "base.safetensors" in str(caught.value)
    assert NAME in str(caught.value) or key in str(caught.value)


def test_a_magnitude_of_another_size(tmp_path: Path) -> None:
    tensors = make_lora(SHAPES, 4) | {f"{NAME}.dora_scale": torch.ones(5, 1)}
    with pytest.raises(MergeInputError, match="magnitude"):
        open_lora(write(tmp_path / "dora.safetensors", tensors))


def test_from_the_command_line_and_from_python(tmp_path: Path) -> None:
    tensors, expected = dora("LoRA", 0, by_rows)
    path, base = write(tmp_path / "dora.safetensors", tensors), write(tmp_path / "base.safetensors", weights())
    out = tmp_path / "out.safetensors"
    assert cli.main(["merge", f"{path}:0.5", "-o", str(out), "--base", str(base), "--save-dtype", "fp32"]) == 0
    result = python_merge([(path, 0.5)], base=base, save_dtype="fp32")
    saved = load_file(out)
    assert "base.safetensors" in " ".join(result.report.notes)
    for name, change in expected.items():
        assert torch.equal(saved[f"{name}.diff"], result.tensors[f"{name}.diff"])
        assert relative_error(saved[f"{name}.diff"].flatten(1), 0.5 * change) < 2e-6
    resized = tmp_path / "resized.safetensors"
    assert cli.main(["resize", str(path), "-o", str(resized), "--base", str(base), "--rank", "99", "--quiet"]) == 0
    assert relative_error(delta(load_file(resized), NAME), expected[NAME]) < 1e-3
    for command in ("analyse", "inspect"):
        assert cli.main([command, str(path), "--base", str(base)]) == 0
    assert inspect_file(out).recipe["base"] == "base.safetensors"
