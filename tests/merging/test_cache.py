"""Merges kept in memory: what is found again, what is not read, what is dropped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import lib_pm.merging.cache
from lib_pm.core.errors import MergeInputError
from lib_pm.merging.cache import MergeCache
from lib_pm.merging.merge import merge
from lib_pm.merging.progress import Cancelled
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe
from tests.loras import make_lora, write
from tests.messages import saying

SHAPES: dict[str, tuple[int, ...]] = {
    f"lora_unet_down_blocks_{level}_attentions_0_proj_in": (64, 64) for level in range(3)
}
MEGABYTE = 2**20


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{name}.safetensors", make_lora(SHAPES, 4, seed=ord(name))) for name in "abc"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes whose files were opened."""
    recipes: list[Recipe] = []
    original = lib_pm.merging.cache.open_plan

    def open_plan(recipe: Recipe, *known: Any, **how: Any) -> Any:
        recipes.append(recipe)
        return original(recipe, *known, **how)

    monkeypatch.setattr(lib_pm.merging.cache, "open_plan", open_plan)
    return recipes


def recipe(*paths: Path, strength: float = 0.5) -> Recipe:
    return make_recipe([LoraUse(path, strength) for path in paths], "add_svd", {"rank": 4})


def test_the_second_time_nothing_is_merged_and_no_file_opened(files: list[Path], opened: list[Recipe]) -> None:
    cache = MergeCache(MEGABYTE)
    first = cache.merge(recipe(*files))
    assert cache.merge(recipe(*files)) is first
    assert cache.merge(recipe(*reversed(files))) is first, "the order of the LoRAs is no part of the key"
    assert len(opened) == 1
    tensors, report = merge(recipe(*files))
    assert {name: tensor.tolist() for name, tensor in first.tensors.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }
    assert first.report.what == report.what


def test_another_recipe_is_another_merge(files: list[Path]) -> None:
    cache = MergeCache(MEGABYTE)
    keys = {cache.merge(recipe(*files, strength=strength)).key for strength in (0.5, 0.25, -0.5)}
    assert len(keys) == 3


def test_a_changed_file_is_read_again(files: list[Path], opened: list[Recipe]) -> None:
    cache = MergeCache(MEGABYTE)
    first = cache.merge(recipe(*files))
    write(files[0], make_lora(SHAPES, 4, seed=99))
    os.utime(files[0], ns=(1, 1))  # a file system may be too coarse to see the change
    second = cache.merge(recipe(*files))
    assert second.key != first.key
    assert len(opened) == 2


def test_a_file_of_another_name_with_the_same_content_is_the_same_merge(files: list[Path]) -> None:
    cache = MergeCache(MEGABYTE)
    first = cache.merge(recipe(*files))
    moved = files[0].rename(files[0].with_name("renamed.safetensors"))
    assert cache.merge(recipe(moved, *files[1:])) is first


def test_a_file_that_is_gone_is_an_error_and_no_old_merge(files: list[Path]) -> None:
    cache = MergeCache(MEGABYTE)
    cache.merge(recipe(*files))
    files[1].unlink()
    with pytest.raises(MergeInputError, match=saying("b.safetensors … exist")):
        cache.merge(recipe(*files))


def test_the_least_recently_used_go_when_the_limit_is_reached(files: list[Path], opened: list[Recipe]) -> None:
    size = MergeCache(MEGABYTE).merge(recipe(files[0])).bytes
    opened.clear()
    cache = MergeCache(4 * size)  # half of it is for merges
    for path in (files[0], files[1], files[0], files[2]):  # b was used longest ago when c comes
        cache.merge(recipe(path))
        assert cache.bytes <= 2 * size
        assert cache.all_bytes <= 4 * size
    cache.merge(recipe(files[0]))
    assert len(opened) == 3, "a is still there"
    cache.merge(recipe(files[1]))
    assert len(opened) == 4, "b had to go"


def test_what_is_larger_than_the_limit_pushes_nothing_out(files: list[Path], opened: list[Recipe]) -> None:
    small = MergeCache(MEGABYTE).merge(recipe(files[0])).bytes
    opened.clear()
    cache = MergeCache(small)
    cache.merge(recipe(files[0]))
    big = make_recipe([LoraUse(path) for path in files], "concat")
    assert cache.merge(big).bytes > small
    cache.merge(recipe(files[0]))
    assert len(opened) == 2


@pytest.mark.parametrize("at", ["files", "layers"])
def test_cancelling_leaves_the_cache_as_it_was(files: list[Path], at: str) -> None:
    cache = MergeCache(MEGABYTE)
    first = cache.merge(recipe(files[0]))

    def stop(done: int, total: int, name: str, unit: str = "layers") -> None:
        if unit == at:
            raise Cancelled

    with pytest.raises(Cancelled):
        cache.merge(recipe(*files), progress=stop)
    assert cache.bytes == first.bytes


def test_owners_are_the_loras_of_each_layer_that_was_merged(files: list[Path], tmp_path: Path) -> None:
    only = write(tmp_path / "only.safetensors", make_lora({next(iter(SHAPES)): (64, 64)}, 4))
    off = LoraUse(files[0], 1.0, 1.0, "IN04=0")
    merged = MergeCache(MEGABYTE).merge(make_recipe([off, LoraUse(only)], "concat"))
    names = [tuple(sorted(owners)) for _, owners in sorted(merged.owners.items())]
    assert names == [("a", "only"), ("a",)], "the second layer is in IN04, which is off"


@pytest.mark.parametrize("again", [False, True], ids=["merged", "from memory"])
def test_a_model_of_another_family_is_refused(files: list[Path], again: bool) -> None:
    cache = MergeCache(MEGABYTE)
    if again:
        cache.merge(recipe(*files), model="sd1")
    with pytest.raises(MergeInputError, match=saying("for Stable Diffusion 1 … loaded … is Stable Diffusion XL")):
        cache.merge(recipe(*files), model="sdxl")
    cache.merge(recipe(*files), model="")
