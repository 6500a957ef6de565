"""One layer merged: a mode applied to the layers of the LoRAs that have it, in the space of the mode."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from lib_pm.core import lowrank, truncation
from lib_pm.core.errors import MergeInputError
from lib_pm.core.excess import Precision
from lib_pm.core.layers import AnyLayer, Dense, Layer, LayerShape
from lib_pm.core.lowrank import Factors, Truncated
from lib_pm.core.memo import Content, Memo
from lib_pm.core.params import OptionValue
from lib_pm.core.ranks import FULL_RANK, NO_RANK, Rank, asked_rank
from lib_pm.core.registry import Mode
from lib_pm.core.shares import Share, active
from lib_pm.core.steps import BLOCK, GPU_BLOCK


@dataclass(frozen=True)
class MergedLayer:
    """The merged delta as factors with scale 1. kept, total: squared norms; 0 where nothing was cut off."""

    layer: Layer
    kept: float = 0.0
    total: float = 0.0

    def times(self, factor: float) -> MergedLayer:
        layer = Layer(self.layer.shape, self.layer.up * factor, self.layer.down)
        return MergedLayer(layer, self.kept * factor**2, self.total * factor**2)


@dataclass(frozen=True)
class FullLayer:
    """The merged delta itself: (out, in·kh·kw)."""

    shape: LayerShape
    delta: Tensor

    def times(self, factor: float) -> FullLayer:
        return FullLayer(self.shape, self.delta * factor)


@dataclass(frozen=True)
class _Job:
    """One layer to merge: what each way of merging takes of it.

    layers, weights, contents: one per LoRA. layers: as they are stored. shape: of the result. factor: lambda.
    """

    mode: Mode
    shape: LayerShape
    layers: list[AnyLayer]
    weights: list[float]
    contents: list[Content]
    values: Mapping[str, OptionValue]
    device: torch.device
    dtype: torch.dtype
    precision: Precision
    empty: Callable[..., Tensor]
    memo: Memo

    @property
    def digests(self) -> tuple[bytes, ...]:
        return tuple(content.digest for content in self.contents)

    @property
    def dense(self) -> bool:
        """Return whether one of the layers has no factors."""
        return any(isinstance(layer, Dense) for layer in self.layers)

    @property
    def factored(self) -> list[Layer]:
        """Return the layers as they are stored, of which none is dense."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def computed(self) -> list[AnyLayer]:
        """Return the layers on the device, factors in the dtype of the computation; a delta is converted when used."""
        return [layer.to(self.device, self.dtype if isinstance(layer, Layer) else None) for layer in self.layers]

    def stored(self) -> list[Layer]:
        """Return the factors on the device, in the dtype of their files."""
        return [layer.to(self.device) for layer in self.factored]


def merge_layer(
    mode: Mode,
    name: str,
    shares: Sequence[Share],
    values: Mapping[str, OptionValue],
    device: torch.device,
    dtype: torch.dtype,
    *,
    precision: Precision = "normal",
    empty: Callable[..., Tensor] = torch.empty,
    memo: Memo | None = None,
) -> MergedLayer | FullLayer | None:
    """Return one merged layer; None if nothing is left of it: no LoRA has a weight there, or its rank is NO_RANK.

    name: the canonical name of the layer, part of what random masks depend on. values: all options of the mode.
    svd_rank FULL_RANK gives a FullLayer, and the exact sum as factors where the mode is one.
    dtype: of the computation. precision: of the truncation of dense deltas; all others are exact.
    empty: where the stack of deltas is put, see `Scratch`. memo: results of other merges of these layers, for this one
    to use and to add to. The bytes are the same with and without it.
    """
    present = active(shares)
    if not present:
        return None
    # A 1×1 convolution is also stored as linear; the result is a convolution if any of them is.
    shape = max((share.layer.shape for share in present), key=lambda shape: len(shape.kernel))
    rank = asked_rank(shape, values)
    if rank == NO_RANK:
        return None
    memo = memo if memo and device.type == "cpu" else Memo()  # a GPU's memory is for the model
    contents = [Content(hashlib.sha256(share.content + name.encode()).digest(), memo) for share in present]
    layers, weights = [share.layer for share in present], [share.weight for share in present]
    job = _Job(mode, shape, layers, weights, contents, values, device, dtype, precision, empty, memo)
    merged = _merge(job, rank)
    factor = float(values["lambda"] or 0.0)
    return merged if factor == 1 else merged.times(factor)


