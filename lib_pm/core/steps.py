"""The named steps that merge methods are built of. Every stack is (n, *shape), one slice per LoRA.

Steps whose name ends in _ work in the stack that they are given, as torch's functions of such names do, and in blocks
that fit into a processor's cache: fetching fresh memory for temporaries as large as a delta costs several times what is
computed in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib_pm.core.memo import Content
from lib_pm.core.rng import RandomBits

# Entries that are worked on at once: on the CPU what its cache holds, on a GPU what keeps it busy.
BLOCK, GPU_BLOCK = 1 << 18, 1 << 24


def weighted(deltas: Tensor, weights: Tensor) -> list[Tensor]:
    """Return each slice times its weight. deltas: (n, *shape). weights: (n,)."""
    return [delta * weight for delta, weight in zip(deltas, weights, strict=True)]


def weighted_sum_(deltas: Tensor, weights: Tensor) -> Tensor:
    """Return Σ wᵢ·deltaᵢ, (*shape,), in the first slice. deltas: (n, *shape). weights: (n,)."""
    for block in _blocks(deltas):
        block[0] = weights @ block
    return deltas[0]


@dataclass(frozen=True)
class Largest:
    """The `keep` largest magnitudes: the smallest of them, and how many are at least as large."""

    keep: int
    threshold: Tensor
    at_least: int
    nbytes: int = 256  # about


def keep_largest_(deltas: Tensor, density: float, contents: Sequence[Content] = ()) -> Tensor:
    """Set all but the largest |entries| of each slice to zero: int(density · count) of its non-zero ones stay.

    Of equal entries the first ones stay, so that exactly that many do. Entries that are already zero do not count:
    a factor padded with zero rows up to another rank keeps the same share of its own.
    contents: one per LoRA, which may know the threshold from another merge; it depends on no weight.
    """
    if density < 1:
        for delta, content in zip(deltas, contents or [Content(b"")] * len(deltas), strict=True):
            values = delta.view(-1)
            largest = content.once(("largest", density, values.dtype), partial(_largest, values, density))
            _keep_(values, largest)
    return deltas


def _largest(values: Tensor, density: float) -> Largest:
    keep = int(density * sum(_count(block != 0) for block in _arrays(values)))
    return Largest(keep, *kth_largest(values, keep)) if keep else Largest(0, values.new_zeros(()), 0)


def _keep_(values: Tensor, largest: Largest) -> None:
    keep, threshold, at_least = largest.keep, largest.threshold, largest.at_least
    if keep == 0:
        values.zero_()
        return
    below = torch.nextafter(threshold, torch.zeros_like(threshold))
    torch.hardshrink(values, float(below), out=values)
    if at_least > keep:
        equal = torch.nonzero(values.abs() == threshold).reshape(-1)
        values[equal[keep - at_least :]] = 0


def kth_largest(values: Tensor, k: int) -> tuple[Tensor, int]:
    """Return the k-th largest |value|, exact, and how many are at least as large. values: (m,), k from 1 to m.

    A sample says between which two magnitudes it must be, one pass counts those above and gathers those between, and
    only these are searched. Should the sample have been wrong, which the counts show, the bracket is widened. Many
    times faster than `topk` over millions of values.
    """
    stride = max(1, round(len(values) ** (1 / 3)))  # as many values to sort as make few others stay between
    sample = abs(_array(values[::stride]))
    expected, margin = (1 - k / len(values)) * len(sample), 2 * len(sample) ** 0.5
    while True:
        first, last = int(expected - margin), int(expected + margin)
        low = _ranked(sample, first) if first >= 0 else 0.0
        high = _ranked(sample, last) if last < len(sample) else math.inf
        above, between = 0, []
        for block in _arrays(values):
            magnitudes = abs(block)
            at_least_low, at_most_high = magnitudes >= low, magnitudes <= high
            above += len(magnitudes) - _count(at_most_high)
            at_least_low &= at_most_high
            between.append(torch.as_tensor(magnitudes[at_least_low.nonzero()]).reshape(-1))
        candidates = torch.cat(between)
        if above < k <= above + len(candidates):
            break
        margin *= 8
    threshold = _ranked(_array(candidates), len(candidates) - (k - above))
    return torch.as_tensor(threshold, dtype=values.dtype), above + int((candidates >= threshold).sum())


def _array(values: Tensor) -> Any:
    """Return the values as numpy's array if they are on the CPU, where it compares and selects several times faster."""
    if values.device.type != "cpu":
        return values
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _arrays(values: Tensor) -> Iterator[Any]:
    return (_array(block) for block in torch.split(values, _block_size(values)))


