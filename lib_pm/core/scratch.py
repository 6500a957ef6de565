"""Memory that is used again."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch(threading.local):
    """Memory for the largest temporary of a layer, which each thread keeps for its next layer.

    The first touch of fresh memory costs several times what is computed in it; a GPU's is kept by torch itself.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory as `torch.empty` does, but what this thread had before is written over."""
        if device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        size = math.prod(shape) * dtype.itemsize
        if len(self._memory) < size:
            self._memory = torch.empty(0, dtype=torch.uint8)  # never both
            self._memory = torch.empty(size, dtype=torch.uint8)
        return self._memory[:size].view(dtype).view(*shape)
