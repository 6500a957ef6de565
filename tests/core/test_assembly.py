"""Layers made of rows of others, against the rows of their deltas in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lib_pm.core.assembly import assemble
from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.rows import Rows


def layer(out: int, rank: int = 2, scale: float = 1.0, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Layer:
    generator = torch.Generator().manual_seed(1000 * seed + out)
    up, down = (torch.randn(*size, generator=generator).to(dtype) for size in ((out, rank), (rank, 5)))
    return Layer(LayerShape(out, 5), up, down, scale)


def whole(out: int) -> list[Rows]:
    return [Rows(0, out, 0)]


def delta(layer: Layer) -> Tensor:
    return layer.scale * layer.up.double() @ layer.down.double()


def expected(parts: Sequence[tuple[Layer, Sequence[Rows]]], out: int) -> Tensor:
    there = torch.zeros(out, 5, dtype=torch.float64)
    for part, pieces in parts:
        for rows in pieces:
            there[rows.to : rows.to + rows.count] = delta(part)[rows.first : rows.first + rows.count]
    return there


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (0.5, 2.0, 0.3)], ids=["one scale", "scales"])
def test_parts_below_each_other(scales: tuple[float, ...], dtype: torch.dtype) -> None:
    layers = [layer(out, out - 2, scale, dtype=dtype) for out, scale in zip((3, 4, 5), scales, strict=True)]
    parts = [(part, [Rows(0, part.shape.out, to)]) for part, to in zip(layers, (0, 3, 7), strict=True)]
    made = assemble(parts, 12)
    assert torch.allclose(delta(made), expected(parts, 12), rtol=1e-6, atol=0)
    assert made.rank == 6
    assert made.up.dtype == (torch.float32 if len(set(scales)) > 1 else dtype)


def test_what_is_missing_is_zero() -> None:
    parts = [(layer(3), whole(3)), (layer(4, seed=1), [Rows(0, 4, 8)])]
    made = assemble(parts, 12)
    assert torch.equal(delta(made), expected(parts, 12))
    assert not delta(made)[3:8].any()


def test_halves_that_change_places() -> None:
    parts = [(layer(6), [Rows(0, 3, 3), Rows(3, 3, 0)])]
    assert torch.equal(delta(assemble(parts, 6)), expected(parts, 6))


def test_to_cut_up_and_to_put_together_are_each_others_inverse() -> None:
    """Bit for bit, factors and scale, on both ways."""
    fused = layer(9, 4, 0.25)
    cut = [assemble([(fused, [Rows(to, 3, 0)])], 3) for to in (0, 3, 6)]
    again = assemble([(part, [Rows(0, 3, to)]) for part, to in zip(cut, (0, 3, 6), strict=True)], 9)
    assert torch.equal(again.up, fused.up)
    assert torch.equal(again.down, fused.down)
    assert again.scale == fused.scale
    parts = [layer(3, 2, 0.25, seed=seed) for seed in range(3)]
    together = assemble([(part, [Rows(0, 3, to)]) for part, to in zip(parts, (0, 3, 6), strict=True)], 9)
    assert together.rank == 6
    for part, first in zip(parts, (0, 3, 6), strict=True):
        apart = assemble([(together, [Rows(first, 3, 0)])], 3)
        assert torch.equal(apart.up, part.up)
        assert torch.equal(apart.down, part.down)


def test_a_layer_of_zeros_keeps_one_rank_component() -> None:
    zero = Layer(LayerShape(3, 5), torch.zeros(3, 2), torch.ones(2, 5))
    made = assemble([(zero, whole(3))], 6)
    assert made.rank == 1
    assert not delta(made).any()
