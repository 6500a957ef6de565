"""A calibration on small pipelines, against dense weights changed by hand and hooks written apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib_pm.core import probe as probe_module
from lib_pm.core.calibration import RIDGE, merged
from lib_pm.core.errors import MergeInputError
from lib_pm.files.reader import open_tensors
from lib_pm.merging.calibration import Calibration, CalibrationSettings, core_of
from lib_pm.merging.plan import MergePlan, open_plan
from lib_pm.merging.progress import Cancelled
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.pipeline.apply import apply, remove
from lib_pm.pipeline.calibrate import calibrate
from tests.host.by_hand import ALL_BLOCKS, LoraDict, changed_by_hand, delta, kohya_layers, lora_modules, pixels
from tests.samples import random_lora

STEPS, PROBED = 3, (0, 2)
PROMPT, NEGATIVE, GUIDANCE, SIZE, SEED = "a cat in a red hat", "old", 5.0, 32, 7
CALL = {"negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE, "height": SIZE, "width": SIZE}
SETTINGS = CalibrationSettings((PROMPT,), steps=STEPS, probes=2, rounds=1, seed=SEED, call=CALL)


def style(pipeline: Any) -> LoraDict:
    return random_lora(pipeline, rank=3, alpha=2, conv_rank=2, text_encoder=False, seed=1, dtype=torch.float32)


def character(pipeline: Any) -> LoraDict:
    return random_lora(pipeline, rank=2, alpha=2, seed=2, dtype=torch.float32)


@contextmanager
def planned(*loras: LoraDict, strengths: Sequence[float] = ()) -> Iterator[MergePlan]:
    paths = {Path(f"{index}"): lora for index, lora in enumerate(loras)}
    uses = [LoraUse(path, s, s) for path, s in zip(paths, strengths or [1.0] * len(loras), strict=True)]
    with open_plan(make_recipe(uses, "concat"), lambda path: open_tensors(str(path), paths[path])) as plan:
        yield plan


def calibrated(pipeline: Any, *loras: LoraDict, settings: CalibrationSettings = SETTINGS, **more: Any) -> Calibration:
    with planned(*loras) as plan:
        return calibrate(pipeline, plan, settings, **more)


def applied(calibration: Calibration, *loras: LoraDict) -> LoraDict:
    """The merge as a LoRA's state dict."""
    tensors: LoraDict = {}
    with planned(*loras) as plan:
        for layer in plan.layers:
            core = core_of(plan, layer)
            found = merged(core, calibration.layer(layer.name, core).change)
            tensors[f"{layer.name}.lora_up.weight"] = found.up.reshape(*found.up.shape, *[1] * len(layer.shape.kernel))
            tensors[f"{layer.name}.lora_down.weight"] = found.down.reshape(-1, layer.shape.inner, *layer.shape.kernel)
    return tensors


# The reference: every run is the model with its weights changed densely.


@contextmanager
def inputs_of(pipeline: Any) -> Iterator[dict[str, list[Tensor]]]:
    """What goes into each layer, as matrices (tokens, in·kh·kw) float64."""
    seen: dict[str, list[Tensor]] = {}

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double()
            if isinstance(module, nn.Conv2d):
                sizes: Any = module.kernel_size, module.dilation, module.padding, module.stride
                x = functional.unfold(x, *sizes).transpose(1, 2)
            seen.setdefault(name, []).append(x.flatten(0, -2))

        return hook

    modules = [
        *kohya_layers(pipeline.text_encoder, "lora_te", ALL_BLOCKS),
        *kohya_layers(pipeline.unet, "lora_unet", ALL_BLOCKS),
    ]
    with ExitStack() as hooks:
        for name, module in modules:
            hooks.callback(module.register_forward_pre_hook(look(name)).remove)
        yield seen


def statistics_by_hand(pipeline: Any, loras: Sequence[LoraDict], merge: Sequence[LoraDict]) -> dict[str, Any]:
    """By layer Σ z̃·z̃ᵀ and Σ (z − z̃)·z̃ᵀ, (K, K), and the drift. merge: what is on for x̃."""
    with changed_by_hand(pipeline, *((lora, 1.0, 1.0) for lora in merge)):
        calls: list[tuple[Tensor, Tensor]] = []
        hook = pipeline.unet.register_forward_pre_hook(lambda module, args: calls.append(args))
        generator = torch.Generator().manual_seed(SEED)
        pipeline(PROMPT, num_inference_steps=STEPS, generator=generator, output_type="latent", **CALL)
        hook.remove()
        together = _run(pipeline, [calls[step] for step in PROBED])
    alone = []
    for lora in loras:
        with changed_by_hand(pipeline, (lora, 1.0, 1.0)):
            alone.append(_run(pipeline, [calls[step] for step in PROBED]))
    found = {}
    for name in together:
        owners = [
            (lora[f"{name}.lora_down.weight"].double().flatten(1), x[name])
            for lora, x in zip(loras, alone, strict=True)
            if f"{name}.lora_down.weight" in lora
        ]
        if owners:
            rows = [down / down.norm(dim=1, keepdim=True) for down, _ in owners]
            after = together[name] @ torch.cat(rows).T
            before = torch.cat([x @ down.T for down, (_, x) in zip(rows, owners, strict=True)], 1)
            drift = float((before - after).square().sum() / before.square().sum())
            found[name] = after.T @ after, (before - after).T @ after, drift
    return found


