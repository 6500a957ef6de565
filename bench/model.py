"""Layers of every shape that a real model has, and how far an approximation of one is from the best."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from lib_pm.core.layers import Layer, LayerShape
from tests import layouts

WEIGHTS = (1.0, 0.7)


def layers_of(shape: tuple[int, ...], rank: int, count: int = 2) -> list[Layer]:
    out, inner, *kernel = shape
    columns = inner * (kernel[0] * kernel[1] if kernel else 1)
    layer_shape = LayerShape(out, inner, tuple(kernel))
    return [
        Layer(layer_shape, torch.randn(out, rank) * 0.02, torch.randn(rank, columns) * 0.1, 0.5) for _ in range(count)
    ]


class Model:
    """All shapes of a model, with LoRAs for each; times work over them.

    Every distinct shape is measured once and counts as often as the model has it.
    """

    def __init__(self, shapes: layouts.Shapes, rank: int, count: int = 2) -> None:
        torch.manual_seed(0)
        self.counts = Counter(shapes.values())
        self.layers = {shape: layers_of(shape, rank, count) for shape in self.counts}

    def seconds(self, work: Callable[[tuple[int, ...]], object]) -> float:
        total = 0.0
        for shape, count in self.counts.items():
            start = time.process_time()
            work(shape)
            total += count * (time.process_time() - start)
        return total


def error(up: Tensor, down: Tensor, matrix: Tensor) -> float:
    return float((up.double() @ down.double() - matrix).norm())


def best_error(matrix: Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(matrix.double())[rank:].norm())
