"""The laws of a merge, over every registered mode: through files, as a user's merge goes.

Expected values come from tests.loras, which knows the formula ΔW = alpha / rank · up · down and nothing of the engine.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.registry import MODES
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.loras import KOHYA, PEFT, deltas, make_lora, relative_error, total_error, write

# A mode that breaks a law for a good reason is named here, with it; the law's test checks that it does break it.
OPT_OUT = {
    "sum": {"add": "factor space: the product of two sums has cross terms"},
}

UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_"
LINEAR, WIDE = f"{UNET}attn1_to_q", f"{UNET}ff_net_0_proj"
CONV1, CONV3 = "lora_unet_down_blocks_0_attentions_0_proj_in", "lora_unet_down_blocks_0_resnets_0_conv1"
CLIP = "lora_te_text_model_encoder_layers_0_mlp_fc1"
SHAPES = {LINEAR: (24, 20), WIDE: (40, 18), CONV1: (16, 16, 1, 1), CONV3: (14, 12, 3, 3), CLIP: (30, 22)}
PEFT_NAMES = {
    LINEAR: "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    WIDE: "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    CONV1: "unet.down_blocks.0.attentions.0.proj_in",
    CONV3: "unet.down_blocks.0.resnets.0.conv1",
    CLIP: "text_encoder.text_model.encoder.layers.0.mlp.fc1",
}

Lora = Mapping[str, Tensor]
modes = pytest.mark.parametrize("mode", MODES)
linear_modes = pytest.mark.parametrize("mode", [id for id, mode in MODES.items() if mode.method.linear])


def neutral(mode: str, **options: float) -> dict[str, float]:
    """Options at which a mode changes nothing by itself: density 1, a rank that truncates nothing."""
    known = {"density": 1.0, "svd_rank": 64, **options}
    return {name: value for name, value in known.items() if name in MODES[mode].options}


def merged(
    loras: Sequence[Lora], strengths: Sequence[float], mode: str, options: Mapping[str, float], **settings: object
) -> dict[str, Tensor]:
    """The merged tensors in float32, merged from files that are written for it."""
    with tempfile.TemporaryDirectory() as folder:
        uses = [
            LoraUse(write(Path(folder) / f"{index}.safetensors", lora), strength, strength)
            for index, (lora, strength) in enumerate(zip(loras, strengths, strict=True))
        ]
        recipe = make_recipe(uses, mode, options, **{"save_dtype": "float32", **settings})
        return merge(recipe, device="cpu", workers=1)[0]


def same_bytes(first: Lora, second: Lora) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


LORAS = [make_lora(SHAPES, 4, 2.0, seed=1), make_lora(SHAPES, 6, None, seed=2), make_lora(SHAPES, 3, 5.0, seed=3)]


@modes
@settings(deadline=None, max_examples=8)
@given(rank=st.integers(1, 12), alpha=st.none() | st.floats(0.1, 64), weight=st.floats(-3, 3), seed=st.integers(0, 99))
def test_identity_and_linear_in_strength(mode, rank, alpha, weight, seed):
    weight = round(weight, 3)
    lora = make_lora(SHAPES, rank, alpha, seed=seed)
    got = deltas(merged([lora], [weight], mode, neutral(mode)))
    expected = {name: weight * delta for name, delta in deltas(lora).items()} if weight else {}
    assert total_error(got, expected) < 1e-6 if weight else not got


@modes
@pytest.mark.parametrize("weight", [-1.0, 0.5, 3.0])
def test_linear_in_strength_at_every_density(mode, weight):
    options = neutral(mode, density=0.4)
    once, scaled = (deltas(merged(LORAS[:1], [w], mode, options)) for w in (1.0, weight))
    assert total_error(scaled, {name: weight * delta for name, delta in once.items()}) < 1e-5


@modes
def test_lambda_is_a_factor_on_the_result(mode):
    once, scaled = (deltas(merged(LORAS, [1, -0.5, 2], mode, neutral(mode, **{"lambda": f}))) for f in (1.0, -1.5))
    assert total_error(scaled, {name: -1.5 * delta for name, delta in once.items()}) < 1e-6


@modes
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_order_does_not_matter(mode, dtype):
    strengths = [1.0, -0.4, 0.7]
    results = [
        merged(
            [LORAS[i] for i in order], [strengths[i] for i in order], mode, neutral(mode, density=0.5), save_dtype=dtype
        )
        for order in itertools.permutations(range(3))
    ]
    assert all(same_bytes(results[0], result) for result in results[1:])


@modes
def test_the_same_lora_twice_at_two_strengths_in_any_order(mode):
    options = neutral(mode, density=0.5)
    first = merged([LORAS[0], LORAS[0]], [1.0, -0.25], mode, options)
    assert same_bytes(first, merged([LORAS[0], LORAS[0]], [-0.25, 1.0], mode, options))


@modes
def test_zero_is_absent(mode):
    options = neutral(mode, density=0.5)
    assert same_bytes(merged(LORAS, [1.0, 0.0, 0.7], mode, options), merged(LORAS[::2], [1.0, 0.7], mode, options))
    assert not merged(LORAS, [0.0, 0.0, 0.0], mode, options)


@modes
def test_owners_only(mode):
    """A layer that only some have is merged from those: as if the others were not there."""
    options = neutral(mode, density=0.5)
    without = {key: tensor for key, tensor in LORAS[1].items() if not key.startswith((CONV3, CLIP))}
    result = merged([LORAS[0], without, LORAS[2]], [1.0, 0.5, -0.7], mode, options)
    owners = merged([LORAS[0], LORAS[2]], [1.0, -0.7], mode, options)
    everyone = merged(LORAS, [1.0, 0.5, -0.7], mode, options)
    assert deltas(result).keys() == SHAPES.keys()
    shared = {name: deltas(result)[name] for name in (CONV3, CLIP)}
    assert total_error(shared, {name: deltas(owners)[name] for name in shared}) < 1e-6
    if not MODES[mode].method.random:  # which entries are dropped depends on the whole file
        assert all(
            torch.equal(tensor, everyone[key]) for key, tensor in result.items() if not key.startswith((CONV3, CLIP))
        )


@modes
@settings(deadline=None, max_examples=5)
@given(
    loras=st.lists(
        st.tuples(st.integers(1, 12), st.none() | st.floats(0.5, 32), st.floats(-2, 2)), min_size=2, max_size=4
    )
)
def test_any_mix_of_ranks_and_alphas(mode, loras):
    tensors = [make_lora(SHAPES, rank, alpha, seed=seed) for seed, (rank, alpha, _) in enumerate(loras)]
    strengths = [round(strength, 2) or 0.5 for *_, strength in loras]
    result = merged(tensors, strengths, mode, neutral(mode))
    assert deltas(result).keys() == SHAPES.keys()
    assert all(bool(tensor.isfinite().all()) for tensor in result.values())
    if MODES[mode].method.linear and mode not in OPT_OUT["sum"]:
        sums = _sums(tensors, strengths)
        scale = max(float(delta.norm()) for lora in tensors for delta in deltas(lora).values())
        for name, delta in deltas(result).items():
            assert float((delta - sums[name]).norm()) < 1e-5 * scale


@modes
def test_same_bytes_for_any_subset_of_layers(mode):
    options = neutral(mode, density=0.5)
    everything = merged(LORAS, [1.0, 0.5, -0.7], mode, options)
    for kinds in (["attn"], ["te"], ["mlp", "other"]):
        part = merged(LORAS, [1.0, 0.5, -0.7], mode, options, layers=kinds)
        assert part
        assert all(torch.equal(tensor, everything[key]) for key, tensor in part.items())


@modes
@pytest.mark.parametrize("save_dtype", ["float16", "bfloat16", "float32"])
def test_the_preview_is_the_file(mode, save_dtype, tmp_path):
    uses = [LoraUse(write(tmp_path / f"{i}.safetensors", lora), 0.8, -0.3) for i, lora in enumerate(LORAS)]
    recipe = make_recipe(uses, mode, save_dtype=save_dtype)
    merge_to_file(recipe, tmp_path / "out.safetensors", workers=2)
    assert same_bytes(merge(recipe, workers=1)[0], load_file(tmp_path / "out.safetensors"))


@modes
def test_a_file_merged_again_alone_is_itself(mode, tmp_path):
    """Saving, loading and saving again changes nothing: alpha and rank are read back as they were meant."""
    once = merged(LORAS, [1.0, 0.5, -0.7], mode, neutral(mode))
    again = merged([once], [1.0], mode, neutral(mode))
    assert total_error(deltas(again), deltas(once)) < 1e-6


@modes
def test_naming_schemes_and_stored_forms_give_the_same_merge(mode):
    """kohya and PEFT names, 1×1 convolutions stored as linear, CP factors: the same deltas."""
    renamed = {
        PEFT_NAMES[name] + peft: LORAS[1][name + kohya]
        for name in SHAPES
        for kohya, peft in zip(KOHYA, PEFT, strict=True)
    }
    renamed = {key: tensor.flatten(1) if "proj_in" in key else tensor for key, tensor in renamed.items()}
    options = neutral(mode)  # which entries are dropped depends on the content of the file, so density 1
    plain = merged(LORAS, [1.0, 0.5, -0.7], mode, options)
    mixed = merged([LORAS[0], renamed, LORAS[2]], [1.0, 0.5, -0.7], mode, options)
    assert mixed.keys() == plain.keys()
    assert total_error(deltas(mixed), deltas(plain)) < 1e-6


@modes
def test_cp_layers(mode):
    cp = make_lora(SHAPES, 4, 2.0, seed=1, cp=[CONV3])
    assert f"{CONV3}.lora_mid.weight" in cp
    got = deltas(merged([cp], [0.7], mode, neutral(mode)))
    assert total_error(got, {name: 0.7 * delta for name, delta in deltas(cp).items()}) < 1e-6


@linear_modes
@pytest.mark.parametrize("strengths", [(1.0, 0.7, 0.4), (1.0, -0.7, -2.0)])
def test_linear_modes_are_the_sum(mode, strengths):
    error = total_error(deltas(merged(LORAS, strengths, mode, neutral(mode))), _sums(LORAS, strengths))
    assert error > 0.1 if mode in OPT_OUT["sum"] else error < 1e-6


@pytest.mark.parametrize("strengths", [(1.0, 0.7), (1.0, -0.7)])
@pytest.mark.parametrize("rank", [16, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-4), ("float32", 1e-6)])
def test_precision_of_a_saved_sum(strengths, rank, dtype, tolerance):
    """What a file costs: concat only the rounding of the factors, add_svd that on top of the best approximation."""
    shapes = {LINEAR: (320, 320), WIDE: (1280, 160), CONV1: (320, 320, 1, 1), CONV3: (64, 64, 3, 3), CLIP: (768, 512)}
    loras = [make_lora(shapes, rank, rank / 2, seed=seed, dtype=getattr(torch, dtype)) for seed in (1, 2)]
    sums = _sums(loras, strengths)
    assert total_error(deltas(merged(loras, strengths, "concat", {}, save_dtype=dtype)), sums) <= tolerance
    for name, got in deltas(merged(loras, strengths, "add_svd", {"svd_rank": rank}, save_dtype=dtype)).items():
        values = torch.linalg.svdvals(sums[name])
        best = float(values[rank:].norm() / values.norm())
        assert relative_error(got, sums[name]) <= best * 1.001 + (3e-4 if dtype == "float16" else 1e-6)


def test_small_alphas_survive_fp16():
    """alpha 1 at rank 128 makes factors that fp16 can hardly hold, unless the factors are evened out."""
    lora = make_lora({LINEAR: (64, 64)}, 128, 1.0, seed=1)
    lora[f"{LINEAR}.lora_up.weight"] *= 1e-2
    lora = {key: tensor.half() for key, tensor in lora.items()}
    got = deltas(merged([lora], [0.3], "concat", {}, save_dtype="float16"))
    assert total_error(got, {name: 0.3 * delta for name, delta in deltas(lora).items()}) < 3e-4


def _sums(loras: Sequence[Lora], strengths: Sequence[float]) -> dict[str, Tensor]:
    each = [deltas(lora) for lora in loras]
    return {
        name: sum(strength * delta[name] for strength, delta in zip(strengths, each, strict=True)) for name in each[0]
    }
