"""`svd_rank=full`: the merged delta itself, where a method's result has no rank of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_pm import cli
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES, Choice, find_mode
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe, recipe_from_json
from lib_pm.prompt.parse import parse_pm, write_pm
from tests.loras import deltas, make_lora, relative_error, write
from tests.messages import saying, says

SHAPES: dict[str, tuple[int, ...]] = {
    "lora_unet_down_blocks_0_attentions_0_proj_in": (24, 24, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (24, 24),
    "lora_unet_down_blocks_0_resnets_0_conv1": (24, 16, 3, 3),
}
ELEMENTWISE = [mode.id for mode in MODES.values() if mode.space == "delta" and not mode.method.linear]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{seed}.safetensors", make_lora(SHAPES, 4, seed=seed)) for seed in (1, 2)]


def recipe(paths: list[Path], mode: str, **options: object) -> Recipe:
    return make_recipe([LoraUse(paths[0], 0.8), LoraUse(paths[1], -0.5)], mode, options, save_dtype="float32")


@pytest.mark.parametrize("mode", ELEMENTWISE)
def test_it_is_what_every_truncation_comes_near(mode: str, paths: list[Path]) -> None:
    """At the largest rank that the layers allow, nothing is cut off: the two ways to the same delta agree."""
    whole, report = merge(recipe(paths, mode, svd_rank="full"))
    factors, _ = merge(recipe(paths, mode, svd_rank=24))
    for name, expected in deltas(factors).items():
        assert whole[f"{name}.diff"].shape == SHAPES[name]
        assert relative_error(whole[f"{name}.diff"].flatten(1), expected) < 1e-5
    assert whole.keys() == {f"{name}.diff" for name in SHAPES}
    megabytes = sum(tensor.nbytes for tensor in whole.values()) / 2**20
    assert any(says(note, f"full rank … {megabytes:.0f} MB … memory") for note in report.notes)


def test_one_lora_at_full_density_is_itself(paths: list[Path]) -> None:
    whole, _ = merge(make_recipe([LoraUse(paths[0])], "ties_svd", {"density": 1, "rank": "full"}, save_dtype="fp32"))
    for name, expected in deltas(paths[0]).items():
        assert relative_error(whole[f"{name}.diff"].flatten(1), expected) < 1e-6


def test_lambda_scales_it(paths: list[Path]) -> None:
    once, _ = merge(recipe(paths, "ties_svd", svd_rank="full"))
    twice, _ = merge(recipe(paths, "ties_svd", svd_rank="full", **{"lambda": 2}))
    assert all(torch.equal(2 * once[name], twice[name]) for name in once)


def test_convolutions_may_be_truncated_all_the_same(paths: list[Path]) -> None:
    tensors, _ = merge(recipe(paths, "ties_svd", svd_rank="full", svd_conv_rank=3))
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    assert tensors[f"{conv}.lora_down.weight"].shape == (3, 16, 3, 3)
    assert f"{conv}.diff" not in tensors
    exact, _ = merge(recipe(paths, "ties_svd", svd_rank=3))
    assert relative_error(deltas(tensors)[conv], deltas(exact)[conv]) < 1e-5


def test_a_value_that_the_dtype_cannot_hold_is_an_error(paths: list[Path]) -> None:
    strong = make_recipe([LoraUse(paths[0], 1e6)], "ties_svd", {"rank": "full", "lambda": 1e3})
    with pytest.raises(MergeInputError, match=saying("Layer … 1.safetensors … value … delta … smaller strengths")):
        merge(strong)


def test_it_is_not_saved(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(MergeInputError, match=saying("svd_rank … full … applied")):
        merge_to_file(recipe(paths, "ties_svd", svd_rank="full"), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_it_is_written_and_read_back_as_text_and_as_json(paths: list[Path]) -> None:
    full = recipe(paths, "ties_svd", svd_rank="full")
    tag = write_pm(Choice(full.mode, full.options))
    assert tag.body == "ties_svd:density=0.5:svd_rank=full:lambda=1"
    assert parse_pm(tag).values == full.options
    assert recipe_from_json(full.to_json(["", ""]), paths).options == full.options


def test_of_a_sum_it_is_the_exact_sum(paths: list[Path], tmp_path: Path) -> None:
    """Of factors, so that it may be a file: byte for byte what `concat` makes."""
    exact, _ = merge(recipe(paths, "concat"))
    whole, report = merge(recipe(paths, "add_svd", svd_rank="full"))
    assert whole.keys() == exact.keys()
    assert all(torch.equal(whole[name], exact[name]) for name in exact)
    assert report.notes == []
    merge_to_file(recipe(paths, "add_svd", svd_rank="full"), tmp_path / "out.safetensors")
    saved = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(saved[name], exact[name]) for name in exact)


def test_of_a_sum_convolutions_may_be_truncated(paths: list[Path]) -> None:
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    tensors, _ = merge(recipe(paths, "add_svd", svd_rank="full", svd_conv_rank=3))
    exact, _ = merge(recipe(paths, "concat"))
    for name in SHAPES:
        same = name != conv
        assert (deltas(tensors)[name].shape, tensors[f"{name}.lora_down.weight"].shape[0]) == (
            deltas(exact)[name].shape,
            8 if same else 3,
        )
        assert (relative_error(deltas(tensors)[name], deltas(exact)[name]) < 1e-6) == same


def test_it_is_offered_where_it_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a result is applied, and not where it becomes a file."""
    for mode in MODES.values():
        option = mode.option("rank")
        if option:
            assert "full" in option.help
            assert "full" in option.allowed
            assert "full" not in option.in_files.help + option.in_files.allowed
    for command in (["merge", "--help"], ["modes"]):
        with contextlib.suppress(SystemExit):
            cli.main(command)
        told = capsys.readouterr().out
        ranks = [text.split("--")[0] for text in told.split("--svd-rank")[1:]]
        assert ranks
        assert not any("full" in text for text in ranks)


@pytest.mark.parametrize("mode", ["concat", "ties"])
def test_other_modes_do_not_know_it(mode: str) -> None:
    with pytest.raises(MergeInputError, match="svd_rank"):
        find_mode(mode).values({"svd_rank": "full"})


@pytest.mark.parametrize("value", ["", "ful", "0", None])
def test_nothing_else_means_full(value: object) -> None:
    if value is None:  # what JSON has for it
        assert find_mode("ties_svd").values({"svd_rank": value})["svd_rank"] is None
        return
    with pytest.raises(MergeInputError, match=saying(f"svd_rank … {value!r} … a whole number … 1 … full")):
        find_mode("ties_svd").values({"svd_rank": value})
