"""A calibration made into a LoRA, against ΔW = B·R·A multiplied out; how one is found is tested with the pipelines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.files.reader import open_tensors
from lib_pm.merging.calibrated import merge_calibrated
from lib_pm.merging.calibration import CalibratedLayer, Calibration, CalibrationSettings, core_of
from lib_pm.merging.merge import merge_plan
from lib_pm.merging.plan import MergePlan, open_plan
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.loras import delta, deltas, make_lora, total_error

UNET = "lora_unet_down_blocks_0_"
LINEAR, CONV = f"{UNET}attentions_0_transformer_blocks_0_attn1_to_q", f"{UNET}resnets_0_conv1"
SHAPES = {LINEAR: (24, 20), CONV: (14, 6, 3, 3)}
LORAS = {
    "one": make_lora(SHAPES, 4, 2.0, seed=1, cp=[CONV]),
    "two": make_lora(SHAPES, 3, None, seed=2),
    "text": make_lora({"lora_te_text_model_encoder_layers_0_mlp_fc1": (30, 22)}, 2, 5.0, seed=3),
}
STRENGTHS = {"one": 0.8, "two": -1.2, "text": 1.0}
SETTINGS = CalibrationSettings(("a cat",))


@contextmanager
def planned(mode: str = "concat", strengths: dict[str, float] = STRENGTHS, **options: float) -> Iterator[MergePlan]:
    uses = [LoraUse(Path(name), strength, strength) for name, strength in strengths.items()]
    recipe = make_recipe(uses, mode, options, save_dtype="float32")
    with open_plan(recipe, lambda path: open_tensors(str(path), LORAS[path.name])) as plan:
        yield plan


def calibration_of(plan: MergePlan, *, size: float = 0.3) -> Calibration:
    """As if a model had been asked: any R, and inputs of any directions."""
    generator = torch.Generator().manual_seed(5)
    layers = {}
    for layer in plan.layers:
        core = core_of(plan, layer)
        k = sum(core.ranks)
        z = torch.randn(3 * k, k, generator=generator) * torch.linspace(0.1, 3, k)
        change = size * torch.randn(k, k, generator=generator)
        layers[layer.name] = CalibratedLayer(core.contents, core.weights, change, z.T @ z)
    return Calibration(layers, SETTINGS, "a model")


def expected(plan: MergePlan, calibration: Calibration) -> dict[str, Tensor]:
    """B·R·A in float64, with the LoRAs' own formula."""
    found = {}
    for name, layer in calibration.layers.items():
        ups, downs = [], []
        for content in layer.contents:
            (lora,) = (LORAS[file.path.name] for file in plan.files if bytes.fromhex(file.content) == content)
            (file,) = (file for file in plan.files if bytes.fromhex(file.content) == content)
            rank = lora[f"{name}.lora_down.weight"].shape[0]
            up = lora[f"{name}.lora_up.weight"].double().flatten(1)
            down = torch.linalg.pinv(up) @ delta(lora, name)  # the down factor, with mid and scale
            lengths = down.norm(dim=1)
            assert len(down) == rank
            ups.append(STRENGTHS[file.path.name] * up * lengths)
            downs.append(down / lengths[:, None])
        core = torch.eye(len(layer.change), dtype=torch.float64) + layer.change.double()
        found[name] = torch.cat(ups, 1) @ core @ torch.cat(downs)
    return found


def test_it_is_b_r_a() -> None:
    with planned() as plan:
        calibration = calibration_of(plan)
        result = merge_calibrated(plan, calibration)
        assert total_error(deltas(result.tensors), expected(plan, calibration)) < 1e-6
        assert {layer.rank for layer in result.report.layers} == {7, 2}  # Σr of the layer's LoRAs


def test_without_a_change_it_is_concat_to_the_bit() -> None:
    with planned() as plan:
        tensors = merge_calibrated(plan, calibration_of(plan, size=0.0)).tensors
        plain, _ = merge_plan(plan)
    assert tensors.keys() == plain.keys()
    assert all(torch.equal(tensors[name], plain[name]) for name in plain)