@torch.no_grad()
def _run(pipeline: Any, calls: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    with inputs_of(pipeline) as seen:
        texts = pipeline.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
        for latents, step in calls:
            pipeline.unet(latents, step, encoder_hidden_states=torch.cat([texts[1], texts[0]]))
    return {name: torch.cat(some) for name, some in seen.items()}


def in_order(*loras: LoraDict) -> list[LoraDict]:
    """By content, as a merge sorts them."""
    with planned(*loras) as plan:
        return [lora for _, lora in sorted(zip((file.content for file in plan.files), loras, strict=True))]


@pytest.mark.parametrize("rounds", [1, 2])
def test_it_follows_from_what_dense_weights_see(sd1: Any, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MOST_TOKENS", 10**6)
    loras = in_order(style(sd1), character(sd1))
    merge: Sequence[LoraDict] = loras
    if rounds == 2:
        merge = [applied(calibrated(sd1, *loras), *loras)]
    settings = CalibrationSettings((PROMPT,), STEPS, len(PROBED), rounds, seed=SEED, call=CALL)
    got = calibrated(sd1, *loras, settings=settings)
    expected = statistics_by_hand(sd1, loras, merge)
    assert got.layers.keys() == expected.keys()
    for name, (second, shift, drift) in expected.items():
        rho = RIDGE * float(second.trace()) / len(second)
        change = shift @ torch.linalg.inv(second + rho * torch.eye(len(second), dtype=torch.float64))
        error = float((got.layers[name].change - change).norm())
        assert error <= 1e-3 * max(1.0, float(change.norm())), name
        assert got.layers[name].drift == pytest.approx(drift, rel=1e-3, abs=1e-9), name
    assert sum(drift > 0.01 for *_, drift in expected.values()) > 100  # else there was nothing to find
    assert expected["lora_te_text_model_encoder_layers_1_mlp_fc1"][2] == pytest.approx(0, abs=1e-9)  # of one LoRA only


def test_it_brings_the_layers_nearer_to_what_the_loras_add_alone(sd1: Any) -> None:
    loras = style(sd1), character(sd1)
    mean = [
        float(np.mean([layer.drift for layer in calibrated(sd1, *loras, settings=settings).layers.values()]))
        for settings in (SETTINGS, CalibrationSettings((PROMPT,), STEPS, 2, 2, seed=SEED, call=CALL))
    ]
    assert mean[1] < mean[0]  # the second round's statistics are of the first round's merge


def test_one_lora_is_itself_and_the_model_is_not_asked(sd1: Any) -> None:
    def refuse(*call: object) -> None:
        raise AssertionError(call)

    for uses in ([style(sd1)], [style(sd1), style(sd1)]):  # the same LoRA twice is one, however it is divided
        calibration = calibrated(sd1, *uses, progress=refuse)
        assert not any(layer.change.any() for layer in calibration.layers.values())
        tensors = applied(calibration, *uses)
        for name in calibration.layers:
            torch.testing.assert_close(delta(tensors, name), len(uses) * delta(uses[0], name), rtol=1e-5, atol=1e-6)


def test_a_lora_at_weight_0_is_absent(sd1: Any) -> None:
    with planned(style(sd1), character(sd1), strengths=[1.0, 0.0]) as plan:
        calibration = calibrate(sd1, plan, SETTINGS)
    assert calibration.key == calibrated(sd1, style(sd1)).key


def test_order_does_not_matter_and_the_key_says_what_does(sd1: Any) -> None:
    a, b = style(sd1), character(sd1)
    key = calibrated(sd1, a, b).key
    assert calibrated(sd1, b, a).key == key
    other = CalibrationSettings(("a dog on a tree",), STEPS, 2, 1, seed=SEED, call=CALL)
    assert calibrated(sd1, a, b, settings=other).key != key


def test_several_prompts_are_looked_at_together(sd1: Any) -> None:
    loras = style(sd1), character(sd1)
    prompts = (PROMPT, "a dog on a tree")
    said: list[tuple[int, int, str, str]] = []
    settings = CalibrationSettings(prompts, STEPS, 2, 1, seed=SEED, call=CALL)
    calibrated(sd1, *loras, settings=settings, progress=lambda *what: said.append(what))
    calls = 2 * (STEPS + 2 * len(loras))  # of each prompt an image, and in two of its steps each LoRA alone
    assert said == [(done, calls, "round 1", "calls") for done in range(1, calls + 1)]


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Cancelled, Broken, torch.OutOfMemoryError, None])
def test_the_pipeline_is_left_as_it_was(sd1: Any, error: type[Exception] | None) -> None:
    loras = style(sd1), character(sd1)
    apply(sd1, random_lora(sd1, rank=2, alpha=1, seed=9), name="users_own")  # stays on, as a part of the model
    scheduler, bar = sd1.scheduler, dict(sd1._progress_bar_config)
    before, wrapped, hooks = pixels(sd1), lora_modules(sd1), hook_count(sd1)
    timesteps = scheduler.timesteps.clone()

    def progress(done: int, *rest: object) -> None:
        if done == 3 and error:
            raise error

    if error:
        with pytest.raises(error):
            calibrated(sd1, *loras, progress=progress)
    else:
        calibrated(sd1, *loras, progress=progress)
    assert sd1.scheduler is scheduler
    assert torch.equal(scheduler.timesteps, timesteps)
    assert sd1._progress_bar_config == bar
    assert hook_count(sd1) == hooks
    assert lora_modules(sd1) == wrapped
    assert (pixels(sd1) == before).all()
    remove(sd1, "users_own")


