"""Low-rank algebra against a full SVD in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.lowrank import Truncated, balance, concat, truncate
from lib_pm.core.rng import random_signs
from lib_pm.core.truncation import EXCESS, row_space, truncate_dense

precisions = pytest.mark.parametrize("precision", EXCESS)


def layer(out: int, columns: int, rank: int, seed: int, scale: float = 1.0) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    return Layer(LayerShape(out, columns), up * 0.02, down * 0.1, scale)


def exact(layers: list[Layer], weights: list[float]) -> Tensor:
    return sum(w * x.scale * x.up.double() @ x.down.double() for w, x in zip(weights, layers, strict=True))


def product(found: Truncated) -> Tensor:
    return found.up.double() @ found.down.double()


def excess(found: Truncated, matrix: Tensor, rank: int) -> float:
    """How much larger the error is than the best rank-k error, relative to the whole matrix."""
    best = float(torch.linalg.svdvals(matrix)[rank:].norm())
    return (float((product(found) - matrix).norm()) - best) / float(matrix.norm())


@settings(deadline=None, max_examples=60)
@given(
    st.integers(3, 70),
    st.integers(3, 70),
    st.lists(st.tuples(st.integers(1, 9), st.floats(-3, 3), st.floats(0.01, 4)), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_truncate_is_the_best_approximation(out, columns, loras, rank):
    layers = [layer(out, columns, r, seed, scale) for seed, (r, _, scale) in enumerate(loras)]
    weights = [weight for _, weight, _ in loras]
    matrix = exact(layers, weights)
    if not matrix.norm() > 1e-6:
        return
    up, down, parts = concat(layers, weights)
    found = truncate(up, down, rank, parts)
    assert found.up.shape[1] == found.down.shape[0] <= min(rank, up.shape[1], out, columns)
    assert excess(found, matrix, rank) < 1e-9
    values = torch.linalg.svdvals(matrix)
    assert found.total == pytest.approx(float(values.square().sum()), rel=1e-6)
    assert found.kept == pytest.approx(float(values[:rank].square().sum()), rel=1e-6)


@pytest.mark.parametrize("small", [1e-12, 1e-6, 1.0])
@pytest.mark.parametrize("large", [1.0, 1e6])
def test_factors_of_very_different_size_lose_nothing(small, large):
    a, b = layer(200, 150, 6, 1), layer(200, 150, 6, 2)
    a = Layer(a.shape, a.up * small, a.down * large, 1.0)
    b = Layer(b.shape, b.up * large, b.down * small, 1.0)
    matrix = exact([a, b], [1.0, 0.5])
    up, down, parts = concat([a, b], [1.0, 0.5])
    assert excess(truncate(up, down, 12, parts), matrix, 12) < 1e-9
    assert excess(truncate(up, down, 5, parts), matrix, 5) < 1e-9


@pytest.mark.parametrize(("weights", "size"), [([1.0, 1.0], 2.0), ([1.0, -0.25], 0.75), ([1.0, -1.0], 0.0)])
def test_the_same_lora_twice(weights, size):
    a = layer(200, 150, 6, 1)
    up, down, parts = concat([a, a], weights)
    found = truncate(up, down, 12, parts)
    assert float((product(found) - size * exact([a], [1.0])).norm() / exact([a], [1.0]).norm()) < 1e-12
    assert bool(found.up.isfinite().all())
    assert bool(found.down.isfinite().all())


def test_nearly_the_same_lora_subtracted():
    a, b = layer(200, 150, 6, 1), layer(200, 150, 6, 2)
    near = Layer(a.shape, a.up + 1e-5 * b.up, a.down, 1.0)
    up, down, parts = concat([a, near], [1.0, -1.0])
    assert excess(truncate(up, down, 4, parts), exact([a, near], [1.0, -1.0]), 4) < 1e-8


def test_zero_layers_stay_zero():
    a = layer(60, 50, 4, 1)
    zero = Layer(a.shape, torch.zeros_like(a.up), a.down, 1.0)
    for layers in ([zero], [zero, zero]):
        assert not product(truncate(*concat(layers, [1.0] * len(layers))[:2], 3)).any()
    up, down, parts = concat([zero, a], [1.0, 1.0])
    assert excess(truncate(up, down, 3, parts), exact([a], [1.0]), 3) < 1e-9


def test_singular_values_are_split_evenly():
    a = layer(90, 70, 8, 1)
    found = truncate(a.up, a.down, 5)
    values = torch.linalg.svdvals(exact([a], [1.0]))[:5]
    for factor in (found.up.T, found.down):
        torch.testing.assert_close(factor @ factor.T, torch.diag(values), atol=1e-10, rtol=1e-10)


def test_a_rule_sees_all_singular_values_and_chooses():
    a = layer(90, 70, 8, 1)
    seen = []

    def rule(values: Tensor) -> int:
        seen.append(values)
        return 3

    assert truncate(a.up, a.down, rule).up.shape[1] == 3
    torch.testing.assert_close(seen[0], torch.linalg.svdvals(exact([a], [1.0]))[:8])


@pytest.mark.parametrize("shape", [(40, 300), (300, 300), (900, 320), (320, 900)])
@pytest.mark.parametrize("rank", [4, 32])
@precisions
def test_dense_truncation_is_as_near_even_without_any_structure(shape, rank, precision):
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    best = float(torch.linalg.svdvals(noise.double())[rank:].norm())
    start = random_signs(shape[1], rank, b"x") if min(shape) >= 4 * rank else None
    found = truncate_dense(noise, rank, start, precision)
    assert float((product(found) - noise).norm()) < (1 + EXCESS[precision]) * best


@precisions
@pytest.mark.parametrize("spectrum", ["1/i", "1/i²", "exponential", "a step", "ten large, the rest alike"])
@pytest.mark.parametrize("rank", [8, 32])
def test_dense_truncation_of_every_spectrum_from_a_start_that_says_nothing(spectrum, rank, precision):
    i, generator = torch.arange(1.0, 421), torch.Generator().manual_seed(1)
    values = {
        "1/i": 1 / i,
        "1/i²": i**-2,
        "exponential": torch.exp(-i / 20),
        "a step": torch.where(i <= 40, 1.0, 0.5),
        "ten large, the rest alike": torch.where(i <= 10, 10.0, 1.4 - i / 1000),
    }[spectrum].double()
    left, right = (
        torch.linalg.qr(torch.randn(size, 420, generator=generator, dtype=torch.float64)).Q for size in (500, 420)
    )
    delta = ((left * values) @ right.T).float()
    exact = torch.linalg.svdvals(delta.double())
    found = truncate_dense(delta, rank, random_signs(420, rank, b"x"), precision)
    for smaller in (1, rank // 3, rank):
        error = float((product(found.first(smaller)) - delta).norm())
        assert error < (1 + EXCESS[precision]) * float(exact[smaller:].norm())


@pytest.mark.parametrize("rank", [8, 16, 32])
@pytest.mark.parametrize("decay", [0.0, 4.0])
@pytest.mark.parametrize("second", ["other", "subtracted", "nearly the same, subtracted"])
@precisions
def test_dense_truncation_of_a_pruned_sum_is_within_its_precision(rank, decay, second, precision):
    """Spectra flat and falling, LoRAs that add up or cancel: the range finder goes on as long as it must."""
    a, b = layer(640, 500, 16, 1), layer(640, 500, 16, 2)
    fall = torch.exp(-decay * torch.arange(16) / 16)
    a, b = (Layer(x.shape, x.up * fall, x.down, x.scale) for x in (a, b))
    if second.startswith("nearly"):
        b = Layer(a.shape, a.up + 0.1 * b.up, a.down + 0.1 * b.down, 1.0)
    weights = [1.0, 0.7 if second == "other" else -0.9]
    deltas = [weight * x.delta() for weight, x in zip(weights, (a, b), strict=True)]
    delta = sum(x * (x.abs() > x.abs().median()) for x in deltas)
    values = torch.linalg.svdvals(delta.double())
    best = float(values[rank:].norm())
    found = truncate_dense(delta, rank, row_space([a, b], weights, rank, b"x"), precision)
    assert float((product(found) - delta).norm()) < (1 + EXCESS[precision]) * best
    assert found.total == pytest.approx(float(values.square().sum()), rel=1e-5)
    assert found.total - found.kept == pytest.approx(best**2, rel=3e-3)


def test_dense_truncation_repeats_itself():
    layers = [layer(640, 500, 6, 1)]
    first, second = (truncate_dense(layers[0].delta(), 8, row_space(layers, [1.0], 8, b"x")) for _ in range(2))
    assert torch.equal(first.up, second.up)
    assert torch.equal(first.down, second.down)


@given(st.integers(-40, 40), st.integers(-40, 40))
def test_balance_changes_no_bit_of_the_product(up_power, down_power):
    a = layer(12, 9, 3, 1)
    up, down = a.up * 2.0**up_power, a.down * 2.0**down_power
    up[:, 1] = 0
    even_up, even_down = balance(up, down)
    assert torch.equal(even_up.double() @ even_down.double(), up.double() @ down.double())
    for component in (0, 2):
        ratio = float(even_up[:, component].abs().max() / even_down[component].abs().max())
        assert 1 / 4 <= ratio <= 4


def test_balance_stays_within_what_fp16_can_hold():
    a = layer(12, 9, 3, 1)
    up, down = balance((a.up * 1e-3).half(), (a.down * 1e4).half())
    assert bool(up.isfinite().all())
    assert bool(down.isfinite().all())
    expected = (a.up * 1e-3).half().double() @ (a.down * 1e4).half().double()
    torch.testing.assert_close(up.double() @ down.double(), expected, rtol=1e-2, atol=1e-2)


def test_balance_takes_the_parts_in():
    a = layer(12, 9, 3, 1)
    parts = torch.tensor([1e-9, -2.0, 0.0], dtype=torch.float64)
    up, down = balance(a.up, a.down, parts)
    torch.testing.assert_close(
        up.double() @ down.double(), (a.up * parts).double() @ a.down.double(), rtol=1e-6, atol=0
    )
    assert 1 / 4 <= float(up[:, 0].abs().max() / down[0].abs().max()) <= 4


def test_a_start_from_more_components_than_columns(monkeypatch):
    """The leading row space is the same, and no matrix is larger than the columns ask for."""
    sizes = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or eigh(matrix))
    generator = torch.Generator().manual_seed(0)
    shape = LayerShape(300, 260)
    leading = torch.randn(8, 260, generator=generator)
    down = torch.cat([leading, 1e-3 * torch.randn(2000, 260, generator=generator)])
    start = row_space([Layer(shape, torch.ones(300, 2008), down)], [1.0], 32, b"seed")
    assert sizes == [260]
    basis = torch.linalg.qr(start.double()).Q
    inside = basis @ (basis.T @ leading.double().T)
    assert float((inside - leading.double().T).norm() / leading.norm()) < 1e-3
