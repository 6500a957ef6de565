"""A recipe as one value: checked when made, written and read back, named by its content."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_pm.core.choices import APPLY
from lib_pm.core.errors import MergeInputError
from lib_pm.core.params import FACTOR
from lib_pm.core.registry import MODES
from lib_pm.merging.recipe import DTYPES, PRECISIONS, LoraUse, Recipe, make_recipe, recipe_from_json
from tests.messages import saying, says

A, B = LoraUse(Path("a.safetensors"), 0.8), LoraUse(Path("b.safetensors"), -0.4, 0.2, "IN04=0.5")
CONTENTS = ["aa", "bb"]


def made(*uses: LoraUse, mode: str = "ties_svd", options: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    return make_recipe(uses or (A, B), mode, options, **settings)


def test_defaults_and_short_names() -> None:
    recipe = made(options={"rank": "32", "conv_rank": "", "density": "0.25"})
    assert recipe.options == {"density": 0.25, "svd_rank": 32, "svd_conv_rank": None, "lambda": 1.0}
    assert (recipe.apply, recipe.dtype, recipe.save_dtype) == ("model + clip", "float32", "float16")


def test_presets_are_expanded() -> None:
    recipe = made(LoraUse(Path("a.safetensors"), lbw="Mine"), presets={"MINE": "1,0,0.5"})
    assert recipe.loras[0].lbw == "1,0,0.5"


def test_short_dtypes_and_the_order_of_layer_kinds() -> None:
    recipe = made(dtype="bf16", save_dtype="fp32", layers=[" te", "attn", "te"])
    assert (recipe.dtype, recipe.save_dtype, recipe.layers) == ("bfloat16", "float32", ("attn", "te"))


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"mode": "tie"}, f"mode 'tie' … {', '.join(MODES)} … ties"),
        ({"options": {"density": 2}}, "density … 2 … 0 … 1"),
        ({"options": {"density": "nan"}}, "density … 'nan' … 0 … 1"),
        ({"options": {"rank": 0}}, "svd_rank … 0 … 1 … full"),
        ({"options": {"rank": 2.5}}, "svd_rank … 2.5 … 1 … full"),
        (
            {"options": {"conv_rank": -1}},
            "svd_conv_rank … -1 … 0 … empty … svd_rank",
        ),
        (
            {"options": {"seed": 7}},
            "ties_svd … 'seed' … density, svd_rank, svd_conv_rank, lambda",
        ),
        ({"apply": "unet"}, "apply … 'unet' … model + clip, model, clip"),
        ({"layers": ["conv"]}, "layers … 'conv' … attn, mlp, te, other"),
        ({"dtype": "int8"}, "dtype … 'int8' … float32, float16, bfloat16, float64"),
        ({"precision": "high"}, "precision … 'high' … normal, exact"),
        ({"save_dtype": "fp8"}, "save_dtype … 'fp8' … float32, float16, bfloat16, float64"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_messages(settings: dict[str, Any], facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        made(**settings)
    assert says(caught.value, facts), caught.value


@pytest.mark.parametrize(
    "strength", [math.nan, math.inf, "much", "1", 1e200, -1e7, None, pytest.param(10**5000, id="long")]
)
def test_strength_that_is_no_number(strength: Any) -> None:
    with pytest.raises(MergeInputError) as caught:
        made(LoraUse(Path("a.safetensors"), 1.0, strength))
    assert says(caught.value, f"strength of a … {FACTOR}"), caught.value


def test_no_lora() -> None:
    with pytest.raises(MergeInputError, match=saying("no LoRAs")):
        make_recipe([], "concat")


finite = st.floats(-10, 10)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    mode = draw(st.sampled_from(list(MODES)))
    ranges = {
        "density": st.floats(0, 1),
        "seed": st.integers(0, 2**63 - 1),
        "lambda": finite,
        "svd_rank": st.integers(1, 400),
        "svd_conv_rank": st.none() | st.integers(0, 400),
    }
    options = {name: draw(ranges[name]) for name in MODES[mode].options}
    lbw = st.sampled_from(["", "1,0,0.5", "IN04=0.5"])
    uses = st.builds(LoraUse, st.builds(Path, st.sampled_from(["x/a.safetensors", "b c.safetensors"])), finite, finite)
    loras = [replace(use, lbw=draw(lbw)) for use in draw(st.lists(uses, min_size=1, max_size=4))]
    settings = {"dtype": draw(st.sampled_from(list(DTYPES))), "save_dtype": draw(st.sampled_from(list(DTYPES)))}
    settings["precision"] = draw(st.sampled_from(PRECISIONS))
    kinds = draw(st.sets(st.sampled_from(["attn", "mlp", "te", "other"]), min_size=1))
    return make_recipe(loras, mode, options, apply=draw(st.sampled_from(APPLY)), layers=kinds, **settings)


@given(recipes(), st.randoms())
def test_json_round_trip_and_content_key(recipe: Recipe, random: random.Random) -> None:
    contents = [f"{index % 3}" for index, _ in enumerate(recipe.loras)]
    written = json.loads(json.dumps(recipe.to_json(contents), allow_nan=False))
    assert recipe_from_json(written, [use.path for use in recipe.loras]) == recipe

    # neither names nor order count
    pairs = list(zip(recipe.loras, contents, strict=True))
    random.shuffle(pairs)
    renamed = replace(recipe, loras=tuple(replace(use, path=Path("other.safetensors")) for use, _ in pairs))
    assert renamed.content_key([content for _, content in pairs]) == recipe.content_key(contents)


@pytest.mark.parametrize(
    "changed",
    [
        made(replace(A, model=0.9), B),
        made(replace(A, clip=0.9), B),
        made(replace(A, lbw="MID=0"), B),
        made(A),
        made(A, A, B),
        made(mode="add_svd"),
        made(options={"density": 0.4}),
        made(options={"svd_rank": 17}),
        made(options={"svd_conv_rank": 16}),
        made(options={"lambda": 0.5}),
        made(mode="dare_ties_svd"),
        made(mode="dare_ties_svd", options={"seed": 1}),
        made(apply="model"),
        made(layers=["attn", "mlp", "te"]),
        made(dtype="float64"),
        made(save_dtype="float32"),
        made(precision="exact"),
    ],
    ids=lambda recipe: str(recipe)[-160:],
)
def test_content_key_changes_with_every_field(changed: Recipe) -> None:
    contents = {1: ["aa"], 2: CONTENTS, 3: ["aa", "aa", "bb"]}[len(changed.loras)]
    assert changed.content_key(contents) != made().content_key(CONTENTS)
    assert changed.content_key(contents) == changed.content_key(contents)


@pytest.mark.parametrize("mode", ["concat", "ties", "add_svd"])
def test_precision_is_no_part_of_a_recipe_that_is_exact_anyway(mode: str) -> None:
    exact = made(mode=mode, precision="exact")
    assert exact == made(mode=mode)
    assert "precision" not in exact.to_json(CONTENTS)
    assert made(precision="exact").to_json(CONTENTS)["precision"] == "exact"


def test_content_key_changes_with_the_files() -> None:
    assert len({made().content_key(contents) for contents in (["aa", "bb"], ["aa", "cc"], ["bb", "aa"])}) == 3


def test_content_key_of_equal_recipes() -> None:
    """1 and 1.0 are the same strength, whoever built the recipe."""
    whole = made(LoraUse(A.path, 1, 1), options={"lambda": 1, "density": 1})
    fraction = made(LoraUse(A.path, 1.0, 1.0), options={"lambda": 1.0, "density": "1.0"})
    assert whole.content_key(["aa"]) == fraction.content_key(["aa"])


def without(field: str) -> dict[str, Any]:
    written = made().to_json(CONTENTS)
    del written[field]
    return written


def with_first_lora(field: str, value: object) -> dict[str, Any]:
    written = made().to_json(CONTENTS)
    written["loras"][0][field] = value
    return written


@pytest.mark.parametrize(
    "written",
    [
        *(without(field) for field in ("loras", "mode", "options", "apply", "layers", "dtype", "save_dtype")),
        made().to_json(CONTENTS) | {"loras": [{"name": "a"}, {"name": "b"}]},
        made().to_json(CONTENTS) | {"loras": 3},
        [],
        None,
        *(made().to_json(CONTENTS) | {field: value} for field in made().to_json(CONTENTS) for value in (3, None, True)),
        *(made().to_json(CONTENTS) | {field: {} if field != "options" else []} for field in made().to_json(CONTENTS)),
        *(with_first_lora(field, value) for field in ("model", "clip", "lbw", "content") for value in ([], None, True)),
        made().to_json(CONTENTS) | {"layers": ["attn", 3]},
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_recipe(written: Any) -> None:
    with pytest.raises(MergeInputError, match=saying("not a Power Merger recipe")):
        recipe_from_json(written, [A.path, B.path])


def test_recipe_of_another_number_of_loras() -> None:
    with pytest.raises(MergeInputError, match=saying("recipe … 2 LoRAs … 1")):
        recipe_from_json(made().to_json(CONTENTS), [A.path])


def test_a_recipe_with_a_bad_value_says_which() -> None:
    with pytest.raises(MergeInputError, match=saying("svd_rank … 0 … 1")):
        recipe_from_json(made().to_json(CONTENTS) | {"options": {"svd_rank": 0}}, [A.path, B.path])


def test_a_recipe_is_a_value(tmp_path: Path) -> None:
    one, same, other = (make_recipe([LoraUse(tmp_path / "a")], "ties", {"density": d}) for d in (0.5, "0.5", 0.6))
    assert one == same != other
    assert hash(one) == hash(same)