def _merge(job: _Job, rank: int | None) -> MergedLayer | FullLayer:
    """Return the layer, merged in the one way that its mode and rank ask for.

    A vector has no factors: every method works on its entries. A sum with a dense layer in it is dense.
    """
    if job.shape.vector:
        return _merge_deltas(job)
    if job.mode.space == "factors":
        if job.dense:
            raise MergeInputError(needs_factors(job.mode))
        return _merge_factors(job)
    if rank is FULL_RANK:
        return _concatenate(job) if job.mode.method.linear and not job.dense else _merge_deltas(job)
    return _truncate(job, rank)


def needs_factors(mode: Mode) -> str:
    """Return why a mode on factors cannot merge a layer that has none, and what can."""
    other = f"{mode.method.id}_svd"
    return f"mode {mode.id} merges up and down factors, and here are none; use {other} or concat"


def _merge_factors(job: _Job) -> MergedLayer:
    """Return the method on the stacked up factors and on the stacked down factors, ranks padded with zeros.

    Each factor is multiplied by sqrt(|weight|·scale), the sign goes to the down factor alone, as in PEFT.
    """
    method, values = job.mode.method, job.values
    layers = [layer.to(job.device, job.dtype) for layer in job.factored]
    rank = max(layer.rank for layer in layers)
    up = torch.stack([pad(layer.up, (0, rank - layer.rank)) for layer in layers])
    down = torch.stack([pad(layer.down, (0, 0, 0, rank - layer.rank)) for layer in layers])
    products = [weight * layer.scale for weight, layer in zip(job.weights, layers, strict=True)]
    sizes = [math.sqrt(abs(product)) for product in products]
    signed = [math.copysign(size, product) for size, product in zip(sizes, products, strict=True)]
    factors = lowrank.balance(
        method(up, _tensor(sizes, up), [Content(digest + b"up") for digest in job.digests], values),
        method(down, _tensor(signed, down), [Content(digest + b"down") for digest in job.digests], values),
    )
    return MergedLayer(Layer(job.shape, *factors))


def _concatenate(job: _Job) -> MergedLayer:
    """Return the exact sum, its factors those of all LoRAs beside each other."""
    up, down, parts = lowrank.concat(job.stored(), job.weights)
    return MergedLayer(Layer(job.shape, *lowrank.balance(up.to(job.dtype), down.to(job.dtype), parts)))


def _merge_deltas(job: _Job) -> FullLayer:
    """Return the method on the deltas, as it is."""
    return FullLayer(job.shape, _delta(job, job.computed()).clone())  # the memory is used again


def _truncate(job: _Job, rank: int) -> MergedLayer:
    """Return the best approximation of that rank.

    Strengths of one ratio are the same merge but for a factor; to 12 digits, as 0.3 / 0.6 is not quite 0.1 / 0.2.
    """
    size = max(map(abs, job.weights))
    job = replace(job, weights=[float(f"{weight / size:.12g}") for weight in job.weights])
    in_factors = job.mode.method.linear and not job.dense
    truncated = (_truncated_sum if in_factors else _truncated_delta)(job, rank).times(size)
    return MergedLayer(Layer(job.shape, truncated.up, truncated.down), truncated.kept, truncated.total)


def _truncated_sum(job: _Job, rank: int) -> Truncated:
    """Return the best approximation of Σ wᵢ·ΔWᵢ, whose deltas are never formed."""
    up, down, parts = lowrank.concat(job.stored(), job.weights)
    factors = job.memo.once(("factors", *job.digests), lambda: Factors.of(up, down))
    turns = job.memo.once(("turns", *job.digests, *job.weights), lambda: factors.turns(parts))
    return factors.truncated(turns, rank)