def hook_count(pipeline: Any) -> int:
    parts = (pipeline.unet, pipeline.text_encoder)
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in parts for m in part.modules())


def test_loras_that_are_on_already_are_part_of_the_model(sd1: Any) -> None:
    loras = style(sd1), character(sd1)
    key = calibrated(sd1, *loras).key
    apply(sd1, random_lora(sd1, rank=2, alpha=1, seed=9), name="users_own")
    assert calibrated(sd1, *loras).key != key


def test_sdxl_gives_each_lora_its_own_reading_of_the_prompt(sdxl: Any) -> None:
    unet = random_lora(sdxl, rank=2, alpha=2, text_encoder=False, seed=1, dtype=torch.float32)
    text = {name.replace("lora_te", "lora_te2"): t for name, t in two_encoders(sdxl).items()}
    call = {"guidance_scale": 5.0, "height": 32, "width": 32}
    calibration = calibrated(sdxl, unet, text, settings=CalibrationSettings((PROMPT,), 3, 2, 1, seed=SEED, call=call))
    # The text encoder's LoRA reaches the denoiser through the prompt alone: the other one's layers see its change.
    keys = [layer.drift for name, layer in calibration.layers.items() if name.endswith("attn2_to_k")]
    assert keys
    assert min(keys) > 1e-4


def two_encoders(pipeline: Any) -> LoraDict:
    class _Second:
        text_encoder = pipeline.text_encoder_2

    return random_lora(_Second, rank=2, alpha=2, unet=False, size=3, seed=2, dtype=torch.float32)


def test_a_layer_that_fits_no_module_is_refused(sd1: Any, sdxl: Any) -> None:
    with pytest.raises(MergeInputError, match=r"layers match no module .* another model family"):
        calibrated(sdxl, style(sd1), character(sd1))


def test_a_calibration_is_for_its_loras_and_strengths(sd1: Any) -> None:
    loras = style(sd1), character(sd1)
    calibration = calibrated(sd1, *loras)
    with planned(*loras, strengths=[1.0, 0.9]) as plan:
        core = core_of(plan, plan.layers[0])
    with pytest.raises(MergeInputError, match="calibrate again"):
        calibration.layer(plan.layers[0].name, core)


BAD: Mapping[str, dict[str, Any]] = {
    "There is no prompt": {"prompts": ()},
    "steps is 0": {"steps": 0},
    "probes is 9; allowed: a whole number from 1 to 4": {"probes": 9},
    "rounds is 11": {"rounds": 11},
    "ridge is nan": {"ridge": float("nan")},
}


@pytest.mark.parametrize("message", BAD)
def test_settings_are_checked(message: str) -> None:
    with pytest.raises(MergeInputError, match=message):
        CalibrationSettings(**{"prompts": ("a cat",), "steps": 4, "probes": 2} | BAD[message])


def test_where_it_comes_from_is_written_as_plain_values(sd1: Any) -> None:
    calibration = calibrated(sd1, style(sd1))
    written = calibration.to_json()
    assert written["key"] == calibration.key
    assert written["prompts"] == (PROMPT,)
    assert written["call"] == CALL
