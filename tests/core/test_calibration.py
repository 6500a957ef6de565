"""Calibrated layers against dense least squares on explicit inputs, written apart; and what holds for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.calibration import (
    RIDGE,
    Core,
    Statistics,
    best_factor,
    best_factors,
    merged,
    solve,
    truncated,
)
from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.merge_layer import merge_layer
from lib_pm.core.registry import MODES
from lib_pm.core.shares import Share

OUT, INNER, TOKENS = 14, 20, 200
LINEAR = LayerShape(OUT, INNER)


@dataclass(frozen=True)
class Case:
    """LoRAs at a layer, and its inputs: x of each alone, and x̃ of the merge, (tokens, columns) float64."""

    shares: list[Share]
    alone: list[Tensor]
    together: Tensor

    @property
    def core(self) -> Core:
        core = Core.of(self.shares)
        assert core
        return core

    def statistics(self) -> Statistics:
        """As a probe would: block i of z from the inputs of LoRA i alone."""
        core = self.core
        pairs = [(share, x) for share, x in zip(self.shares, self.alone, strict=True) if share.weight]
        pairs.sort(key=lambda pair: (pair[0].content, pair[0].weight))
        alone = [x @ block.T for (_, x), block in zip(pairs, core.blocks(core.down), strict=True)]
        return Statistics.of(core, torch.cat(alone, 1), self.together @ core.down.T)

    def wanted(self) -> Tensor:
        """Σ wᵢ·ΔWᵢ·xᵢ, (tokens, out)."""
        return sum(share.weight * x @ dense(share.layer).T for share, x in zip(self.shares, self.alone, strict=True))  # type: ignore[return-value]

    def plain_sum(self) -> Tensor:
        return sum(share.weight * dense(share.layer) for share in self.shares)  # type: ignore[return-value]


def dense(layer: Layer) -> Tensor:
    return layer.scale * layer.up.double() @ layer.down.double()


def case(
    seed: int = 0,
    ranks: Sequence[int] = (4, 2, 3),
    weights: Sequence[float] = (1.0, -0.7, 2.0),
    *,
    drift: float = 0.5,
    tokens: int = TOKENS,
    shape: LayerShape = LINEAR,
) -> Case:
    """Random LoRAs of uneven sizes; inputs with few strong directions, as activations have, and their own for each."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    shares = [
        Share(
            Layer(shape, normal(shape.out, r).float(), (10**i * normal(r, shape.columns)).float(), 0.5 + i),
            weight,
            bytes([7 * i % 5]),
        )
        for i, (r, weight) in enumerate(zip(ranks, weights, strict=True))
    ]
    strong = torch.linspace(2, 0.1, shape.columns, dtype=torch.float64)
    x = normal(tokens, shape.columns) * strong
    return Case(shares, [x + drift * normal(tokens, shape.columns) for _ in ranks], x + drift * normal(*x.shape))


CASES = {
    "three LoRAs": case(),
    "two": case(1, (3, 5), (1.0, 1.0)),
    "four, together wider than the input": case(2, (6, 6, 6, 6), (1.0, 1.0, 1.0, 1.0)),
    "a convolution": case(3, shape=LayerShape(9, 4, (3, 3))),
}
cases = pytest.mark.parametrize("name", CASES)


def solved(name: str, ridge: float = RIDGE) -> Tensor:
    """ΔW as the code has it."""
    one = CASES[name]
    return dense(merged(one.core, solve(one.statistics(), ridge), torch.float64))


def by_least_squares(one: Case, ridge: float) -> Tensor:
    """ΔW = M·A for the M that numpy's least squares find, ρ as further equations."""
    downs = [share.layer.down.double() for share in one.shares]
    lengths = torch.cat([down.norm(dim=1) for down in downs])
    down = torch.cat(downs) / lengths[:, None]
    up = torch.cat([s.weight * s.layer.scale * s.layer.up.double() for s in one.shares], 1) * lengths
    seen = one.together @ down.T
    rho = ridge * float((seen**2).sum()) / len(down)
    left = np.vstack([seen, np.sqrt(rho) * np.eye(len(down))])
    right = np.vstack([one.wanted(), np.sqrt(rho) * up.T])
    found, *_ = np.linalg.lstsq(left, right, rcond=None)
    return torch.from_numpy(found.T) @ down


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@cases
@pytest.mark.parametrize("ridge", [1e-3, RIDGE, 3.0])
def test_it_is_the_least_squares_solution(name: str, ridge: float) -> None:
    assert error(solved(name, ridge), by_least_squares(CASES[name], ridge)) < 1e-9