def _count(mask: Any) -> int:
    return int(np.count_nonzero(mask)) if isinstance(mask, np.ndarray) else int(mask.sum())


def _ranked(values: Any, index: int) -> Any:
    """Return the value that has this index among the sorted ones."""
    if isinstance(values, np.ndarray):
        return np.partition(values, index)[index]
    return torch.kthvalue(values, index + 1).values


def drop_random_(deltas: Tensor, density: float, seed: int, contents: Sequence[Content]) -> Tensor:
    """Keep each entry with probability `density`, divide the survivors by it: over seeds the mean is the input.

    contents: one per LoRA; the mask of a slice depends on the seed and on its digest. Density 0 keeps nothing.
    """
    if density >= 1:
        return deltas
    if density <= 0:
        return deltas.zero_()
    for delta, content in zip(deltas, contents, strict=True):
        bits = RandomBits(seed, content.digest)
        for block in torch.split(delta.view(-1), _block_size(delta)):
            # numpy makes numbers of a mask several times faster than torch
            factors = torch.from_numpy(bits.below(density, len(block)) * np.float32(1 / density))
            block *= factors.to(block)
    return deltas


def elect_and_average_(deltas: Tensor, weights: Tensor) -> Tensor:
    """Elect a sign for each entry by the weighted sum, average the weighted entries that have it.

    Returns (*shape,), the first slice.
    """
    for block in _blocks(deltas):
        votes = weighted(block, weights)
        block[0] = mean_of_agreeing_(votes, elect_sign(votes))
    return deltas[0]


def elect_sign(votes: Sequence[Tensor]) -> Tensor:
    """Return the sign of each entry's sum over the LoRAs, (*shape,) of ±1; +1 where it is zero. votes: weighted."""
    return _as_numbers(torch.ge, _sum(votes)).mul_(2).sub_(1)


def mean_of_agreeing_(votes: Sequence[Tensor], sign: Tensor) -> Tensor:
    """Average, per entry, the LoRAs whose weighted entry has the elected sign; zero entries take no part.

    Returns (*shape,), the first vote.
    """
    for vote in votes:
        vote.mul_(sign).clamp_(min=0)
    count = _sum(_as_numbers(torch.gt, vote) for vote in votes)
    total, *others = votes
    for other in others:
        total += other
    return total.mul_(sign).div_(count.clamp_(min=1))


def _sum(deltas: Iterable[Tensor]) -> Tensor:
    """Return the sum over the LoRAs, one after another: several times faster than `sum` over a short dimension."""
    first, *rest = deltas
    return sum(rest, start=first)


def _as_numbers(comparison: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Return 1 where the comparison of the values with zero holds, else 0, in their dtype."""
    return comparison(values, 0, out=torch.empty_like(values))


def _blocks(deltas: Tensor) -> Sequence[Tensor]:
    """Return a stack (n, *shape) in pieces (n, some), which are views of it."""
    return torch.split(deltas.view(len(deltas), -1), max(1, _block_size(deltas) // len(deltas)), dim=1)


def _block_size(tensor: Tensor) -> int:
    return BLOCK if tensor.device.type == "cpu" else GPU_BLOCK
