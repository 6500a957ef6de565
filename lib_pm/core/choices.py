"""Words to choose from, for whoever lists them without the torch that they stand for."""

from __future__ import annotations

from typing import Literal, get_args

# Which strengths of the LoRAs act.
Apply = Literal["model + clip", "model", "clip"]
APPLY: tuple[Apply, ...] = get_args(Apply)

# Whose names the layers of the result have.
NAMES = ("kohya", "comfy", "diffusers", "peft", "onetrainer")

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "float16", "bfloat16", "float64")
SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