@cases
def test_it_adds_more_of_what_the_loras_added_alone_than_the_sum_does(name: str) -> None:
    one = CASES[name]
    left, before = ((one.together @ delta.T - one.wanted()).norm() for delta in (solved(name), one.plain_sum()))
    assert left < 0.97 * before


@cases
def test_without_ridge_nothing_in_the_core_comes_nearer(name: str) -> None:
    one = CASES[name]
    residual = one.together @ solved(name, 0.0).T - one.wanted()
    seen = one.together @ one.core.down.T
    assert float((residual.T @ seen).norm()) < 1e-9 * float(one.wanted().norm() * seen.norm())


@cases
def test_an_endless_ridge_is_the_plain_sum(name: str) -> None:
    assert error(solved(name, 1e12), CASES[name].plain_sum()) < 1e-9


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), rank=st.integers(1, 30), weight=st.floats(-3, 3).filter(bool), ridge=st.floats(0, 9))
def test_one_lora_at_any_strength_is_itself_to_the_bit(seed: int, rank: int, weight: float, ridge: float) -> None:
    one = case(seed, [rank], [weight], tokens=20)
    one = replace(one, alone=[one.together])  # its run alone is the run of the merge
    layer = merged(one.core, solve(one.statistics(), ridge))
    concat = merge_layer(MODES["concat"], "x", one.shares, {"lambda": 1.0}, torch.device("cpu"), torch.float32)
    assert concat
    assert torch.equal(layer.up, concat.layer.up)
    assert torch.equal(layer.down, concat.layer.down)


def test_order_does_not_matter_to_the_bit() -> None:
    one = CASES["three LoRAs"]
    layers = []
    for order in itertools.permutations(range(3)):
        other = Case([one.shares[i] for i in order], [one.alone[i] for i in order], one.together)
        layers.append(merged(other.core, solve(other.statistics())))
    assert all(torch.equal(layer.up, layers[0].up) and torch.equal(layer.down, layers[0].down) for layer in layers)


def test_weight_zero_is_absent() -> None:
    three, two = case(weights=(1.0, 0.0, 2.0)), CASES["three LoRAs"]
    two = Case([three.shares[0], three.shares[2]], [two.alone[0], two.alone[2]], two.together)
    results = [merged(one.core, solve(one.statistics())) for one in (three, two)]
    assert torch.equal(results[0].up, results[1].up)
    assert results[0].rank == 7
    assert Core.of([replace(share, weight=0.0) for share in three.shares]) is None


def test_statistics_add_up() -> None:
    one = CASES["three LoRAs"]
    halves = [
        Case(one.shares, [x[part] for x in one.alone], one.together[part]).statistics()
        for part in (slice(0, 77), slice(77, None))
    ]
    total, whole = halves[0] + halves[1], one.statistics()
    assert total.tokens == whole.tokens == TOKENS
    for field in ("second", "shift", "moved", "size"):
        torch.testing.assert_close(getattr(total, field), getattr(whole, field), rtol=1e-12, atol=1e-9)


@cases
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_truncation_for_outputs_is_the_best_for_outputs(name: str, rank: int) -> None:
    one = CASES[name]
    statistics = one.statistics()
    change = solve(statistics)
    whole = dense(merged(one.core, change, torch.float64))
    cut = truncated(one.core, change, statistics.second, rank, ridge=0.0)
    assert cut.up.shape == (one.core.shape.out, rank)
    outputs = one.together @ whole.T
    best = float(torch.linalg.svdvals(outputs)[rank:].norm())
    assert float((one.together @ (cut.up @ cut.down).T - outputs).norm()) == pytest.approx(best, rel=1e-6)
    assert 1 - cut.kept / cut.total == pytest.approx(best**2 / float(outputs.norm()) ** 2, rel=1e-6)


@cases
def test_truncation_with_an_endless_ridge_is_the_best_for_weights(name: str) -> None:
    one = CASES[name]
    statistics = one.statistics()
    change = solve(statistics)
    whole = dense(merged(one.core, change, torch.float64))
    cut = truncated(one.core, change, statistics.second, 3, ridge=1e9)
    best = float(torch.linalg.svdvals(whole)[3:].norm())
    assert float((cut.up @ cut.down - whole).norm()) == pytest.approx(best, rel=1e-6)


