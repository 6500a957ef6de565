"""Whether a merged file holds the sum of its LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tests.loras import deltas


def assert_is_the_sum(merged: Path, loras: Sequence[Path], weights: Sequence[float], rank: int | None) -> None:
    """A few layers against the float64 sum; at this rank, against its best approximation."""
    got = some_deltas(merged)
    expected: dict[str, Tensor] = {}
    for path, weight in zip(loras, weights, strict=True):
        for layer, delta in some_deltas(path).items():
            expected[layer] = expected.get(layer, 0) + weight * delta
    assert got.keys() == expected.keys()
    for layer, delta in expected.items():
        values = torch.linalg.svdvals(delta)
        best = float(values[rank:].norm()) if rank else 0.0
        assert float((got[layer] - delta).norm()) <= best * 1.001 + 3e-4 * float(values.norm())


def some_deltas(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), framework="pt") as file:
        keys = [key for key in file.keys() if "attn1_to_q" in key or "encoder_layers_3_mlp" in key]  # noqa: SIM118
        return deltas({key: file.get_tensor(key) for key in keys[:12]})
