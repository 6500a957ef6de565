"""A layer whose merge adds, in the merged model, what the LoRAs added when each was alone.

    minimise  Σ ‖ΔW·x̃ − Σᵢ wᵢ·ΔWᵢ·xᵢ‖²  +  ρ·‖M − B‖²,  ΔW = M·A

xᵢ is the layer's input with LoRA i alone on the model, x̃ that with the merge on. A has the down factors one below the
other, B the up factors side by side with the weights in, so that B·A is the plain sum. All that the inputs have to say
is then in z = A·x, and the solution is M = B·R: Σr × Σr numbers, whatever the size of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lib_pm.core import lowrank
from lib_pm.core.layers import Dense, Layer, LayerShape
from lib_pm.core.lowrank import Truncated, wide
from lib_pm.core.shares import Share, active

RIDGE = 0.05  # ρ, of the mean eigenvalue of Σ z̃·z̃ᵀ


@dataclass(frozen=True)
class Core:
    """The LoRAs of one layer as B · A. Σr = K.

    stored_up (out, K), stored_down (K, columns): as in the files. parts (K,): weight · scale. contents, weights, ranks:
    of the LoRAs, sorted; ranks add up to K.
    """

    shape: LayerShape
    stored_up: Tensor
    stored_down: Tensor
    parts: Tensor
    contents: tuple[bytes, ...]
    weights: tuple[float, ...]
    ranks: tuple[int, ...]

    @classmethod
    def of(cls, shares: Sequence[Share]) -> Core | None:
        """Return the core of the LoRAs that have a weight; None if there are none.

        A delta without factors is one with as many as its shape has singular values.
        """
        present = active(shares)
        if not present:
            return None
        layers = [lowrank.narrow(one.layer) if isinstance(one.layer, Dense) else one.layer for one in present]
        shape = max((layer.shape for layer in layers), key=lambda shape: len(shape.kernel))
        contents, weights = [share.content for share in present], [share.weight for share in present]
        factors = lowrank.concat(layers, weights)
        return cls(shape, *factors, tuple(contents), tuple(weights), tuple(layer.rank for layer in layers))

    @cached_property
    def lengths(self) -> Tensor:
        """Return the length of each row of the down factors, (K,) float64."""
        lengths: Tensor = torch.linalg.vector_norm(wide(self.stored_down), dim=1)
        return lengths

    @property
    def down(self) -> Tensor:
        """Return A, (K, columns) float64, with rows of length 1, so that ρ means the same to each; zeros stay zeros."""
        return wide(self.stored_down) * inverse(self.lengths).unsqueeze(1)

    @property
    def up(self) -> Tensor:
        """Return B, (out, K) float64."""
        return wide(self.stored_up) * (self.parts.to(self.lengths) * self.lengths)

    def rows(self, content: bytes) -> slice:
        """Return which of the K are a LoRA's; none if it is not there. The same LoRA twice is one here."""
        first = sum(rank for rank, other in zip(self.ranks, self.contents, strict=True) if other < content)
        count = sum(rank for rank, other in zip(self.ranks, self.contents, strict=True) if other == content)
        return slice(first, first + count)

    def blocks(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """Return each LoRA's part of the first dimension, (K, …)."""
        return torch.split(numbers, list(self.ranks))


@dataclass(frozen=True)
class Statistics:
    """Sums over the tokens that went into one layer, float64. They add up.

    second: Σ z̃·z̃ᵀ, (K, K). shift: Σ (z − z̃)·z̃ᵀ, (K, K); block i of z is from the run with LoRA i alone.
    moved: Σ ‖z̃ − z‖², size: Σ ‖z‖², (n,) by LoRA. tokens: how many.
    """

    second: Tensor
    shift: Tensor
    moved: Tensor
    size: Tensor
    tokens: int

    @classmethod
    def of(cls, core: Core, alone: Tensor, merged: Tensor) -> Statistics:
        """alone: z, merged: z̃, of the same tokens, (tokens, K), on any device. The sums are on the CPU."""
        alone, merged = wide(alone), wide(merged)
        shift = alone - merged
        moved, size = (core.blocks(some.square().sum(0)) for some in (shift, alone))
        return cls(
            (merged.T @ merged).cpu(),
            (shift.T @ merged).cpu(),
            torch.stack([block.sum() for block in moved]).cpu(),
            torch.stack([block.sum() for block in size]).cpu(),
            len(alone),
        )

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.second + other.second,
            self.shift + other.shift,
            self.moved + other.moved,
            self.size + other.size,
            self.tokens + other.tokens,
        )

    @property
    def drift(self) -> float:
        """Return how much the merge changes what the LoRAs see there, as a share of it: Σ ‖z̃ − z‖² / Σ ‖z‖²."""
        return float(self.moved.sum() * inverse(self.size.sum()))

    @property
    def drifts(self) -> list[float]:
        """Return the same for each LoRA."""
        numbers: list[float] = (self.moved * inverse(self.size)).tolist()
        return numbers


