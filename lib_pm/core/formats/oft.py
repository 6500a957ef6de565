"""OFT and BOFT: the rows of the base weight are turned, block by block; BOFT does it several times, across the blocks.

Each block is stored as Q̃; Q = Q̃ − Q̃ᵀ, held to a length (the constraint, which is what alpha is here), and the turn is
R = (I + Q)(I − Q)⁻¹. By kohya and LyCORIS, whose rescale multiplies the rows afterwards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib_pm.core.formats.base import WEIGHT
from lib_pm.core.formats.kind import ALPHA, Kind, Measure, Misfit, Sizes, Tensors, need
from lib_pm.core.layers import AnyLayer, Dense, LayerShape
from lib_pm.core.ranks import FULL_RANK


def _measure(sizes: Sizes) -> Measure:
    need(sizes, "blocks")
    blocks, weight = sizes["blocks"], sizes[WEIGHT]
    fits = (
        len(weight) > 1 and len(blocks) in (3, 4) and blocks[-1] == blocks[-2] and blocks[-3] * blocks[-1] == weight[0]
    )
    if fits and len(blocks) == 4:  # each pass pairs rows that are further apart
        fits = blocks[-1] % 2 == 0 and weight[0] % (2 ** blocks[0] * (blocks[-1] // 2)) == 0
    if not fits or math.prod(sizes.get("rescale", weight[:1])) != weight[0]:
        raise Misfit(f"the base weight is {LayerShape.of(weight) if weight else 'a number'}")
    return Measure(LayerShape.of(weight), FULL_RANK, None)


def _make(tensors: Tensors, measure: Measure, scale: float) -> AnyLayer:
    shape = measure.shape
    weight = tensors[WEIGHT].reshape(shape.out, -1).float()
    alpha = float(tensors[ALPHA].reshape(())) if ALPHA in tensors else 0.0
    turns = _turns(tensors["blocks"], alpha * shape.out)
    if turns.ndim == 3:
        turned = torch.einsum("knm,knc->kmc", turns, weight.view(len(turns), -1, shape.columns)).flatten(0, 1)
    else:
        turned = _butterfly(turns, weight)
    if "rescale" in tensors:
        turned = turned * tensors["rescale"].float().reshape(-1, 1)
    return Dense(shape, turned - weight)


def _turns(blocks: Tensor, most: float) -> Tensor:
    """Return R of each block. most: the length of all Q together, 0 for any."""
    skew = blocks.double() - blocks.double().transpose(-1, -2)
    length = float(torch.linalg.vector_norm(skew)) + 1e-8
    if 0 < most < length:
        skew = skew * (most / length)
    one = torch.eye(blocks.shape[-1], dtype=skew.dtype)
    turns: Tensor = torch.linalg.solve(one - skew, one + skew, left=False)
    return turns.float()


def _butterfly(turns: Tensor, weight: Tensor) -> Tensor:
    """turns: (passes, blocks, size, size). weight: (out, columns)."""
    columns, half = weight.shape[1], turns.shape[-1] // 2
    for number, turn in enumerate(turns):
        apart = 2**number * half
        pairs = weight.view(-1, 2, apart, columns).transpose(1, 2).reshape(len(turn), -1, columns)
        turned = torch.einsum("bij,bjc->bic", turn, pairs)
        weight = turned.reshape(-1, apart, 2, columns).transpose(1, 2).reshape(-1, columns)
    return weight


OFT = Kind(
    "OFT",
    {".oft_blocks": "blocks", ".rescale": "rescale"},
    _measure,
    _make,
    "blocks count×size×size, or passes×count×size×size (BOFT), of as many rows as the base weight has",
    needs_weight=True,
)
