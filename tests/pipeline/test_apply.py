"""A merge on a diffusers pipeline, against weights changed by hand and against diffusers' own stacking."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.pipeline.apply import NAME, Stacked, apply, apply_stacked, remove
from tests.host.by_hand import LoraDict, changed_by_hand, lora_modules, mixed, pixels
from tests.messages import saying
from tests.samples import random_lora
from tests.small_pipeline import build_pipeline

KINDS: dict[str, Callable[[Any], LoraDict]] = {
    "locon": lambda pipeline: random_lora(pipeline, rank=8, alpha=4, conv_rank=4, text_encoder=False),
    "text encoder only": lambda pipeline: random_lora(pipeline, rank=4, alpha=2, unet=False),
    "mixed ranks and alphas": lambda pipeline: mixed(pipeline, alphas=lambda index, rank: 1 + index % 5),
    "some alphas missing": lambda pipeline: mixed(pipeline, alphas=lambda index, rank: 3.0 if index % 2 else None),
    "no alphas": lambda pipeline: mixed(pipeline, alphas=lambda index, rank: None),
    "one layer": lambda pipeline: {
        key: tensor
        for key, tensor in random_lora(pipeline, rank=4, alpha=2, size=30).items()
        if "layers_0_self_attn_q_proj" in key
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_applied_is_the_weights_changed_by_hand(sd1: Any, base: np.ndarray, kind: str) -> None:
    tensors = KINDS[kind](sd1)
    with changed_by_hand(sd1, (tensors, 1.0, 1.0)):
        by_hand = pixels(sd1)
    applied = apply(sd1, tensors)
    assert sum(applied.layers.values()) == sum(key.endswith(".lora_up.weight") for key in tensors)
    assert np.abs(pixels(sd1) - by_hand).max() <= 1
    assert np.abs(by_hand - base).max() > 3  # the LoRA shows, else the line above says nothing


def test_removed_is_the_base(sd1: Any, base: np.ndarray) -> None:
    state = {name: weight.clone() for name, weight in sd1.unet.state_dict().items()}
    classes = [type(module) for part in (sd1.unet, sd1.text_encoder) for module in part.modules()]
    apply(sd1, random_lora(sd1, rank=4, alpha=4, conv_rank=4))
    remove(sd1)
    assert (pixels(sd1) == base).all()
    assert [type(module) for part in (sd1.unet, sd1.text_encoder) for module in part.modules()] == classes
    after = sd1.unet.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_stacking_and_its_concatenation_agree(sd1: Any) -> None:
    style = random_lora(sd1, rank=8, alpha=4, conv_rank=4, text_encoder=False, seed=1)
    character = random_lora(sd1, rank=4, alpha=4, seed=2)
    text = random_lora(sd1, rank=2, alpha=1, unet=False, seed=3)
    uses = [(style, 0.8, 1.0), (character, -0.6, 0.3), (text, 1.0, 1.4)]
    with changed_by_hand(sd1, *uses):
        by_hand = pixels(sd1)
    apply_stacked(sd1, [Stacked(*use) for use in uses])
    assert np.abs(pixels(sd1) - by_hand).max() <= 1
    for index in range(3):
        remove(sd1, f"{NAME}_stack_{index}")

    joined: LoraDict = {}
    for name in sorted({key.split(".")[0] for tensors, _, _ in uses for key in tensors}):
        ups, downs = [], []
        for tensors, model, clip in uses:
            if f"{name}.lora_up.weight" in tensors:
                down = tensors[f"{name}.lora_down.weight"].float()
                strength = clip if name.startswith("lora_te") else model
                scale = strength * float(tensors[f"{name}.alpha"]) / down.shape[0]
                ups.append(scale * tensors[f"{name}.lora_up.weight"].float())
                downs.append(down)
        joined[f"{name}.lora_up.weight"], joined[f"{name}.lora_down.weight"] = torch.cat(ups, 1), torch.cat(downs)
    apply(sd1, joined)
    assert np.abs(pixels(sd1) - by_hand).max() <= 1


def test_other_loras_stay_as_they_are(sd1: Any) -> None:
    own = random_lora(sd1, rank=4, alpha=2, seed=5, unet=False, size=2)
    merge = random_lora(sd1, rank=2, alpha=2, conv_rank=2, seed=6)
    idle = random_lora(sd1, rank=2, alpha=2, seed=7)
    with changed_by_hand(sd1, (own, 0.5, 0.5), (merge, 1.0, 1.0)):
        both = pixels(sd1)
    sd1.load_lora_weights(own, adapter_name="own")
    sd1.load_lora_weights(idle, adapter_name="idle")
    sd1.set_adapters("own", 0.5)
    before = pixels(sd1)
    apply(sd1, merge)
    assert np.abs(pixels(sd1) - both).max() <= 1
    remove(sd1)
    assert (pixels(sd1) == before).all()
    assert sd1.get_active_adapters() == ["own"]


def test_a_lora_with_none_active_stays_off(sd1: Any, base: np.ndarray) -> None:
    """PEFT, when the only active LoRA is deleted, switches on another that is there."""
    idle, merge = random_lora(sd1, rank=2, alpha=2, seed=7), random_lora(sd1, rank=2, alpha=2, seed=6)
    sd1.load_lora_weights(idle, adapter_name="idle")
    for part in (sd1.unet, sd1.text_encoder):
        for module in part.modules():
            if hasattr(module, "lora_A"):
                module.set_adapter([])
    apply(sd1, merge)
    remove(sd1)
    assert (pixels(sd1) == base).all()


def test_names_taken_and_unknown(sd1: Any) -> None:
    tensors = random_lora(sd1, rank=2, alpha=2, unet=False)
    apply(sd1, tensors)
    with pytest.raises(MergeInputError, match=saying("already … 'power_merger'")):
        apply(sd1, tensors)
    with pytest.raises(MergeInputError, match=saying("'x' … has: power_merger")):
        remove(sd1, "x")
    with pytest.raises(MergeInputError, match="LoHa"):
        apply_stacked(sd1, [Stacked(tensors), Stacked({"lora_te_x.hada_w1_a": torch.zeros(1)})])
    assert sd1.get_list_adapters() == {"text_encoder": ["power_merger"]}


@pytest.mark.parametrize("fault", ["refuses after the UNet", "wrong scale", "a layer lost"])
def test_what_diffusers_gets_wrong_is_put_right(sd1: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    tensors = random_lora(sd1, rank=4, alpha=2)
    apply(sd1, tensors)
    expected = pixels(sd1)
    remove(sd1)
    real = sd1.load_lora_weights

    def faulty(state: LoraDict, adapter_name: str) -> None:
        if fault == "a layer lost":
            state = {key: tensor for key, tensor in state.items() if "mid_block" not in key}
        real(state, adapter_name=adapter_name)
        if fault == "wrong scale":
            sd1.unet.mid_block.attentions[0].proj_in.scaling[adapter_name] = 2.0
        if fault == "refuses after the UNet":
            raise ValueError("no")

    monkeypatch.setattr(sd1, "load_lora_weights", faulty)
    assert apply(sd1, tensors).layers == {"unet": 192, "text_encoder": 12}
    assert (pixels(sd1) == expected).all()


def test_very_many_ranks_do_not_take_diffusers_slow_way(sd1: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = mixed(sd1, alphas=lambda index, rank: 3)
    apply(sd1, tensors)
    expected = pixels(sd1)
    remove(sd1)
    monkeypatch.setattr("lib_pm.pipeline.apply._MOST_PATTERNS", 50)
    monkeypatch.setattr(sd1, "load_lora_weights", lambda *_, **__: pytest.fail("took the slow way"))
    assert apply(sd1, tensors).layers == {"unet": 277, "text_encoder": 12}
    assert (pixels(sd1) == expected).all()


@pytest.mark.parametrize("own", [False, True])
def test_a_failure_leaves_the_pipeline_as_it_was(sd1: Any, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    tensors, others = (
        random_lora(sd1, rank=4, alpha=2),
        [random_lora(sd1, rank=4, alpha=2, seed=seed) for seed in (1, 2)],
    )
    if own:
        sd1.load_lora_weights(others[0], adapter_name="idle")
        sd1.load_lora_weights(others[1], adapter_name="own")
        sd1.set_adapters("own", 0.5)
    before, modules = pixels(sd1), lora_modules(sd1)
    real = sd1.load_lora_weights

    def interrupted(state: LoraDict, adapter_name: str) -> None:
        real(state, adapter_name=adapter_name)
        raise KeyboardInterrupt

    monkeypatch.setattr(sd1, "load_lora_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply(sd1, tensors)
    assert lora_modules(sd1) == modules
    assert (pixels(sd1) == before).all()


def test_half_precision() -> None:
    pipeline = build_pipeline().to(torch.bfloat16)
    base = pixels(pipeline)
    apply(pipeline, mixed(pipeline, alphas=lambda index, rank: 1 + index % 5))
    assert np.abs(pixels(pipeline) - base).max() > 1
    remove(pipeline)
    assert (pixels(pipeline) == base).all()


def test_fused_or_switched_off(sd1: Any) -> None:
    sd1.load_lora_weights(random_lora(sd1, rank=2, alpha=2, unet=False), adapter_name="own")
    sd1.disable_lora()
    with pytest.raises(MergeInputError, match=saying("fused … disabled")):
        apply(sd1, random_lora(sd1, rank=2, alpha=2))


def test_without_diffusers(sd1: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MergeInputError, match=saying("peft … installed")):
        apply(sd1, {})


def test_not_a_pipeline() -> None:
    with pytest.raises(MergeInputError, match=saying("object … support LoRAs")):
        apply(object(), {})


# What a file must be like for plain `load_lora_weights`, without this module: what our writer has to keep to.
@pytest.mark.parametrize(
    ("alphas", "read_right"),
    [
        pytest.param(lambda index, rank: 4, True, id="one alpha"),
        pytest.param(lambda index, rank: None, True, id="no alphas"),
        pytest.param(lambda index, rank: rank, False, id="alpha = rank"),
    ],
)
def test_what_diffusers_itself_reads_of_mixed_ranks(
    sd1: Any, alphas: Callable[[int, int], float | None], read_right: bool
) -> None:
    """With two alphas in a file, diffusers 0.42 misreads attention and text encoder: we write one."""
    tensors = mixed(sd1, alphas=alphas)
    with changed_by_hand(sd1, (tensors, 1.0, 1.0)):
        by_hand = pixels(sd1)
    sd1.load_lora_weights(tensors)
    assert bool(np.abs(pixels(sd1) - by_hand).max() <= 1) is read_right


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_merge_of_mixed_ranks_is_what_was_live(
    sd1: Any, base: np.ndarray, samples: tuple[Path, Path], tmp_path: Path, mode: str
) -> None:
    """Every mode, with ranks that differ by layer: a LoCon, and block weights that leave one LoRA out of half of it."""
    style, character = samples
    uses = [LoraUse(style, 0.8, 0.8), LoraUse(character, 0.6, 0.9, lbw="OUT03-OUT11=0")]
    recipe = make_recipe(uses, mode)
    merge_to_file(recipe, tmp_path / "merged.safetensors")
    apply(sd1, merge(recipe)[0])
    live = pixels(sd1)
    remove(sd1)
    sd1.load_lora_weights(str(tmp_path), weight_name="merged.safetensors", local_files_only=True)
    assert np.abs(pixels(sd1) - live).max() <= 1
    assert np.abs(live - base).max() > 5