def solve(statistics: Statistics, ridge: float = RIDGE) -> Tensor:
    """Return R − I, (K, K) float64: exactly 0 where the inputs are what they were for each LoRA alone.

    ridge: from 0, which changes no more than the inputs ask for, to any size, which changes nothing.
    """
    # (C + ρI)·(S + ρI)⁻¹ is I + (C − S)·(S + ρI)⁻¹, which loses no digits where the two are near
    return statistics.shift @ _inverse(statistics.second, ridge)


def merged(core: Core, change: Tensor, dtype: torch.dtype = torch.float32) -> Layer:
    """Return B · R · A as a layer of rank K. change: R − I; if that is 0, the layer is that of `concat` to the bit."""
    if not bool(change.any()):
        up, down = (factor.to(dtype) for factor in (core.stored_up, core.stored_down))
        return Layer(core.shape, *lowrank.balance(up, down, core.parts))
    up, down = (factor.to(dtype) for factor in (mixed(core, change), core.down))
    return Layer(core.shape, *lowrank.balance(up, down))


def mixed(core: Core, change: Tensor) -> Tensor:
    """Return B · R, (out, K) float64. change: R − I."""
    return core.up + core.up @ change.to(core.up)


def truncated(core: Core, change: Tensor, second: Tensor, rank: int, ridge: float = RIDGE) -> Truncated:
    """Return the rank-k matrix whose outputs are nearest to those of B · R · A, over x̃ and, as ρ says, over any input.

    change: R − I. second: Σ z̃·z̃ᵀ. It is the best for Σ z̃·z̃ᵀ + ρ·A·Aᵀ, so that an endless ridge, or no input at all,
    gives the best approximation of the weights. Its energies are those of outputs.
    """
    second = second.to(core.lengths)
    rho = _rho(second, ridge) if bool(second.any()) else 1.0
    energies, turn = torch.linalg.eigh(second + rho * (core.down @ core.down.T))
    roots = torch.where(_counts(energies), energies.clamp(min=0), 0.0).sqrt()
    found = lowrank.truncate_exact(mixed(core, change) @ (turn * roots), len(roots)).first(rank)
    return Truncated(found.up, (found.down * inverse(roots)) @ turn.T @ core.down, found.energies, found.total)


def best_factor(core: Core, statistics: Statistics) -> float:
    """Return the one factor for the plain sum that comes nearest to what the LoRAs added alone; 1 where nothing is."""
    gram = core.up.T @ core.up
    return float(1 + (gram * statistics.shift).sum() * inverse((gram * statistics.second).sum()))


def best_factors(core: Core, statistics: Statistics, ridge: float = RIDGE) -> list[float]:
    """Return the same with a factor for each LoRA, (n,)."""
    gram = core.up.T @ core.up
    # what LoRA i adds in the merge, times what LoRA j adds there, and times what all of them should add beyond it
    together = torch.stack([_columns(core, rows) for rows in core.blocks(gram * statistics.second)])
    missing = torch.stack([rows.sum() for rows in core.blocks(gram * statistics.shift.T)])
    numbers: list[float] = (1 + _inverse(together, ridge) @ missing).tolist()
    return numbers


def inverse(numbers: Tensor) -> Tensor:
    """Return 1 / number, 0 for zero."""
    return torch.where(numbers > 0, 1 / numbers, 0.0)


def _columns(core: Core, rows: Tensor) -> Tensor:
    return torch.stack([block.sum() for block in core.blocks(rows.T)])


def _inverse(matrix: Tensor, ridge: float) -> Tensor:
    """Return (matrix + ρI)⁻¹ for a symmetric matrix; directions in which that is nothing stay nothing."""
    energies, turn = torch.linalg.eigh(matrix)
    sizes = energies.clamp(min=0) + _rho(matrix, ridge)
    inverted: Tensor = (turn * torch.where(_counts(sizes), 1 / sizes, 0.0)) @ turn.T
    return inverted


def _rho(matrix: Tensor, ridge: float) -> float:
    return ridge * float(matrix.diagonal().mean())


def _counts(energies: Tensor) -> Tensor:
    """Return which eigenvalues are more than rounding."""
    return energies > energies.amax() * len(energies) * torch.finfo(energies.dtype).eps
