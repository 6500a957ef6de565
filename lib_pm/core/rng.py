"""Random masks that depend on a seed and a content only: never on order, thread, device or global state."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def random_words(count: int, seed: int, content: bytes) -> np.ndarray:
    """`count` uint32, uniform. The raw Philox stream is one that numpy promises to keep as it is."""
    key = hashlib.sha256(content + seed.to_bytes(16, "little", signed=True)).digest()[:16]
    words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw((count + 1) // 2)
    return words.view(np.uint32)[:count]


def keep_mask(shape: torch.Size, density: float, seed: int, content: bytes) -> Tensor:
    """Bool tensor on the CPU, each entry true with probability `density` (resolution 2⁻³²)."""
    words = random_words(shape.numel(), seed, content)
    return torch.from_numpy(words < np.uint64(round(density * 2**32))).reshape(shape)


def random_signs(rows: int, columns: int, seed: int, content: bytes) -> Tensor:
    """(rows, columns) of ±1, float32 on the CPU: the test matrix of a range finder."""
    bits = np.unpackbits(random_words((rows * columns + 31) // 32, seed, content).view(np.uint8))
    signs = bits[: rows * columns].astype(np.float32) * 2 - 1
    return torch.from_numpy(signs).reshape(rows, columns)
