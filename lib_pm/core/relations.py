"""How the LoRAs of one layer relate: norms, inner products, signs, singular values; all of weighted deltas.

A weighted delta is weight · ΔW. Norms and inner products come from the factors, in float64; only the signs need the
entries themselves, which are formed in float32, some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_pm.core import lowrank
from lib_pm.core.layers import AnyLayer, Layer, LayerShape
from lib_pm.core.ranks import Rank
from lib_pm.core.steps import BLOCK, GPU_BLOCK

# A squared norm below this share of what its rank components would have one by one is nothing: they cancel each other,
# and what is left is the rounding of float32 factors (1e-7, squared) or of this arithmetic.
NOTHING = 1e-12


@dataclass(frozen=True)
class Relations:
    """n LoRAs in one layer, their weighted deltas a, b, …; tensors in float64 on the CPU.

    inner: (n, n) ⟨a, b⟩, the sum of a·b over all entries; squared norms on the diagonal.
    sizes: (n, n) ⟨|a|, |b|⟩, the same with signs left out, see `sign_conflict`; zeros if there is one LoRA alone.
    energies: per LoRA its squared singular values, largest first. sum_energies: those of the sum a + b + …
    """

    inner: Tensor
    sizes: Tensor
    energies: tuple[Tensor, ...]
    sum_energies: Tensor


def sign_conflict(inner: float, sizes: float) -> float:
    """Return the share of Σ|a|·|b| of entries with opposite signs: 0 no conflict, 0.5 chance, 1 all signs opposite.

    Large entries that meet count most, noise hardly; strengths do not change it, but for their signs.
    inner, sizes: as in Relations, of one layer or added up over layers. sizes must not be 0.
    """
    return min(1.0, max(0.0, (1 - inner / sizes) / 2))


def relate(
    layers: Sequence[AnyLayer], weights: Sequence[float], empty: Callable[..., Tensor] = torch.empty
) -> Relations:
    """Return the relations of weight · ΔW for LoRAs that all have this layer.

    layers: of one shape, on one device, in any dtype.

    empty: where the deltas are formed, see `Scratch`. An OverflowError if values are too large for float32.
    """
    factored = [lowrank.narrow(layer) for layer in layers]
    up, down, parts = lowrank.concat(factored, weights)
    up, down = lowrank.wide(up), lowrank.wide(down)
    # ⟨U₁D₁, U₂D₂⟩ = tr((U₂ᵀU₁)(D₁D₂ᵀ)): one product for each pair of rank components, added up by their LoRAs.
    products = (up.T @ up) * (down @ down.T) * torch.outer(parts, parts).to(up)
    ranks = [layer.rank for layer in factored]
    lora = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor(ranks))
    belongs = torch.nn.functional.one_hot(lora, len(layers)).to(products)  # (K, n)
    inner, most = (belongs.T @ products @ belongs).cpu(), (belongs.T @ products.abs() @ belongs).cpu()
    sizes = _sizes(factored, weights, empty) if len(layers) > 1 else torch.zeros_like(inner)
    if not (most.isfinite().all() and sizes.isfinite().all()):
        raise OverflowError("a weighted delta is too large")
    is_something = inner.diagonal() > NOTHING * most.diagonal()
    inner *= torch.outer(is_something, is_something)
    components = zip(torch.split(up, ranks, 1), torch.split(down, ranks), torch.split(parts, ranks), strict=True)
    energies = [lowrank.energies(*own).cpu() * exists for own, exists in zip(components, is_something, strict=True)]
    if len(layers) == 1:
        return Relations(inner, sizes, tuple(energies), energies[0])
    sum_energies = lowrank.energies(up, down, parts).cpu() * bool(inner.sum() > NOTHING * most.sum())
    return Relations(inner, sizes, tuple(energies), sum_energies)


def _sizes(layers: Sequence[Layer], weights: Sequence[float], empty: Callable[..., Tensor]) -> Tensor:
    """Return ⟨|a|, |b|⟩ for each pair, (n, n). In blocks of rows that stay in the processor's cache."""
    count, shape, device = len(layers), layers[0].shape, layers[0].up.device
    ups = [layer.up.float() * (weight * layer.scale) for layer, weight in zip(layers, weights, strict=True)]
    downs = [layer.down.float() for layer in layers]
    height = min(shape.out, max(1, _block_size(device.type) // (count * shape.columns)))
    memory = empty((count * height * shape.columns,), dtype=torch.float32, device=device)
    total = torch.zeros(count, count, dtype=torch.float64)
    for start in range(0, shape.out, height):
        rows = min(height, shape.out - start)
        deltas = memory[: count * rows * shape.columns].view(count, rows, shape.columns)
        for up, down, delta in zip(ups, downs, deltas, strict=True):
            torch.mm(up[start : start + rows], down, out=delta).abs_()
        entries = deltas.view(count, -1)
        total += (entries @ entries.T).cpu()
    return total


def _block_size(device: str) -> int:
    return 2 * BLOCK if device == "cpu" else GPU_BLOCK


def memory_needed(shape: LayerShape, stored: Sequence[Rank], device: str = "cpu") -> int:
    """Return about how many bytes `relate` takes for LoRAs of these ranks, on that kind of device."""
    ranks = [shape.max_rank if rank is None else rank for rank in stored]
    factors = (2 * 8 + 4) * sum(ranks) * (shape.out + shape.columns)  # in float64 and in float32
    deltas = 4 * min(len(ranks) * shape.out * shape.columns, _block_size(device))
    return factors + deltas + 4 * 8 * sum(min(rank, shape.max_rank) for rank in ranks) ** 2
