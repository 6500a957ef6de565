"""Changes of a weight, a bias or a norm, written as they are (LyCORIS' `full` and `norm`, ComfyUI, extractions)."""

from __future__ import annotations

from lib_pm.core.formats.kind import Kind, Measure, Misfit, Sizes, Tensors
from lib_pm.core.layers import AnyLayer, Dense, LayerShape
from lib_pm.core.ranks import FULL_RANK

# What is written; the WebUIs, ComfyUI and LyCORIS read it.
WRITTEN_WEIGHT, WRITTEN_BIAS = ".diff", ".diff_b"
# What is added to the name of a layer for its bias, which is a layer of its own.
BIAS = ".bias"


def _measure(sizes: Sizes) -> Measure:
    (size,) = sizes.values()
    if not size:
        raise Misfit
    return Measure(LayerShape.of(size), FULL_RANK, None)


def _measure_bias(sizes: Sizes) -> Measure:
    measure = _measure(sizes)
    if not measure.shape.vector:
        raise Misfit
    return measure


def _make(tensors: Tensors, measure: Measure, scale: float) -> AnyLayer:
    (tensor,) = tensors.values()
    matrix = tensor.reshape(measure.shape.out, -1)
    return Dense(measure.shape, matrix if scale == 1 else matrix.float() * scale)


FULL = Kind(
    "full difference",
    {WRITTEN_WEIGHT: "diff", ".diff.weight": "diff", ".w_norm": "diff"},
    _measure,
    _make,
    "one tensor of the weight's own size",
)
BIASES = Kind(
    "bias",
    {
        WRITTEN_BIAS: "bias",
        ".diff.bias": "bias",
        ".b_norm": "bias",
        ".lora_up.bias": "scaled",  # of PEFT's lora_bias: the up factor's own bias, which alpha scales with it
        ".lora_B.bias": "scaled",
        ".lora_B.default.bias": "scaled",
    },
    _measure_bias,
    _make,
    "one row of numbers",
)