def test_truncation_without_any_input_is_the_best_for_weights() -> None:
    one = CASES["three LoRAs"]
    nothing = torch.zeros(sum(one.core.ranks), sum(one.core.ranks))
    cut = truncated(one.core, nothing, nothing, 3)
    best = float(torch.linalg.svdvals(one.plain_sum())[3:].norm())
    assert float((cut.up @ cut.down - one.plain_sum()).norm()) == pytest.approx(best, rel=1e-6)


@cases
def test_nothing_is_cut_at_the_full_rank(name: str) -> None:
    one = CASES[name]
    statistics = one.statistics()
    change = solve(statistics)
    whole = dense(merged(one.core, change, torch.float64))
    cut = truncated(one.core, change, statistics.second, 99)
    assert error(cut.up @ cut.down, whole) < 1e-9


@cases
def test_drift_is_what_the_merge_does_to_what_the_loras_see(name: str) -> None:
    one = CASES[name]
    moved, size = [], []
    for share, x in sorted(zip(one.shares, one.alone, strict=True), key=lambda pair: pair[0].content):
        rows = share.layer.down.double() / share.layer.down.double().norm(dim=1, keepdim=True)
        moved.append(float(((one.together - x) @ rows.T).square().sum()))
        size.append(float((x @ rows.T).square().sum()))
    statistics = one.statistics()
    assert statistics.drift == pytest.approx(sum(moved) / sum(size))
    assert statistics.drifts == pytest.approx([a / b for a, b in zip(moved, size, strict=True)])


@cases
def test_best_factors_are_the_least_squares_ones(name: str) -> None:
    one = CASES[name]
    wanted = one.wanted().flatten().numpy()
    effects = [
        (share.weight * one.together @ dense(share.layer).T).flatten().numpy()
        for share in sorted(one.shares, key=lambda share: share.content)
    ]
    each, *_ = np.linalg.lstsq(np.stack(effects, 1), wanted, rcond=None)
    (common,), *_ = np.linalg.lstsq(sum(effects)[:, None], wanted, rcond=None)
    assert best_factor(one.core, one.statistics()) == pytest.approx(common)
    assert best_factors(one.core, one.statistics(), ridge=0.0) == pytest.approx(each)


def _dead(layer: Layer) -> Layer:
    down = layer.down.clone()
    down[1] = 0
    return replace(layer, down=down)


def _same_twice() -> Case:
    one = case()
    return replace(one, shares=[one.shares[0], replace(one.shares[0], weight=0.4), one.shares[2]])


def _with_dead_row() -> Case:
    one = case()
    return replace(one, shares=[replace(one.shares[0], layer=_dead(one.shares[0].layer)), *one.shares[1:]])


HARD = {
    "a dead row": _with_dead_row(),
    "the same LoRA twice": _same_twice(),
    "fewer tokens than rank": case(tokens=3),
    "no inputs": replace(case(), alone=[torch.zeros(TOKENS, INNER)] * 3, together=torch.zeros(TOKENS, INNER)),
    "nothing in the merge": replace(case(), together=torch.zeros(TOKENS, INNER, dtype=torch.float64)),
    "one input direction": replace(case(), together=case().together[:, :1] * torch.ones(1, INNER)),
    "alpha 0": replace(
        case(), shares=[replace(share, layer=replace(share.layer, scale=0.0)) for share in case().shares]
    ),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("ridge", [0.0, RIDGE])
def test_hard_cases_are_solved_and_never_worse_than_the_sum(name: str, ridge: float) -> None:
    one = replace(HARD[name], alone=[x.double() for x in HARD[name].alone], together=HARD[name].together.double())
    statistics = one.statistics()
    change = solve(statistics, ridge)
    delta = dense(merged(one.core, change, torch.float64))
    cut = truncated(one.core, change, statistics.second, 2, ridge)
    numbers = [
        best_factor(one.core, statistics),
        *best_factors(one.core, statistics, ridge),
        statistics.drift,
        *statistics.drifts,
    ]
    assert all(bool(some.isfinite().all()) for some in (delta, cut.up, cut.down, torch.tensor(numbers)))
    left, before = ((one.together @ some.T - one.wanted()).norm() for some in (delta, one.plain_sum()))
    assert left <= before + 1e-9
    if name in ("no inputs", "nothing in the merge"):  # no input says anything: the sum as it is
        assert torch.equal(change, torch.zeros_like(change))
        assert numbers[0] == 1.0


def test_two_of_a_kind_share_what_is_asked() -> None:
    one = _same_twice()
    assert error(dense(merged(one.core, solve(one.statistics()), torch.float64)), by_least_squares(one, RIDGE)) < 1e-9
