"""Cells of a plot, merged one after the other with what they have in common, are the merges of each cell alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lib_pm.core.steps
import lib_pm.merging.merge
from lib_pm.core.lowrank import Factors
from lib_pm.core.memo import Memo, Value
from lib_pm.core.registry import MODES, Method
from lib_pm.core.truncation import SMALL_SIDE
from lib_pm.files.reader import LoraFile
from lib_pm.merging.cache import MergeCache
from lib_pm.merging.merge import merge, merge_plan
from lib_pm.merging.plan import open_plan
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe
from tests.loras import make_lora, write

UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_"
SHAPES: dict[str, tuple[int, ...]] = {
    f"{UNET}attn1_to_q": (264, 260),  # for the range finder
    f"{UNET}attn1_to_v": (331, 269),  # where nothing is aligned
    f"{UNET}attn1_to_k": (64, 48),  # decomposed as a whole
    "lora_unet_down_blocks_0_resnets_0_conv1": (40, 36, 3, 3),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (72, 70),
}
LIMIT = 64 * 2**20
SVD = [id for id, mode in MODES.items() if mode.space == "delta"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("loras")
    return [
        write(folder / f"{seed}.safetensors", make_lora(SHAPES, rank, 5.0, seed=seed, dtype=dtype))
        for seed, (rank, dtype) in enumerate([(6, torch.float16), (12, torch.float32), (4, torch.bfloat16)])
    ]


def cell(files: list[Path], mode: str, strengths: tuple[float, ...] = (1.0, 0.7, -0.4), **options: object) -> Recipe:
    uses = [LoraUse(path, strength, strength) for path, strength in zip(files, strengths, strict=True)]
    known = {name: value for name, value in options.items() if name in MODES[mode].options}
    precision = str(options.get("precision", "normal"))
    dtype = str(options.get("dtype", "float32"))
    return make_recipe(uses, mode, known, save_dtype="float32", dtype=dtype, precision=precision)


class Alone:
    """Merges of each cell alone, computed once for all tests."""

    def __init__(self) -> None:
        self._merges: dict[str, tuple[list[object], dict[str, Tensor]]] = {}

    def merge(self, recipe: Recipe) -> tuple[list[object], dict[str, Tensor]]:
        """Return what the report says of the layers, and the tensors."""
        key = repr(recipe)  # all of it, and no key that the cache goes by
        if key not in self._merges:
            tensors, report = merge(recipe, device="cpu", workers=1)
            self._merges[key] = list(report.layers), dict(tensors)
        return self._merges[key]


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone()


def assert_alone(alone: Alone, cache: MergeCache, recipes: list[Recipe]) -> None:
    """Every cell has the bytes that it has alone, and the cache stays within its limit."""
    for recipe in recipes:
        shared = cache.merge(recipe, device="cpu")
        layers, tensors = alone.merge(recipe)
        assert list(shared.report.layers) == layers
        assert same_bytes(shared.tensors, tensors), recipe
        assert cache.all_bytes <= cache.limit


def same_bytes(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mode", SVD)
@pytest.mark.parametrize("ranks", [(4, 8, 20, 32, 33, 60, 90), (90, 60, 33, 32, 20, 8, 4)], ids=["rising", "falling"])
@pytest.mark.parametrize("precision", ["normal", "exact"])
def test_ranks(files: list[Path], alone: Alone, mode: str, ranks: tuple[int, ...], precision: str) -> None:
    assert_alone(alone, MergeCache(LIMIT), [cell(files, mode, svd_rank=rank, precision=precision) for rank in ranks])


@pytest.mark.parametrize("mode", MODES)
def test_strengths(files: list[Path], alone: Alone, mode: str) -> None:
    steps = (-0.5, 0.0, 0.25, 1.0)
    assert_alone(alone, MergeCache(LIMIT), [cell(files, mode, (a, b, 0.5)) for a in steps for b in steps])


@pytest.mark.parametrize("limit", [0, 300_000, LIMIT], ids=["no room", "little room", "room"])
def test_everything_in_any_order(files: list[Path], alone: Alone, limit: int) -> None:
    numbers = random.Random(4)
    cells = [
        cell(
            files,
            numbers.choice(list(MODES)),
            numbers.choice([(1.0, 0.7, -0.4), (0.5, 0.35, -0.2), (0.5, 0.0, 1.0)]),
            svd_rank=numbers.choice([4, 8, 24, 40]),
            svd_conv_rank=numbers.choice([0, 3, 24]),
            density=numbers.choice([0.2, 0.5, 1.0]),
            seed=numbers.choice([0, 1]),
            precision=numbers.choice(["normal", "exact"]),
            dtype=numbers.choice(["float32", "float64"]),
            **{"lambda": numbers.choice([1.0, -0.5])},
        )
        for _ in range(120)
    ]
    assert_alone(alone, MergeCache(limit), cells)


def test_a_cell_is_the_merge_of_a_fresh_process(files: list[Path], tmp_path: Path) -> None:
    cache = MergeCache(LIMIT)
    for rank in (4, 40, 24):
        recipe = cell(files, "ties_svd", svd_rank=rank)
        shared = cache.merge(recipe, device="cpu")
    script = (
        "import json, sys, pathlib; from lib_pm.merging.recipe import recipe_from_json;"
        "from lib_pm.merging.merge import merge_to_file;"
        "paths = [pathlib.Path(path) for path in sys.argv[3:]];"
        "merge_to_file(recipe_from_json(json.loads(sys.argv[1]), paths), pathlib.Path(sys.argv[2]), device='cpu')"
    )
    out = tmp_path / "out.safetensors"
    written = json.dumps(recipe.to_json([""] * len(files)))
    subprocess.run([sys.executable, "-c", script, written, str(out), *map(str, files)], check=True)
    from safetensors.torch import load_file

    assert same_bytes(shared.tensors, load_file(out))


def test_two_workers_share_as_one_does(files: list[Path], alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lib_pm.merging.merge, "default_workers", lambda *_: 4)
    recipes = [cell(files, mode, svd_rank=rank) for rank in (24, 8, 60) for mode in SVD]
    assert_alone(alone, MergeCache(LIMIT), recipes)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read, made dense or given inner products, in order."""
    done: list[str] = []
    for owner, name in ((LoraFile, "read"), (Factors, "of"), (Method, "__call__")):
        original = getattr(owner, name)

        def counted(*given: object, original: Callable[..., object] = original, name: str = name) -> object:
            done.append(name)
            return original(*given)

        monkeypatch.setattr(owner, name, counted)
    return done


