"""The best rank-k approximation of a dense delta, nearly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_pm.core.excess import EXCESS, Precision
from lib_pm.core.layers import AnyLayer, Layer, LayerShape
from lib_pm.core.lowrank import Truncated, truncate_exact, where_decompositions_are, wide
from lib_pm.core.rng import random_signs

# What `truncate_dense` computes in.
_DTYPES: dict[Precision, torch.dtype] = {"normal": torch.float32, "exact": torch.float64}
# Below this size of the smaller side the exact decomposition costs no more than the range finder.
SMALL_SIDE = 256
# The smallest class of ranks, see `rank_class`: fewer columns at once would cost hardly less.
LEAST_CLASS = 32


def rank_class(shape: LayerShape, rank: int) -> int:
    """Return the rank that is computed where `rank` is asked for: the same for many, so that merges of other
    ranks share it.

    The next power of two, at least LEAST_CLASS, at most what the shape can have.
    """
    return min(max(LEAST_CLASS, 1 << (rank - 1).bit_length()), shape.max_rank)


def truncate_dense(delta: Tensor, rank: int, start: Tensor | None, precision: Precision = "normal") -> Truncated:
    """Return the rank-k approximation of a dense matrix, its error within EXCESS of the optimal one; exact without a
    start.

    So is that of each smaller rank that is cut from it. delta: (out, columns). start: (columns, rank), spanning much of
    its row space, see `row_space`.
    Block Krylov iteration as in Musco, Musco, arXiv:1504.05477, until what further passes would find is negligible;
    what they find falls at least geometrically. If that takes more than half of all columns, the matrix is decomposed
    as a whole, which costs no more then.
    """
    if start is None:
        return _first_of_all(delta, rank)
    matrix = where_decompositions_are(delta).to(_DTYPES[precision])
    total = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    basis = matrix.new_empty(len(matrix), 0)
    core = matrix.new_empty(0, matrix.shape[1])  # basisᵀ·matrix
    block = matrix @ start.to(matrix)
    kept = gain = matrix.new_zeros(rank, dtype=torch.float64)  # of each rank
    for passes in range(min(matrix.shape) // 2 // rank):
        for _ in range(2 if passes else 1):  # once would lose digits where most of the block is in the basis
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis, core = torch.cat([basis, block], 1), torch.cat([core, block.T @ matrix])
        wide_core = core.double()
        energies, turn = torch.linalg.eigh(wide_core @ wide_core.T)
        energies, turn = energies[-rank:].flip(0).clamp(min=0), turn[:, -rank:].flip(1)
        before, gain = gain, energies.cumsum(0) - kept
        kept = kept + gain
        falling = torch.where(before > 0, gain / before, 0.0).clamp(0.5, 0.9) if passes > 1 else 0.5
        coming = gain * falling / (1 - falling)
        if passes and bool((coming <= (EXCESS[precision] * (total - kept)).clamp(min=1e-12 * total)).all()):
            break
        block = matrix @ core[-rank:].T
    else:
        return _first_of_all(delta, rank)
    root = energies.sqrt().sqrt()  # of the singular values, whose squares the energies are
    inverse_root = torch.where(root > 0, 1 / root, 0.0)
    up, down = basis @ (turn * root).to(basis), (turn * inverse_root).T.to(core) @ core
    return Truncated(up, down, energies, max(total, float(kept[-1])))


def _first_of_all(delta: Tensor, rank: int) -> Truncated:
    """Return the first of all components that the SVD of the whole matrix has; the others give their memory back."""
    first = truncate_exact(wide(delta), min(delta.shape)).first(rank)
    return Truncated(first.up.clone(), first.down.clone(), first.energies, first.total)


def row_space(layers: Sequence[AnyLayer], weights: Sequence[float], rank: int, content: bytes) -> Tensor | None:
    """Return a start for `truncate_dense`: what the rows of the deltas have most in common, and random columns
    for the rest.

    The leading right singular vectors of the weighted deltas on top of each other (not of their sum, in which LoRAs
    may cancel each other); of those that have factors. Returns (columns, rank) float32, or None where an exact
    decomposition costs no more.
    content: seeds the random columns, so that equal input gives equal bytes.
    """
    shape = layers[0].shape
    if _whole_is_cheaper(shape, rank):
        return None
    factored = [(layer, weight) for layer, weight in zip(layers, weights, strict=True) if isinstance(layer, Layer)]
    if not factored:
        start: Tensor = random_signs(shape.columns, rank, content) / shape.columns**0.5
        return start
    down = torch.cat([wide(layer.down) for layer, _ in factored])
    if len(down) > rank:
        # For a start the lengths of the up factors' columns say enough about them.
        lengths = [
            torch.linalg.vector_norm(wide(layer.up), dim=0) * abs(weight * layer.scale) for layer, weight in factored
        ]
        down = down * torch.cat(lengths).unsqueeze(1)
        if len(down) > shape.columns:
            down = torch.linalg.eigh(down.T @ down)[1][:, -rank:].T
        else:
            down = torch.linalg.eigh(down @ down.T)[1][:, -rank:].T @ down
    down = torch.nn.functional.normalize(down.float(), dim=1)
    random = random_signs(shape.columns, rank - len(down), content).to(down) / shape.columns**0.5
    return torch.cat([down.T, random], dim=1)


def _whole_is_cheaper(shape: LayerShape, rank: int) -> bool:
    return shape.max_rank <= SMALL_SIDE or rank > shape.max_rank // 4  # it takes two passes at least


def memory_needed(shape: LayerShape, parts: int, rank: int) -> int:
    """Return about how many bytes `row_space` and `truncate_dense` take for a delta.

    parts: the sum of the LoRAs' ranks.
    """
    if _whole_is_cheaper(shape, 2 * rank):  # at half that rank, passes soon are too many
        return 8 * 6 * shape.out * shape.columns
    return 8 * 5 * rank * (shape.out + shape.columns) + 8 * 4 * min(parts, shape.columns) ** 2
