"""What is done to one layer, against the obvious way, over all layers of real models.

Every distinct shape is measured once a round and counts as often as the model has it.
"""

import time
from collections import Counter

import pytest
import torch

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.lowrank import concat, row_space, truncate, truncate_dense
from lib_pm.core.registry import MODES
from lib_pm.core.steps import keep_largest_
from tests import layouts
from tests.bench.conftest import Row

WEIGHTS = (1.0, 0.7)
THIN_SVD = "thin `torch.linalg.svd`"


def layers_of(shape: tuple[int, ...], rank: int, count: int = 2) -> list[Layer]:
    out, inner, *kernel = shape
    columns = inner * (kernel[0] * kernel[1] if kernel else 1)
    layer_shape = LayerShape(out, inner, tuple(kernel))
    return [
        Layer(layer_shape, torch.randn(out, rank) * 0.02, torch.randn(rank, columns) * 0.1, 0.5) for _ in range(count)
    ]


class Model:
    """All shapes of a model, with LoRAs for each; times work over them."""

    def __init__(self, shapes: layouts.Shapes, rank: int, count: int = 2) -> None:
        torch.manual_seed(0)
        self.counts = Counter(shapes.values())
        self.layers = {shape: layers_of(shape, rank, count) for shape in self.counts}

    def seconds(self, work) -> float:
        total = 0.0
        for shape, count in self.counts.items():
            start = time.process_time()
            work(shape)
            total += count * (time.process_time() - start)
        return total


def paired(pairs, model: Model, ours, yardstick, rounds: int = 3) -> tuple[float, float, float]:
    """Medians of ours and of the yardstick, and the median ratio yardstick / ours of the pairs."""
    results = []
    model.seconds(ours)  # a first run, which is not counted
    for _ in range(rounds):
        other = model.seconds(yardstick)
        results.append((model.seconds(ours), other))
    pairs.benchmark.pedantic(lambda: model.seconds(ours), rounds=1)
    ratios = sorted(other / mine for mine, other in results)
    return *(sorted(column)[rounds // 2] for column in zip(*results, strict=True)), ratios[rounds // 2]


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize(("name", "shapes", "rank"), [("SD1.5", layouts.sd15(), 16), ("SDXL", layouts.sdxl(), 32)])
def test_add_svd_against_svd(pairs, name, shapes, rank):
    model = Model(shapes, rank)
    dense = {shape: weighted_sum(layers) for shape, layers in model.layers.items()}

    def ours(shape):
        up, down, parts = concat(model.layers[shape], WEIGHTS)
        return truncate(up, down, rank, parts)

    for shape, matrix in dense.items():
        assert error(ours(shape), matrix) <= best_error(matrix, rank) * (1 + 1e-6)
    mine, other, ratio = paired(pairs, model, ours, lambda shape: torch.linalg.svd(dense[shape], full_matrices=False))
    what = f"`add_svd`, {name} rank {rank} × 2, {sum(model.counts.values())} layers"
    pairs.rows.append(Row(what, mine, THIN_SVD, other, "CPU s", ratio, "≥ 100 ×"))
    assert ratio >= 100


@pytest.mark.benchmark(timer=time.process_time)
def test_resize_against_svd(pairs):
    model = Model(layouts.sdxl(), 128, count=1)
    dense = {shape: layers[0].delta() for shape, layers in model.layers.items()}

    def ours(shape):
        return truncate(model.layers[shape][0].up, model.layers[shape][0].down, 32)

    for shape, matrix in dense.items():
        assert error(ours(shape), matrix / 0.5) <= best_error(matrix / 0.5, 32) * (1 + 1e-6)
    svd = lambda shape: torch.linalg.svd(dense[shape], full_matrices=False)  # noqa: E731
    mine, other, ratio = paired(pairs, model, ours, svd, rounds=1)
    pairs.rows.append(Row("resize, SDXL rank 128 to 32", mine, THIN_SVD, other, "CPU s", ratio, ""))


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("mode", ["ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd"])
def test_elementwise_modes_against_topk_and_svd(pairs, mode):
    """Merging the deltas and truncating, rank 16, density 0.5; the yardstick prunes by topk and takes the thin SVD."""
    model, rank = Model(layouts.sd15(), 16), 16
    method, weights = MODES[mode].method, torch.tensor(WEIGHTS)
    values = MODES[mode].values({"density": 0.5})

    def merged(shape):
        deltas = torch.stack([layer.delta() for layer in model.layers[shape]])
        return method(deltas, weights, [b"a", b"b"], values)

    def ours(shape):
        layers = model.layers[shape]
        return truncate_dense(merged(shape), rank, row_space(layers, WEIGHTS, rank, b"a"))

    def yardstick(shape):
        pruned = [layer.delta() for layer in model.layers[shape]]
        if not method.random:
            pruned = [prune_by_topk(delta, 0.5) for delta in pruned]
        return torch.linalg.svd(pruned[0] + 0.7 * pruned[1], full_matrices=False)

    for shape in model.counts:
        matrix = merged(shape)
        assert error(ours(shape), matrix) <= best_error(matrix, rank) * (1 + 1e-3)
    mine, other, ratio = paired(pairs, model, ours, yardstick, rounds=1)
    yardstick_name = THIN_SVD if method.random else f"`topk`, mask, {THIN_SVD}"
    pairs.rows.append(Row(f"`{mode}`, SD1.5 rank 16 × 2, 264 layers", mine, yardstick_name, other, "CPU s", ratio, ""))


@pytest.mark.benchmark(timer=time.process_time)
def test_threshold_against_topk(pairs):
    delta = torch.randn(10240, 1280)
    assert torch.equal(keep_largest_(delta[None], 0.5)[0], prune_by_topk(delta, 0.5))
    mine, other, ratio = pairs.run(
        lambda: keep_largest_(delta[None], 0.5), lambda: prune_by_topk(delta, 0.5), time.process_time, 7
    )
    pairs.rows.append(Row("largest half of 13 M values", mine, "`topk` and a mask", other, "CPU s", 1 / ratio, ""))


def prune_by_topk(delta: torch.Tensor, density: float) -> torch.Tensor:
    flat = delta.reshape(-1)
    mask = torch.zeros_like(flat)
    mask[torch.topk(flat.abs(), int(density * flat.numel())).indices] = 1
    return (flat * mask).reshape(delta.shape)


def weighted_sum(layers: list[Layer]) -> torch.Tensor:
    return sum(weight * layer.delta() for weight, layer in zip(WEIGHTS, layers, strict=True))


def error(found, matrix: torch.Tensor) -> float:
    return float((found.up.double() @ found.down.double() - matrix).norm())


def best_error(matrix: torch.Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(matrix.double())[rank:].norm())
