"""The named steps that merge methods are built of. Every stack is (n, *shape), one slice per LoRA.

The steps go through large tensors in blocks that fit into a processor's cache: fetching fresh memory for temporaries
as large as a delta costs several times what is computed in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lib_pm.core.rng import RandomWords

BLOCK = 1 << 17  # entries; on a GPU everything is one block


def weighted(deltas: Tensor, weights: Tensor) -> Tensor:
    """Each slice times its weight. deltas: (n, *shape). weights: (n,)."""
    return deltas * weights.reshape(-1, *[1] * (deltas.dim() - 1))


def weighted_sum(deltas: Tensor, weights: Tensor) -> Tensor:
    """Σ wᵢ·deltaᵢ. deltas: (n, *shape). weights: (n,). Returns (*shape,)."""
    merged: Tensor = torch.tensordot(weights, deltas, dims=1)
    return merged


def keep_largest(deltas: Tensor, density: float) -> Tensor:
    """Set all but the largest |entries| of each slice to zero: int(density · count) of its non-zero ones stay.

    Of equal entries the first ones stay, so that exactly that many do. Entries that are already zero do not count:
    a factor padded with zero rows up to another rank keeps the same share of its own.
    """
    if density >= 1:
        return deltas
    kept = torch.empty_like(deltas)
    for delta, out in zip(deltas, kept, strict=True):
        _keep_largest(delta.reshape(-1), density, out.view(-1))
    return kept


def _keep_largest(values: Tensor, density: float, out: Tensor) -> None:
    histogram = _histogram(values)
    # zeros are in the lowest bin; only if there is anything in it do they have to be told from very small numbers
    zeros = sum(int((block == 0).sum()) for block in _blocks(values)) if int(histogram[0]) else 0
    keep = int(density * (len(values) - zeros))
    if keep == 0:
        out.zero_()
        return
    threshold, at_least = kth_largest(values, keep, histogram)
    below = torch.nextafter(threshold, torch.zeros_like(threshold))
    torch.hardshrink(values, float(below), out=out)
    if at_least > keep:
        equal = torch.nonzero(out.abs() == threshold).reshape(-1)
        out[equal[keep - at_least :]] = 0


def kth_largest(values: Tensor, k: int, histogram: Tensor | None = None) -> tuple[Tensor, int]:
    """The k-th largest |value|, exact, and how many are at least as large. values: (m,), k from 1 to m.

    The bits of a non-negative float32 sort like the number: a histogram of the upper half (`_histogram`, made if not
    given) finds the bin, and only that bin is sorted. Many times faster than `topk` over millions of values.
    """
    histogram = _histogram(values) if histogram is None else histogram
    in_bin_or_above = histogram.flip(0).cumsum(0).flip(0)
    chosen = int((in_bin_or_above >= k).nonzero()[-1])
    above = int(in_bin_or_above[chosen] - histogram[chosen])
    candidates = torch.cat([_in_bin(block, chosen) for block in _blocks(values)]).abs()
    threshold = candidates.sort(descending=True).values[k - above - 1]
    return threshold, above + int((candidates >= threshold).sum())


def _histogram(values: Tensor) -> Tensor:
    """How many values are in each of the 2¹⁵ bins."""
    counts = torch.zeros(1 << 15, dtype=torch.int64, device=values.device)
    for block in _blocks(values):
        counts += torch.bincount(_bins(block), minlength=1 << 15)
    return counts


def _bins(values: Tensor) -> Tensor:
    """The upper 15 bits of |value| as a float32: a larger number is never in a lower bin, whatever its dtype."""
    return (values.float().view(torch.int32) >> 16).bitwise_and_(0x7FFF)


def _in_bin(values: Tensor, chosen: int) -> Tensor:
    """The values of one bin, in order."""
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return values[_bins(values) == chosen]
    return torch.from_numpy(values.numpy()[_bins(values).numpy() == chosen])  # numpy finds the few several times faster


def drop_random(deltas: Tensor, density: float, seed: int, contents: Sequence[bytes]) -> Tensor:
    """Keep each entry with probability `density`, divide the survivors by it: over seeds the mean is the input.

    contents: one digest per LoRA; the mask of a slice depends on the seed and on its digest. Density 0 keeps nothing.
    """
    if density >= 1:
        return deltas
    if density <= 0:
        return torch.zeros_like(deltas)
    kept = torch.empty_like(deltas)
    for delta, out, content in zip(deltas, kept, contents, strict=True):
        words = RandomWords(seed, content)
        for block, out_block in zip(_blocks(delta), _blocks(out), strict=True):
            mask = words.below(density, len(block)).to(block.device)
            torch.mul(block, mask.to(block.dtype).div_(density), out=out_block)
    return kept


def elect_and_average(deltas: Tensor, weights: Tensor) -> Tensor:
    """Elect a sign for each entry by the weighted sum, average the weighted entries that have it. Returns (*shape,)."""
    merged = torch.empty_like(deltas[0])
    blocks = torch.split(deltas.reshape(len(deltas), -1), _block_size(deltas), dim=1)
    for block, out in zip(blocks, _blocks(merged), strict=True):
        votes = weighted(block, weights)
        out.copy_(mean_of_agreeing(votes, elect_sign(votes)))
    return merged


def elect_sign(deltas: Tensor) -> Tensor:
    """The sign of each entry's sum over the LoRAs, +1 where it is zero. deltas: weighted. Returns (*shape,) of ±1."""
    return _as_numbers(torch.ge, deltas.sum(dim=0)).mul_(2).sub_(1)


def mean_of_agreeing(deltas: Tensor, sign: Tensor) -> Tensor:
    """Average, per entry, the LoRAs whose weighted entry has the elected sign; zero entries take no part."""
    agreeing = (deltas * sign).clamp_(min=0)
    count = _as_numbers(torch.gt, agreeing).sum(dim=0).clamp_(min=1)
    return agreeing.sum(dim=0).mul_(sign).div_(count)


def _as_numbers(comparison: Callable[..., Tensor], values: Tensor) -> Tensor:
    """1 where the comparison of the values with zero holds, else 0, in their dtype."""
    return comparison(values, 0, out=torch.empty_like(values))


def _blocks(tensor: Tensor) -> Iterator[Tensor]:
    return iter(torch.split(tensor.reshape(-1), _block_size(tensor)))


def _block_size(tensor: Tensor) -> int:
    return BLOCK if tensor.device.type == "cpu" else max(1, tensor.numel())
