"""The named steps that merge methods are built of. Every stack is (n, *shape), one slice per LoRA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_pm.core.rng import keep_mask


def weighted(deltas: Tensor, weights: Tensor) -> Tensor:
    """Each slice times its weight. deltas: (n, *shape). weights: (n,)."""
    return deltas * weights.reshape(-1, *[1] * (deltas.dim() - 1))


def keep_largest(deltas: Tensor, density: float) -> Tensor:
    """Set all but the largest |entries| of each slice to zero: int(density · count) of its non-zero ones stay.

    Of equal entries the first ones stay, so that exactly that many do. Entries that are already zero do not count:
    a factor padded with zero rows up to another rank keeps the same share of its own.
    """
    if density >= 1:
        return deltas
    return torch.stack([_keep_largest(delta, density) for delta in deltas])


def _keep_largest(delta: Tensor, density: float) -> Tensor:
    magnitudes = delta.abs().reshape(-1)
    keep = int(density * int(torch.count_nonzero(magnitudes)))
    if keep == 0:
        return torch.zeros_like(delta)
    threshold = kth_largest(magnitudes, keep)
    mask = magnitudes > threshold
    ties = torch.nonzero(magnitudes == threshold).reshape(-1)
    mask[ties[: keep - int(torch.count_nonzero(mask))]] = True
    return delta * mask.reshape(delta.shape)


def kth_largest(magnitudes: Tensor, k: int) -> Tensor:
    """The k-th largest of non-negative values, exact. magnitudes: (m,), k from 1 to m. Returns a 0-d tensor.

    The bits of a non-negative float32 sort like the number: a histogram of the upper half finds the bin, and only
    that bin is sorted. Several times faster than `topk` over millions of values.
    """
    if magnitudes.dtype == torch.float64:
        return torch.kthvalue(magnitudes, magnitudes.numel() - k + 1).values
    values = magnitudes.float()
    bins = values.view(torch.int32) >> 16
    counts = torch.bincount(bins, minlength=1 << 15)
    at_least = counts.flip(0).cumsum(0).flip(0)  # how many values are in this bin or above
    chosen = int((at_least >= k).nonzero()[-1])
    above = int(at_least[chosen] - counts[chosen])
    candidates = values[bins == chosen].sort(descending=True).values
    return candidates[k - above - 1].to(magnitudes.dtype)


def drop_random(deltas: Tensor, density: float, seed: int, contents: Sequence[bytes]) -> Tensor:
    """Keep each entry with probability `density`, divide the survivors by it: over seeds the mean is the input.

    contents: one digest per LoRA; the mask of a slice depends on the seed and on its digest. Density 0 keeps nothing.
    """
    if density >= 1:
        return deltas
    if density <= 0:
        return torch.zeros_like(deltas)
    masks = [keep_mask(deltas.shape[1:], density, seed, content) for content in contents]
    return deltas * (torch.stack(masks).to(deltas.device) / density).to(deltas.dtype)


def elect_sign(deltas: Tensor) -> Tensor:
    """The sign of each entry's sum over the LoRAs, +1 where it is zero. deltas: weighted. Returns (*shape,) of ±1."""
    return torch.where(deltas.sum(dim=0) >= 0, 1.0, -1.0).to(deltas.dtype)


def mean_of_agreeing(deltas: Tensor, sign: Tensor) -> Tensor:
    """Average, per entry, the LoRAs whose weighted entry has the elected sign; zero entries take no part."""
    total = torch.zeros_like(sign)
    count = torch.zeros_like(sign)
    for delta in deltas:  # one slice at a time: no temporary as large as the stack
        agreeing = (delta * sign).clamp_(min=0)
        total += agreeing
        count += agreeing > 0
    return total.mul_(sign).div_(count.clamp_(min=1))
