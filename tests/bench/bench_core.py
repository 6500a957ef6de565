"""The sum of low-rank deltas at a lower rank, against the SVD of the dense sum, over all layers of real models."""

import time
from collections import Counter

import pytest
import torch

from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.lowrank import concat, truncate
from tests import layouts
from tests.bench.conftest import Row


def pair_of_layers(shape: tuple[int, ...], rank: int) -> list[Layer]:
    out, inner, *kernel = shape
    columns = inner * (kernel[0] * kernel[1] if kernel else 1)
    return [
        Layer(
            LayerShape(out, inner, tuple(kernel)), torch.randn(out, rank) * 0.02, torch.randn(rank, columns) * 0.1, 0.5
        )
        for _ in range(2)
    ]


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize(("model", "shapes", "rank"), [("SD1.5", layouts.sd15(), 16), ("SDXL", layouts.sdxl(), 32)])
def test_add_svd_core_against_full_svd(pairs, model, shapes, rank):
    """Every distinct shape is decomposed once and counts as often as the model has it."""
    torch.manual_seed(0)
    counts = Counter(shapes.values())
    layers = {shape: pair_of_layers(shape, rank) for shape in counts}
    dense = {shape: sum(w * x.delta() for w, x in zip((1.0, 0.7), layers[shape], strict=True)) for shape in counts}
    seconds = {"ours": 0.0, "svd": 0.0}

    def timed(name, work):
        def run():
            total = 0.0
            for shape, count in counts.items():
                start = time.process_time()
                work(shape)
                total += count * (time.process_time() - start)
            seconds[name] = total

        return run

    def ours(shape):
        up, down, parts = concat(layers[shape], (1.0, 0.7))
        return truncate(up, down, rank, parts)

    def full(shape):
        return torch.linalg.svd(dense[shape], full_matrices=False)

    for shape, matrix in dense.items():
        found, values = ours(shape), torch.linalg.svdvals(matrix.double())
        error = float((found.up @ found.down - matrix).norm())
        assert error <= float(values[rank:].norm()) * (1 + 1e-6)

    ratios = []
    for _ in range(3):
        timed("svd", full)()
        timed("ours", ours)()
        ratios.append(seconds["svd"] / seconds["ours"])
    pairs.benchmark.pedantic(timed("ours", ours), rounds=3)
    ratio = sorted(ratios)[1]
    what = f"`add_svd` core, {model} rank {rank} × 2, {sum(counts.values())} layers"
    pairs.rows.append(Row(what, seconds["ours"], "thin `torch.linalg.svd`", seconds["svd"], "CPU s", ratio, "≥ 100 ×"))
    assert ratio >= 100
