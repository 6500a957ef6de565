"""Random numbers that depend on a seed and a content only: never on order, thread, device or global state."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


class RandomBits:
    """Two streams of random bits. The raw Philox stream is one that numpy promises to keep as it is."""

    def __init__(self, seed: int, content: bytes) -> None:
        key = hashlib.sha256(content + seed.to_bytes(16, "little", signed=True)).digest()
        self._stream, self._second = (
            np.random.Philox(key=int.from_bytes(half, "little")) for half in (key[:16], key[16:])
        )

    def octets(self, count: int) -> np.ndarray:
        """Return the next `count` (rounded up to 8) bytes; what is read in multiples of 8 is what is read at once."""
        return self._stream.random_raw(-(-count // 8)).view(np.uint8)[:count]

    def below(self, probability: float, count: int) -> np.ndarray:
        """Return (count,) bool, each entry true with this probability (resolution 2⁻³²).

        One byte decides nearly every entry. Where it is the probability's own first byte, 24 more bits do.
        """
        first, rest = divmod(round(probability * 2**32), 2**24)
        octets = self.octets(count)
        below = octets < first
        if rest:
            undecided = np.flatnonzero(octets == first)
            below[undecided] = self._second.random_raw(len(undecided)) >> np.uint64(40) < rest
        return below


def random_signs(rows: int, columns: int, content: bytes) -> Tensor:
    """Return (rows, columns) of ±1, float32 on the CPU: the test matrix of a range finder."""
    bits = np.unpackbits(RandomBits(0, content).octets(-(-rows * columns // 8)))
    signs = bits[: rows * columns].astype(np.float32) * 2 - 1
    return torch.from_numpy(signs).reshape(rows, columns)
