"""DoRA: a network of another kind, and beside it the length of each row (or column) that the changed weight has.

W' = m · (W + ΔW) / ‖W + ΔW‖. PEFT has lengths of rows; so has LyCORIS, but for its first versions and OneTrainer's
files, which have those of input channels, over all rows and the kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_pm.core.formats.kind import Misfit
from lib_pm.core.layers import AnyLayer, Dense, LayerShape

MAGNITUDE, ROWS = "magnitude", "magnitude of rows"
ENDINGS = {
    ".dora_scale": MAGNITUDE,  # LyCORIS, OneTrainer, ComfyUI
    ".lora_magnitude_vector": ROWS,  # PEFT
    ".lora_magnitude_vector.weight": ROWS,
    ".lora_magnitude_vector.default": ROWS,
    ".lora_magnitude_vector.default.weight": ROWS,
}


def check_magnitude(part: str, size: tuple[int, ...], shape: LayerShape) -> None:
    """Raise a Misfit if a magnitude of that size does not belong to such a layer."""
    if math.prod(size) != (shape.out if _by_rows(part, size, shape) else shape.inner):
        raise Misfit("it has neither one magnitude for each row nor one for each column")


def decomposed(layer: AnyLayer, part: str, magnitude: Tensor, weight: Tensor) -> Dense:
    """Return what the network makes of the weight, as a delta in float32."""
    shape = layer.shape
    weight = weight.reshape(shape.out, -1).float()
    changed = weight + layer.to(torch.device("cpu"), torch.float32).delta()
    if _by_rows(part, tuple(magnitude.shape), shape):
        factors = magnitude.float().reshape(-1, 1) / torch.linalg.vector_norm(changed, dim=1, keepdim=True)
    else:
        lengths = torch.linalg.vector_norm(changed.view(shape.out, shape.inner, -1), dim=(0, 2))
        factors = (magnitude.float().flatten() / lengths).repeat_interleave(shape.columns // shape.inner)
    return Dense(shape, changed.mul_(factors).sub_(weight))


def _by_rows(part: str, size: tuple[int, ...], shape: LayerShape) -> bool:
    return part == ROWS or (bool(size) and size[0] == shape.out)
