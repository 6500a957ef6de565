"""A matrix as two factors a·b, perhaps with a core of small convolutions between them (Tucker decomposition, CP).

With a core, LyCORIS writes `a` the other way round: rank×rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_pm.core.formats.kind import Misfit, Sizes, Tensors, need, wide


@dataclass(frozen=True)
class Pair:
    """What the parts are called: a, b, core."""

    a: str
    b: str
    core: str

    def measure(self, sizes: Sizes) -> tuple[int, int, tuple[int, ...], int]:
        """Return (rows, inner, kernel, rank)."""
        need(sizes, self.a, self.b)
        a, b = sizes[self.a], sizes[self.b]
        if len(a) != 2 or len(b) < 2:
            raise Misfit(f"{self.a} or {self.b} is no matrix")
        if self.core not in sizes:
            if a[1] != b[0]:
                raise Misfit(f"{self.a} and {self.b} have different ranks")
            return a[0], b[1], b[2:], a[1]
        core = sizes[self.core]
        if len(b) != 2 or len(core) < 3 or core[:2] != (a[0], b[0]):
            raise Misfit(f"{self.core} does not fit {self.a} and {self.b}")
        return a[1], b[1], core[2:], a[0]

    def factors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Return up (rows, rank) and down (rank, in·kh·kw) in float32, or in float64 if that is what they are in."""
        a, b = wide(tensors[self.a]), wide(tensors[self.b])
        if self.core in tensors:
            return a.T, with_core(tensors[self.core], b).flatten(1)
        return a, b.flatten(1)


def with_core(core: Tensor, down: Tensor) -> Tensor:
    """Return Σ_q core[p, q]·down[q, i] as (p, i, kh, kw) in float32.

    core: (p, q, kh, kw). down: (q, i) or (q, i, 1, 1).
    Added up in float64 and rounded once: in float32 each processor rounds in an order of its own.
    """
    return torch.einsum("pq...,qi->pi...", core.double(), down.double().flatten(1)).float()
