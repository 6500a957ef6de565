"""Random numbers that depend on a seed and a content only: never on order, thread, device or global state."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


class RandomWords:
    """A stream of uniform uint32. The raw Philox stream is one that numpy promises to keep as it is."""

    def __init__(self, seed: int, content: bytes) -> None:
        key = hashlib.sha256(content + seed.to_bytes(16, "little", signed=True)).digest()[:16]
        self._philox = np.random.Philox(key=int.from_bytes(key, "little"))

    def take(self, count: int) -> np.ndarray:
        """The next `count` (rounded up to even) words; what is read in even pieces is what is read at once."""
        return self._philox.random_raw((count + 1) // 2).view(np.uint32)[:count]

    def below(self, probability: float, count: int) -> Tensor:
        """(count,) bool on the CPU, each entry true with this probability (resolution 2⁻³²)."""
        return torch.from_numpy(self.take(count) < np.uint32(min(round(probability * 2**32), 2**32 - 1)))


def random_signs(rows: int, columns: int, content: bytes) -> Tensor:
    """(rows, columns) of ±1, float32 on the CPU: the test matrix of a range finder."""
    bits = np.unpackbits(RandomWords(0, content).take((rows * columns + 31) // 32).view(np.uint8))
    signs = bits[: rows * columns].astype(np.float32) * 2 - 1
    return torch.from_numpy(signs).reshape(rows, columns)
