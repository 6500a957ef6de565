"""Plots over the settings of a merge, SD1.5 rank 16 × 2, against merging each cell alone; both give the same bytes."""

import itertools
import time

import pytest
import torch

from bench.conftest import Row
from bench.model import WEIGHTS, Model
from lib_pm.merging.cache import MergeCache
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.webui.settings import Settings
from tests import layouts

LIMIT = int(Settings().cache_mb * 2**20)  # what a user has who sets nothing
RANKS = [{"svd_rank": rank} for rank in (4, 8, 12, 16, 24, 32)]
DENSITIES = [{"density": density} for density in (0.1, 0.3, 0.5, 0.7, 0.9)]
STRENGTHS = list(itertools.product((0, 1 / 3, 2 / 3, 1), repeat=2))  # what `sweep_strengths` gives: 0-1 [4]
FACTORS = [(factor, 0.7 * factor) for factor in (0.25, 0.5, 0.75, 1, 1.25, 1.5)]
SWEEPS = {
    "ranks of `add_svd`": ("add_svd", [(WEIGHTS, rank) for rank in RANKS], "≥ 5 ×"),
    "ranks of `ties_svd`": ("ties_svd", [(WEIGHTS, rank) for rank in RANKS], "≥ 5 ×"),
    "ranks of `magnitude_prune_svd`": ("magnitude_prune_svd", [(WEIGHTS, rank) for rank in RANKS], "≥ 5 ×"),
    "densities of `magnitude_prune_svd`": ("magnitude_prune_svd", [(WEIGHTS, d) for d in DENSITIES], "≥ 3 ×"),
    "pairs of strengths of `add_svd`": ("add_svd", [(pair, {}) for pair in STRENGTHS], "≥ 2 ×"),
    "pairs of strengths of `ties_svd`": ("ties_svd", [(pair, {}) for pair in STRENGTHS], "≥ 3 ×"),
    "factors on all strengths of `ties_svd`": ("ties_svd", [(pair, {}) for pair in FACTORS], ""),
}


@pytest.fixture(scope="module")
def seconds_of_svd() -> float:
    """CPU seconds of the thin SVD of all deltas of one cell."""
    model = Model(layouts.sd15(), 16)
    return model.seconds(lambda shape: torch.linalg.svd(model.layers[shape][0].delta(), full_matrices=False))


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweep_against_cells_alone(pairs, files, seconds_of_svd, sweep):
    mode, cells, target = SWEEPS[sweep]
    recipes = [
        make_recipe([LoraUse(path, w, w) for path, w in zip(files["sd15"], weights, strict=True)], mode, options)
        for weights, options in cells
    ]
    merge(recipes[0], device="cpu", workers=1)  # a first run, which is not counted
    results: list[dict[str, torch.Tensor]] = []

    def shared() -> None:
        cache = MergeCache(LIMIT)
        results[:] = [dict(cache.merge(recipe, device="cpu").tensors) for recipe in recipes]
        assert cache.all_bytes <= LIMIT

    def alone() -> None:
        results[:] = [merge(recipe, device="cpu")[0] for recipe in recipes]

    other, expected = cpu_seconds(alone), list(results)
    mine = cpu_seconds(shared)
    for got, each in zip(results, expected, strict=True):
        assert got.keys() == each.keys()
        assert all(torch.equal(got[name], each[name]) for name in each)
    if mode == "add_svd":  # short enough to be repeated
        runs = [(cpu_seconds(alone), cpu_seconds(shared)) for _ in range(5)]
        other, mine = sorted(runs, key=lambda run: run[0] / run[1])[2]
    pairs.benchmark.pedantic(lambda: None)
    what = f"{len(cells)} {sweep}"
    pairs.rows.append(Row(what, mine, "each cell alone", other, "CPU s", other / mine, target))
    svd = sum(any(weights) for weights, _ in cells) * seconds_of_svd
    pairs.rows.append(Row(what, mine, "thin `torch.linalg.svd` per cell", svd, "CPU s", svd / mine, "≥ 50 ×"))


def cpu_seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
