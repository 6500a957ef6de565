"""Words to choose from, for whoever lists them without the torch that they stand for."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "float16", "bfloat16", "float64")