@pytest.mark.parametrize("mode", SVD)
def test_smaller_ranks_compute_no_delta_and_read_nothing(files: list[Path], mode: str, work: list[str]) -> None:
    cache = MergeCache(LIMIT)
    cache.merge(cell(files, mode, svd_rank=30), device="cpu")
    assert work
    work.clear()
    for rank in (24, 8, 17):
        cache.merge(cell(files, mode, svd_rank=rank), device="cpu")
    assert not work


@pytest.mark.parametrize("mode", SVD)
def test_a_factor_on_all_strengths_computes_no_delta_and_reads_nothing(
    files: list[Path], mode: str, work: list[str]
) -> None:
    cache = MergeCache(LIMIT)
    cache.merge(cell(files, mode, (1.0, 0.75, -0.5)), device="cpu")
    assert work
    work.clear()
    for factor in (0.5, 0.1, 3.0):
        cache.merge(cell(files, mode, (factor * 1.0, factor * 0.75, factor * -0.5)), device="cpu")
    assert not work
    cache.merge(cell(files, mode, (-1.0, -0.75, 0.5)), device="cpu")
    assert MODES[mode].method.linear or work, "an entry's tie elects plus, so that the sign is no factor"


@pytest.mark.parametrize("mode", SVD)
def test_what_is_counted_is_what_is_held(files: list[Path], mode: str) -> None:
    memo = SeenMemo(LIMIT)
    for rank in (4, 100):
        with open_plan(cell(files, mode, svd_rank=rank)) as plan:
            merge_plan(plan, device="cpu", memo=memo)
    held = {}
    for value in memo.values.values():
        for tensor in vars(value).values():
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
    assert held
    assert sum(held.values()) <= 1.05 * memo.nbytes


class SeenMemo(Memo):
    """With so much room that nothing gives way: what it has answered is what it holds."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.values: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        value = self.values[key] = super().once(key, make)
        return value


def test_other_strengths_of_add_svd_read_nothing_and_have_the_inner_products(
    files: list[Path], work: list[str]
) -> None:
    cache = MergeCache(LIMIT)
    cache.merge(cell(files, "add_svd"), device="cpu")
    assert "of" in work
    work.clear()
    cache.merge(cell(files, "add_svd", (0.2, -1.0, 3.0)), device="cpu")
    assert not work


@pytest.mark.parametrize("mode", ["ties_svd", "magnitude_prune_svd"])
def test_other_strengths_search_no_threshold(files: list[Path], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    original = lib_pm.core.steps.kth_largest

    def kth_largest(values: Tensor, k: int) -> tuple[Tensor, int]:
        searched.append(k)
        return original(values, k)

    monkeypatch.setattr(lib_pm.core.steps, "kth_largest", kth_largest)
    cache = MergeCache(LIMIT)
    cache.merge(cell(files, mode, density=0.5), device="cpu")
    assert len(searched) == len(files) * len(SHAPES)
    cache.merge(cell(files, mode, (0.2, -1.0, 3.0), density=0.5), device="cpu")
    assert len(searched) == len(files) * len(SHAPES)
    cache.merge(cell(files, mode, density=0.4), device="cpu")
    assert len(searched) == 2 * len(files) * len(SHAPES)


def test_the_shapes_are_hard_enough() -> None:
    sides = [min(shape[0], shape[1] * (shape[2] * shape[3] if len(shape) > 2 else 1)) for shape in SHAPES.values()]
    assert min(sides) <= SMALL_SIDE < max(sides)
