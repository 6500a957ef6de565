"""A file that is replaced or changed while it is read: never one's tensors under the other's hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import lib_pm.merging.cache
import lib_pm.merging.merge
from lib_pm.core.errors import MergeInputError
from lib_pm.files.metadata import RECIPE_KEY
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.merging.cache import MergeCache
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.plan import Plan
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe
from tests.loras import PEFT, deltas, make_lora, total_error, write
from tests.messages import saying

LAYER = "lora_unet_down_blocks_1_attentions_0_proj_in"
OLD, NEW = make_lora({LAYER: (24, 16)}, 4), make_lora({LAYER: (24, 16)}, 4, seed=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "style.safetensors", OLD)


def replace(path: Path, tensors: dict[str, Tensor] = NEW) -> None:
    """As an overwriting save does it."""
    os.replace(write(path.with_name("coming"), tensors), path)


def recipe(path: Path) -> Recipe:
    return make_recipe([LoraUse(path)], "concat", save_dtype="float32")


def data_hash(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def assert_is(tensors: dict[str, Tensor], of: dict[str, Tensor]) -> None:
    assert total_error(deltas(tensors), deltas(of)) < 1e-6


def test_hash_and_tensors_are_of_one_file(path: Path) -> None:
    before = data_hash(path)
    with open_lora(path) as file:
        replace(path)
        assert file.content == before != data_hash(path)
        assert torch.equal(file.read(LAYER).up, OLD[f"{LAYER}.lora_up.weight"])


def test_the_hash_in_a_merged_file_is_of_what_was_merged(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, open_plan = data_hash(path), lib_pm.merging.merge.open_plan

    @contextmanager
    def and_replace(what: Recipe, **options: Any) -> Iterator[Plan]:
        with open_plan(what, **options) as plan:
            replace(path)
            yield plan

    monkeypatch.setattr(lib_pm.merging.merge, "open_plan", and_replace)
    target = tmp_path / "out.safetensors"
    merge_to_file(recipe(path), target)
    with safe_open(str(target), framework="pt") as file:
        assert json.loads(file.metadata()[RECIPE_KEY])["loras"][0]["content"] == before
    assert_is(load_file(str(target)), OLD)


def before(opened: Callable[[Path], LoraFile], path: Path) -> LoraFile:
    replace(path)
    return opened(path)


def after(opened: Callable[[Path], LoraFile], path: Path) -> LoraFile:
    file = opened(path)
    replace(path)
    return file


@pytest.mark.parametrize("when", [before, after])
def test_an_image_after_a_file_was_replaced_has_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, when: Callable[[Any, Path], LoraFile]
) -> None:
    """The save comes just before or after the file is opened for an image."""
    original = lib_pm.merging.cache.open_lora
    monkeypatch.setattr(lib_pm.merging.cache, "open_lora", lambda path: when(original, path))
    cache = MergeCache(2**20)
    first = cache.merge(recipe(path))
    assert_is(first.tensors, NEW if when is before else OLD)
    monkeypatch.setattr(lib_pm.merging.cache, "open_lora", original)
    second = cache.merge(recipe(path))
    assert_is(second.tensors, NEW)
    assert (second.key == first.key) == (when is before)
    assert cache.merge(recipe(path)) is second


def test_a_file_that_is_replaced_while_what_was_read_of_it_is_found_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = MergeCache(2**20)
    cache.merge(recipe(path))
    stamp = lib_pm.merging.cache._stamp

    def and_replace(path: Path) -> Any:
        found = stamp(path)
        replace(path)
        return found

    weaker = make_recipe([LoraUse(path, 0.5)], "concat", save_dtype="float32")  # not merged before
    calls = iter([stamp, and_replace])  # is it known, then: is what was read of it there
    monkeypatch.setattr(lib_pm.merging.cache, "_stamp", lambda path: next(calls, stamp)(path))
    merged = cache.merge(weaker)
    assert total_error(deltas(dict(merged.tensors)), {LAYER: deltas(NEW)[LAYER] / 2}) < 1e-6


def test_a_file_of_the_same_size_and_time_is_another(path: Path) -> None:
    cache = MergeCache(2**20)
    cache.merge(recipe(path))
    old = path.stat()
    replace(path)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert_is(cache.merge(recipe(path)).tensors, NEW)


def test_a_change_in_place(path: Path) -> None:
    with open_lora(path) as file:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(1, 1))  # a file system may be too coarse to see the change
        for read in (lambda: file.read(LAYER), lambda: file.content):
            with pytest.raises(MergeInputError, match=saying("style.safetensors … changed … read")):
                read()


def test_settings_beside_the_file_are_a_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "adapter_model.safetensors", make_lora({"unet.mid_block.to_q": (24, 16)}, 4, endings=PEFT))
    sizes = []
    cache = MergeCache(2**20)
    for alpha in ("", '{"lora_alpha": 8}', '{"lora_alpha": 2}'):
        if alpha:
            (tmp_path / "adapter_config.json").write_text(alpha)
            os.utime(tmp_path / "adapter_config.json", ns=(len(sizes), len(sizes)))
        tensors = cache.merge(recipe(path)).tensors
        (delta,) = deltas(dict(tensors)).values()
        sizes.append(float(delta.norm()))
    assert sizes[0] > 0
    assert sizes == pytest.approx([sizes[0], 2 * sizes[0], sizes[0] / 2], rel=1e-6)


def test_a_closed_file_that_was_replaced_is_not_opened_as_the_old_one(path: Path) -> None:
    file = open_lora(path)
    file.close()
    replace(path)
    with pytest.raises(MergeInputError, match=saying("style.safetensors … replaced")), file:
        pass
