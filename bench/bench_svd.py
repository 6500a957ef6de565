"""The modes that merge dense deltas, whole jobs of SD1.5 size: rank 16 × 2, density 0.5."""

from pathlib import Path

import pytest
import torch

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from bench.conftest import Row, children_cpu, run_process, wall
from bench.model import WEIGHTS, Model, best_error, error
from lib_pm.core.merge_layer import merge_layer
from lib_pm.core.registry import MODES
from lib_pm.core.shares import Share
from lib_pm.core.truncation import EXCESS
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests import layouts

PLAIN = Path(__file__).with_name("plain.py")
RANK = 16


@pytest.mark.benchmark(timer=children_cpu)
@pytest.mark.parametrize("mode", ["ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd"])
def test_against_pefts_function_and_thin_svd(pairs, files, tmp_path, mode):
    excesses = excesses_of(mode)
    assert all(excesses[precision] <= EXCESS[precision] for precision in EXCESS)
    one, two = files["sd15"]
    command = ["-m", "lib_pm", "merge", f"{one}:1", f"{two}:0.7", "--mode", mode, "--density", 0.5, "--svd-rank", RANK]
    ours = [*command, "-o", tmp_path / "out.safetensors", "--overwrite", "--quiet"]
    plain = (PLAIN, mode, RANK, tmp_path / "plain.safetensors", one, two)
    mine, other, _ = pairs.run(lambda: run_process(*ours), lambda: run_process(*plain), children_cpu, 1, warmup=0)
    start = children_cpu()
    run_process(*ours, "--exact")
    exact = children_cpu() - start
    yardstick = f"PEFT's `{mode.removesuffix('_svd')}`, thin `torch.linalg.svd`"
    for flag, own, excess, target in (
        ("", mine, excesses["normal"], "≥ 15 ×"),
        (" --exact", exact, excesses["exact"], ""),
    ):
        what = f"whole `{mode}{flag}`, SD1.5 rank 16 × 2, excess error {excess:.0e}"
        pairs.rows.append(Row(what, own, yardstick, other, "CPU s", other / own, target))


def excesses_of(mode: str) -> dict[str, float]:
    """Return the largest excess over the best rank-k error, over all shapes of the model, per precision."""
    model, excesses = Model(layouts.sd15(), RANK), dict.fromkeys(EXCESS, 0.0)
    values = MODES[mode].values({"density": 0.5, "svd_rank": RANK})
    where = torch.device("cpu"), torch.float32
    for layers in model.layers.values():
        shares = [Share(x, w, bytes([i])) for i, (x, w) in enumerate(zip(layers, WEIGHTS, strict=True))]
        matrix = merge_layer(MODES[mode], "layer", shares, {**values, "svd_rank": None}, *where).delta
        best = best_error(matrix, RANK)
        for precision in EXCESS:
            found = merge_layer(MODES[mode], "layer", shares, values, *where, precision=precision).layer
            excesses[precision] = max(excesses[precision], error(found.up, found.down, matrix) / best - 1)
    return excesses


@pytest.mark.benchmark(timer=wall)
def test_two_workers_against_one(pairs, files):
    uses = [LoraUse(path, weight, weight) for path, weight in zip(files["sd15"], WEIGHTS, strict=True)]
    recipe = make_recipe(uses, "ties_svd", {"svd_rank": RANK})
    one, two = (merge(recipe, device="cpu", workers=workers)[0] for workers in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    mine, other, ratio = pairs.run(
        lambda: merge(recipe, device="cpu", workers=2), lambda: merge(recipe, device="cpu", workers=1), wall, 3
    )
    what = "`ties_svd`, SD1.5 rank 16 × 2, on two threads"
    pairs.rows.append(Row(what, mine, "on one", other, "s", 1 / ratio, "≥ 1.6 × on two idle cores"))