def _truncated_delta(job: _Job, rank: int) -> Truncated:
    """Return an approximation of the method on the deltas, as good as the precision asks for."""
    most = truncation.rank_class(job.shape, rank)

    def truncate() -> Truncated:
        layers = job.computed()
        delta = _delta(job, layers)
        start = truncation.row_space(layers, job.weights, most, job.digests[0])
        return truncation.truncate_dense(delta, most, start, job.precision)

    options = (job.values[option] for option in job.mode.method.options)
    key = (job.mode.id, *job.digests, *job.weights, *options, job.dtype, job.precision, most)
    return job.memo.once(key, truncate).first(rank)


def _delta(job: _Job, layers: list[AnyLayer]) -> Tensor:
    """Return the method on the deltas: (out, in·kh·kw), in memory that is used again."""
    size = (job.shape.out, job.shape.columns)
    if job.mode.method.linear:
        return _sum(layers, job.weights, job.empty(size, dtype=job.dtype, device=job.device))
    stack = job.empty((len(layers), *size), dtype=job.dtype, device=job.device)
    for layer, out in zip(layers, stack, strict=True):
        layer.delta(out)
    return job.mode.method(stack, _tensor(job.weights, stack), job.contents, job.values)


def _sum(layers: list[AnyLayer], weights: list[float], out: Tensor) -> Tensor:
    """Return Σ wᵢ·ΔWᵢ in `out`."""
    out.zero_()
    for layer, weight in zip(layers, weights, strict=True):
        if isinstance(layer, Dense):
            out.add_(layer.matrix, alpha=weight)
        else:
            out.addmm_(layer.up * (layer.scale * weight), layer.down)
    return out


def memory_needed(
    mode: Mode,
    shape: LayerShape,
    ranks: Sequence[Rank],
    values: Mapping[str, OptionValue],
    dtype: torch.dtype,
    device: str = "cpu",
) -> int:
    """Return about how many bytes `merge_layer` takes for LoRAs of these ranks, on that kind of device."""
    rank = asked_rank(shape, values)
    if rank == NO_RANK:
        return 0
    parts, dense, whole = sum(rank or 0 for rank in ranks), ranks.count(FULL_RANK), shape.out * shape.columns
    factors = 8 * parts * (shape.out + shape.columns)  # in float64
    if dense:  # of which one at a time is made, from as much again twice
        factors += 2 * 4 * whole
    if mode.method.linear and (dense or shape.vector):
        sum_of_them = factors + whole * (4 * dense + dtype.itemsize)
        if rank is FULL_RANK:
            return sum_of_them + dtype.itemsize * whole
        return sum_of_them + truncation.memory_needed(shape, parts, truncation.rank_class(shape, rank))
    if not shape.vector and (mode.space != "delta" or (mode.method.linear and rank is FULL_RANK)):
        return 3 * factors
    if mode.method.linear:  # multiplied out where the ranks are not small, else the SVD of a core
        return 3 * factors + (8 * 5 * whole if parts > shape.max_rank // 2 else 8 * 8 * parts**2)
    block = min(len(ranks) * whole, BLOCK if device == "cpu" else GPU_BLOCK)
    stack = dtype.itemsize * (len(ranks) * whole + 5 * block) + 4 * dense * whole
    if rank is FULL_RANK:
        return factors + stack + dtype.itemsize * whole
    return factors + stack + truncation.memory_needed(shape, parts, truncation.rank_class(shape, rank))


def merged_rank(mode: Mode, shape: LayerShape, ranks: Sequence[Rank], values: Mapping[str, OptionValue]) -> Rank:
    """Return the rank that `merge_layer` gives a layer, from the ranks of its LoRAs.

    0 if it leaves the layer out, FULL_RANK if it gives a FullLayer.
    """
    if not ranks:
        return 0
    limit = asked_rank(shape, values)
    known = [rank for rank in ranks if rank is not FULL_RANK]
    if shape.vector or (len(known) < len(ranks) and limit is FULL_RANK):
        return FULL_RANK
    if mode.space == "factors":
        return max(known)
    if mode.method.linear and len(known) == len(ranks):
        return sum(known) if limit is FULL_RANK else min(limit, shape.max_rank, sum(known))
    return FULL_RANK if limit is FULL_RANK else min(limit, shape.max_rank)


def _tensor(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)
