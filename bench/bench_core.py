"""What is done to one layer, against the obvious way, over all layers of real models."""

import statistics
import time

import pytest
import torch

from bench.conftest import Row
from bench.model import WEIGHTS, Model, best_error, error
from lib_pm.core.layers import Layer
from lib_pm.core.lowrank import concat, truncate
from lib_pm.core.steps import keep_largest_
from tests import layouts


def against_svd(pairs, model: Model, what: str, ours, dense, target: str) -> None:
    """Rows of ours, before and after, against the full and against the thin SVD of the dense matrices."""
    for name, full, wanted in (("full", True, target), ("thin", False, "")):
        model.seconds(ours)  # not counted
        mine = [model.seconds(ours) for _ in range(5)]
        other = model.seconds(lambda shape, full=full: torch.linalg.svd(dense[shape], full_matrices=full))
        own = statistics.median(mine + [model.seconds(ours) for _ in range(5)])
        pairs.rows.append(Row(what, own, f"{name} `torch.linalg.svd`", other, "CPU s", other / own, wanted))
    pairs.benchmark.pedantic(lambda: model.seconds(ours), rounds=1)


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize(
    ("name", "shapes", "rank", "target"),
    [("SD1.5", layouts.sd15(), 16, "≥ 250 ×"), ("SDXL", layouts.sdxl(), 32, "≥ 500 ×")],
)
def test_add_svd_against_svd(pairs, name, shapes, rank, target):
    model = Model(shapes, rank)
    dense = {shape: weighted_sum(layers) for shape, layers in model.layers.items()}

    def ours(shape):
        up, down, parts = concat(model.layers[shape], WEIGHTS)
        return truncate(up, down, rank, parts)

    for shape, matrix in dense.items():
        found = ours(shape)
        assert error(found.up, found.down, matrix) <= best_error(matrix, rank) * (1 + 1e-6)
    what = f"`add_svd`, {name} rank {rank} × 2, {sum(model.counts.values())} layers"
    against_svd(pairs, model, what, ours, dense, target)


@pytest.mark.benchmark(timer=time.process_time)
def test_resize_against_svd(pairs):
    model = Model(layouts.sdxl(), 128, count=1)
    dense = {shape: layers[0].up @ layers[0].down for shape, layers in model.layers.items()}

    def ours(shape):
        return truncate(model.layers[shape][0].up, model.layers[shape][0].down, 32)

    for shape, matrix in dense.items():
        found = ours(shape)
        assert error(found.up, found.down, matrix) <= best_error(matrix, 32) * (1 + 1e-6)
    against_svd(pairs, model, "resize, SDXL rank 128 to 32", ours, dense, "≥ 200 ×")


@pytest.mark.benchmark(timer=time.process_time)
def test_threshold_against_topk(pairs):
    delta = torch.randn(10240, 1280)
    assert torch.equal(keep_largest_(delta[None].clone(), 0.5)[0], prune_by_topk(delta, 0.5))
    mine, other, ratio = pairs.run(
        lambda: keep_largest_(delta[None].clone(), 0.5), lambda: prune_by_topk(delta, 0.5), time.process_time, 7
    )
    pairs.rows.append(Row("largest half of 13 M values", mine, "`topk` and a mask", other, "CPU s", 1 / ratio, "≥ 6 ×"))


def prune_by_topk(delta: torch.Tensor, density: float) -> torch.Tensor:
    flat = delta.reshape(-1)
    mask = torch.zeros_like(flat)
    mask[torch.topk(flat.abs(), int(density * flat.numel())).indices] = 1
    return (flat * mask).reshape(delta.shape)


def weighted_sum(layers: list[Layer]) -> torch.Tensor:
    return sum(weight * layer.delta() for weight, layer in zip(WEIGHTS, layers, strict=True))
