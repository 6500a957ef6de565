"""Layers that are hard on the arithmetic, in every mode that truncates, large enough for the range finder."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.memo import Content
from lib_pm.core.merge_layer import FullLayer, MergedLayer, merge_layer
from lib_pm.core.registry import MODES
from lib_pm.core.scratch import Scratch
from lib_pm.core.shares import Share
from lib_pm.core.truncation import EXCESS, SMALL_SIDE, Precision

CPU = torch.device("cpu")
SHAPE = LayerShape(340, 300)
RANK = 12
FLOAT32 = 1e-6  # what rounding to float32 may cost, relative to the largest of the deltas

svd_modes = pytest.mark.parametrize("mode", [id for id, mode in MODES.items() if mode.space == "delta"])
precisions = pytest.mark.parametrize("precision", EXCESS)


def layer(seed: int, up: float = 1.0, down: float = 1.0) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(SHAPE.out, 8, generator=generator), torch.randn(8, SHAPE.inner, generator=generator)
    return Layer(SHAPE, factors[0] * up, factors[1] * down, 0.5)


HARD = {
    "factors of 1e-12 and 1e6": [(layer(1, 1e-12, 1e6), 1.0), (layer(2, 1e6, 1e-12), 0.7)],
    "a LoRA of 1e-12 beside one of 1e6": [(layer(1, 1e-12), 1.0), (layer(2, 1e6), 0.7)],
    "weights of 1e-12 and 1e6": [(layer(1), 1e-12), (layer(2), 1e6)],
    "rank components from 1e-12 to 1e6": [
        (Layer(SHAPE, layer(1).up * torch.logspace(-12, 6, 8), layer(1).down), 1.0),
        (Layer(SHAPE, layer(2).up * torch.logspace(6, -12, 8), layer(2).down), 0.7),
    ],
    "the same LoRA twice": [(layer(1), 1.0), (layer(1), 0.7)],
    "a LoRA and its opposite": [(layer(1), 1.0), (layer(1), -1.0)],
    "one layer zero": [(layer(1, up=0.0), 1.0), (layer(2), 0.7)],
    "both layers zero": [(layer(1, up=0.0), 1.0), (layer(2, down=0.0), 0.7)],
}


def merged_delta(mode: str, shares: list[Share], values: dict) -> Tensor:
    """Return the delta before it is truncated: by the formula, and where that is not all, the method alone on that."""
    method = MODES[mode].method
    deltas = torch.stack([s.layer.scale * s.layer.up.double() @ s.layer.down.double() for s in shares])
    weights = torch.tensor([s.weight for s in shares], dtype=torch.float64)
    if method.linear:
        return torch.einsum("n,nrc->rc", weights, deltas)
    contents = [
        Content(hashlib.sha256(s.content + b"layer").digest()) for s in shares
    ]  # masks are the LoRA's and layer's
    return method(deltas.float(), weights.float(), contents, values).double()


@svd_modes
@precisions
@pytest.mark.parametrize("case", HARD)
def test_hard_layers_are_truncated_as_well_as_any(mode: str, case: str, precision: Precision) -> None:
    assert SHAPE.max_rank > SMALL_SIDE
    shares = [Share(layer, weight, bytes([index])) for index, (layer, weight) in enumerate(HARD[case])]
    given = {"density": 0.5, "svd_rank": RANK}
    values = MODES[mode].values({name: value for name, value in given.items() if name in MODES[mode].options})
    expected = merged_delta(mode, shares, values)
    found = merge_layer(MODES[mode], "layer", shares, values, CPU, torch.float32, precision=precision)
    assert found
    assert bool(found.layer.up.isfinite().all())
    assert bool(found.layer.down.isfinite().all())
    best = float(torch.linalg.svdvals(expected)[RANK:].norm())
    size = max(abs(share.weight) * float(share.layer.delta().norm()) for share in shares)
    error = float((found.layer.up.double() @ found.layer.down.double() - expected).norm())
    assert error <= (1 + EXCESS[precision]) * best + FLOAT32 * size


@pytest.mark.parametrize(
    ("mode", "rank"),
    [(id, rank) for id, mode in MODES.items() for rank in ([RANK, "full"] if mode.approximates else [RANK])],
)
def test_layers_know_nothing_of_each_others_memory(mode: str, rank: int | str) -> None:
    scratch = Scratch()
    values = MODES[mode].values({"svd_rank": rank} if "svd_rank" in MODES[mode].options else {})
    several = [
        [Share(layer(1), 1.0, b"a"), Share(layer(2), 0.7, b"b")],
        [Share(layer(3), -2.0, b"c")],
        [Share(layer(4), 1.0, b"d"), Share(layer(5), 0.7, b"e")],
    ]
    used, fresh = (
        [merge_layer(MODES[mode], "layer", shares, values, CPU, torch.float32, empty=empty) for shares in several]
        for empty in (scratch.empty, torch.empty)
    )
    for one, other in zip(used, fresh, strict=True):
        for tensor, same in zip(tensors(one), tensors(other), strict=True):
            assert torch.equal(tensor, same)


def tensors(merged: MergedLayer | FullLayer | None) -> list[Tensor]:
    assert merged
    return [merged.delta] if isinstance(merged, FullLayer) else [merged.layer.up, merged.layer.down]


def test_scratch_memory_is_the_same_for_the_next_layer_and_another_one_for_each_thread() -> None:
    scratch = Scratch()

    def where(*shape: int) -> int:
        tensor = scratch.empty(shape, dtype=torch.float32, device=CPU)
        assert (tensor.shape, tensor.dtype) == (shape, torch.float32)
        return tensor.data_ptr()

    first = where(30, 50)
    assert where(30, 40) == where(1500) == first
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(where, 30, 50).result() != first
    assert where(30, 50) == first