def test_lambda_is_a_factor() -> None:
    with planned() as plan, planned(**{"lambda": -0.5}) as half:
        calibration = calibration_of(plan)
        once, scaled = (deltas(merge_calibrated(one, calibration).tensors) for one in (plan, half))
    assert total_error(scaled, {name: -0.5 * delta for name, delta in once.items()}) < 1e-6


def test_truncated_it_keeps_the_outputs_better_than_a_truncation_of_the_weights() -> None:
    with planned("add_svd", svd_rank=3) as plan:
        calibration = replace(calibration_of(plan), settings=replace(SETTINGS, ridge=0.0))
        result = merge_calibrated(plan, calibration)
        whole = expected(plan, calibration)
        cut = deltas(result.tensors)
        by_weights = {}
        for name, some in whole.items():
            left, values, right = torch.linalg.svd(some, full_matrices=False)
            by_weights[name] = (left[:, :3] * values[:3]) @ right[:3]
        for name in (LINEAR, CONV):
            down = core_of(plan, next(layer for layer in plan.layers if layer.name == name)).down
            roots = torch.linalg.cholesky(calibration.layers[name].second.double())
            # the inputs that have this Σ z·zᵀ, as the core sees them
            inputs = torch.linalg.pinv(down) @ roots
            errors = [float(((some[name] - whole[name]) @ inputs).norm()) for some in (cut, by_weights)]
            assert errors[0] < 0.9 * errors[1]
            assert errors[0] == pytest.approx(float(torch.linalg.svdvals(whole[name] @ inputs)[3:].norm()), rel=1e-4)


def test_convolutions_can_be_left_out() -> None:
    with planned("add_svd", svd_rank=3, svd_conv_rank=0) as plan:
        assert not any(name.startswith(CONV) for name in merge_calibrated(plan, calibration_of(plan)).tensors)


def test_the_file_says_what_it_was_calibrated_on(tmp_path: Path) -> None:
    with planned() as plan:
        calibration = calibration_of(plan)
        merge_calibrated(plan, calibration).save(tmp_path / "merge.safetensors")
    with safe_open(tmp_path / "merge.safetensors", "pt") as file:
        recipe = json.loads(next(text for key, text in file.metadata().items() if "recipe" in key))
    assert recipe["mode"] == "calibrated"
    assert recipe["calibration"]["key"] == calibration.key
    assert recipe["calibration"]["prompts"] == ["a cat"]
    assert recipe["calibration"]["model"] == "a model"


def test_what_it_is_not_for_is_refused() -> None:
    with planned() as plan:
        calibration = calibration_of(plan)
    with planned(strengths={**STRENGTHS, "two": 1.0}) as other, pytest.raises(MergeInputError, match="calibrate again"):
        merge_calibrated(other, calibration)
    with planned("ties") as other, pytest.raises(MergeInputError, match=r"mode is ties; allowed .*concat, add_svd"):
        merge_calibrated(other, calibration)


def test_the_key_is_of_all_that_decides_the_merge() -> None:
    with planned() as plan:
        calibration = calibration_of(plan)
    changed = []
    for part in ("change", "second"):
        layer = calibration.layers[LINEAR]
        other = replace(layer, **{part: getattr(layer, part) * 1.01})
        changed.append(replace(calibration, layers={**calibration.layers, LINEAR: other}))
    reordered = replace(calibration, layers=dict(reversed(calibration.layers.items())))
    assert reordered.key == calibration.key
    assert len({calibration.key, *(one.key for one in changed)}) == 3


def test_middle_layers_speak_for_the_whole() -> None:
    with planned() as plan:
        calibration = calibration_of(plan)
    numbers = {name: float(index) for index, name in enumerate(calibration.layers)}
    layers = {n: replace(x, drift=numbers[n], factor=numbers[n] / 2) for n, x in calibration.layers.items()}
    assert (replace(calibration, layers=layers).drift, replace(calibration, layers=layers).factor) == (1.0, 0.5)
