"""The named steps that merge methods are built of. Every stack is (n, *shape), one slice per LoRA.

The steps go through large tensors in blocks that fit into a processor's cache: fetching fresh memory for temporaries
as large as a delta costs several times what is computed in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib_pm.core.rng import RandomWords

BLOCK = 1 << 16  # entries; on a GPU everything is one block


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
    keep = int(density * sum(_count(_array(block) != 0) for block in _blocks(values)))
    if keep == 0:
        out.zero_()
        return
    threshold, at_least = kth_largest(values, keep)
    below = torch.nextafter(threshold, torch.zeros_like(threshold))
    torch.hardshrink(values, float(below), out=out)
    if at_least > keep:
        equal = torch.nonzero(out.abs() == threshold).reshape(-1)
        out[equal[keep - at_least :]] = 0


def kth_largest(values: Tensor, k: int) -> tuple[Tensor, int]:
    """The k-th largest |value|, exact, and how many are at least as large. values: (m,), k from 1 to m.

    A sample says between which two magnitudes it must be, one pass counts those above and gathers those between, and
    only these are searched. Should the sample have been wrong, which the counts show, the bracket is widened. Many
    times faster than `topk` over millions of values.
    """
    stride = max(1, round(len(values) ** (1 / 3)))  # as many values to sort as make few others stay between
    sample = values[::stride].abs().sort(descending=True).values
    expected, margin = k / len(values) * len(sample), 2 * len(sample) ** 0.5
    while True:
        first, last = int(expected - margin), int(expected + margin)
        high = float(sample[first]) if first >= 0 else math.inf
        low = float(sample[last]) if last < len(sample) else 0.0
        above, between = 0, []
        for block in _blocks(values):
            magnitudes = abs(_array(block))
            at_least_low, at_most_high = magnitudes >= low, magnitudes <= high
            above += len(magnitudes) - _count(at_most_high)
            at_least_low &= at_most_high
            between.append(torch.as_tensor(magnitudes[at_least_low]))
        candidates = torch.cat(between)
        if above < k <= above + len(candidates):
            break
        margin *= 8
    threshold = torch.kthvalue(candidates, len(candidates) - (k - above) + 1).values
    return threshold.to(values.dtype), above + int((candidates >= threshold).sum())


def _array(values: Tensor) -> Any:
    """The values as numpy's array if they are on the CPU, where it compares and selects several times faster."""
    if values.device.type != "cpu":
        return values
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _count(mask: Any) -> int:
    return int(np.count_nonzero(mask)) if isinstance(mask, np.ndarray) else int(mask.sum())


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
