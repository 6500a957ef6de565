"""How LoRAs relate in a layer, against dense deltas in float64 and numpy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.lowrank import concat, energies
from lib_pm.core.relations import BLOCK, Relations, relate, sign_conflict
from lib_pm.core.scratch import Scratch


def layer(
    out: int, columns: int, rank: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    return Layer(LayerShape(out, columns), (up * 0.02).to(dtype), (down * 0.1).to(dtype), scale)


def dense(layers: list[Layer], weights: list[float]) -> list[np.ndarray]:
    return [
        weight * each.scale * each.up.double().numpy() @ each.down.double().numpy()
        for each, weight in zip(layers, weights, strict=True)
    ]


def conflict_by_entries(a: np.ndarray, b: np.ndarray) -> float:
    opposite = np.sign(a) * np.sign(b) < 0
    size = np.abs(a) * np.abs(b)
    return float(size[opposite].sum() / size.sum())


def check(found: Relations, layers: list[Layer], weights: list[float]) -> None:
    matrices = dense(layers, weights)
    for i, a in enumerate(matrices):
        largest = np.linalg.svd(a, compute_uv=False) ** 2
        assert len(found.energies[i]) == min(layers[i].rank, *a.shape)
        np.testing.assert_allclose(found.energies[i], largest[: len(found.energies[i])], atol=1e-12 * largest[0])
        for j, b in enumerate(matrices):
            assert float(found.inner[i, j]) == pytest.approx(
                float((a * b).sum()), abs=1e-12 * np.linalg.norm(a) * np.linalg.norm(b)
            )
            if i != j:
                conflict = sign_conflict(float(found.inner[i, j]), float(found.sizes[i, j]))
                assert conflict == pytest.approx(conflict_by_entries(a, b), abs=1e-5)
    parts = sum(float((a**2).sum()) for a in matrices)
    values = np.linalg.svd(sum(matrices), compute_uv=False) ** 2
    np.testing.assert_allclose(found.sum_energies, values[: len(found.sum_energies)], atol=2e-12 * parts)
    assert np.allclose(values[len(found.sum_energies) :], 0, atol=2e-12 * parts)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 60),
    st.integers(2, 60),
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(0.1, 3), st.sampled_from([-1, 1]), st.floats(0.01, 4)),
        min_size=1,
        max_size=4,
    ),
)
def test_relations_are_those_of_the_deltas(out, columns, loras):
    layers = [layer(out, columns, rank, seed, scale) for seed, (rank, _, _, scale) in enumerate(loras)]
    weights = [sign * weight for _, weight, sign, _ in loras]
    check(relate(layers, weights), layers, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_more_rows_than_a_block_has(dtype):
    out = 3 * BLOCK // 700
    layers = [layer(out, 700, rank, rank, 0.5, dtype) for rank in (3, 8)]
    check(relate(layers, [1.0, -0.3], Scratch().empty), layers, [1.0, -0.3])


@pytest.mark.parametrize(("factor", "conflict"), [(1.0, 0.0), (-1.0, 1.0), (-0.25, 1.0)])
@pytest.mark.parametrize("rank", [4, 40])
def test_a_lora_and_its_multiple(factor, conflict, rank):
    one = layer(50, 30, rank, 1)
    found = relate([one, one], [1.0, factor])
    assert found.inner[0, 1] == pytest.approx(factor * float(found.inner[0, 0]), rel=1e-12)
    assert sign_conflict(float(found.inner[0, 1]), float(found.sizes[0, 1])) == pytest.approx(conflict, abs=1e-6)
    expected = found.energies[0] * (1 + factor) ** 2
    if factor == -1:
        assert not found.sum_energies.any()  # not rounding, which would look like a spectrum
    else:
        np.testing.assert_allclose(found.sum_energies[: len(expected)], expected, atol=1e-12 * float(expected[0]))


def test_a_lora_that_is_zero():
    zero = Layer(LayerShape(20, 10), torch.zeros(20, 3), torch.ones(3, 10))
    found = relate([zero, layer(20, 10, 2, 1)], [1.0, 1.0])
    assert not found.inner[0].any()
    assert not found.sizes[0].any()
    assert not found.energies[0].any()
    np.testing.assert_allclose(found.sum_energies[:2], found.energies[1], rtol=1e-9)


def test_rank_components_that_cancel_are_nothing():
    one = layer(40, 30, 3, 1)
    both = Layer(one.shape, torch.cat([one.up, -one.up], 1), torch.cat([one.down, one.down]))
    found = relate([both, one], [1.0, 1.0])
    assert not found.inner[0].any()
    assert not found.energies[0].any()
    np.testing.assert_allclose(found.sum_energies[:3], found.energies[1], rtol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_rounding_is_not_taken_for_a_spectrum(seed):
    """0.1 + 0.2 − 0.3 is not 0 in floating point, nor is a LoRA less the same one under other factors."""
    one = layer(40, 30, 3, seed)
    assert not relate([one] * 3, [0.1, 0.2, -0.3]).sum_energies.any()
    left, values, right = torch.linalg.svd(one.up.double() @ one.down.double(), full_matrices=False)
    again = Layer(one.shape, (left[:, :3] * values[:3]).float(), right[:3].float())
    found = relate([one, again], [1.0, -1.0])
    assert not found.sum_energies.any()
    assert found.energies[0].all()


def test_small_beside_large_is_still_something():
    """Weights of 1e-4 and 1: not lost in the rounding of the larger one."""
    layers = [layer(40, 30, 3, 1), layer(40, 30, 4, 2)]
    check(relate(layers, [1e-4, 1.0]), layers, [1e-4, 1.0])
    assert relate(layers, [1e-4, 1.0]).inner[0, 0] > 0


def test_too_large_for_float32_is_told():
    layers = [layer(10, 10, 2, 1), layer(10, 10, 2, 2)]
    with pytest.raises(OverflowError):
        relate(layers, [1e39, 1.0])
    with pytest.raises(OverflowError):
        relate(layers[:1], [1e300])


@pytest.mark.parametrize("small", [1e-10, 1.0])
@pytest.mark.parametrize(("out", "columns"), [(200, 150), (8, 150), (200, 5)])
def test_energies_of_factors_of_very_different_size(small, out, columns):
    a, b = layer(out, columns, 6, 1), layer(out, columns, 6, 2)
    a = Layer(a.shape, a.up * small, a.down * 1e6)
    b = Layer(b.shape, b.up * 1e6, b.down * small)
    matrix = sum(dense([a, b], [1.0, 0.5]))
    expected = np.linalg.svd(matrix, compute_uv=False)[:12] ** 2
    np.testing.assert_allclose(energies(*concat([a, b], [1.0, 0.5])), expected, atol=1e-12 * expected[0])


@pytest.mark.parametrize(("out", "columns"), [(12, 7), (7, 12), (1, 1)])
def test_a_rank_far_above_what_the_shape_allows(monkeypatch, out, columns):
    """A file may hold any; what is computed for each pair of components would take its square."""
    sizes = []
    eigvalsh = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: sizes.append(len(matrix)) or eigvalsh(matrix))
    layers = [layer(out, columns, rank, seed) for seed, rank in enumerate((500, 3))]
    found = relate(layers, [0.5, -2.0])
    assert max(sizes) <= 3 * min(out, columns)
    matrices = dense(layers, [0.5, -2.0])
    for energies_found, matrix in zip((*found.energies, found.sum_energies), (*matrices, sum(matrices)), strict=True):
        expected = np.linalg.svd(matrix, compute_uv=False) ** 2
        np.testing.assert_allclose(energies_found, expected[: len(energies_found)], atol=1e-12 * expected[0])
    np.testing.assert_allclose(found.inner[0, 1], (matrices[0] * matrices[1]).sum(), rtol=1e-9)
