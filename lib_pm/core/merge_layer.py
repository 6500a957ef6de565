"""One layer merged: a mode applied to the layers of the LoRAs that have it, in the space of the mode."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lib_pm.core import lowrank
from lib_pm.core import truncation as dense
from lib_pm.core.excess import Precision
from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.lowrank import Factors, Truncated
from lib_pm.core.memo import Content, Memo
from lib_pm.core.params import OptionValue
from lib_pm.core.registry import Method, Mode
from lib_pm.core.steps import BLOCK, GPU_BLOCK


@dataclass(frozen=True)
class Share:
    """What a LoRA brings to a layer: its layer there, its weight (strength × block weight), a digest of the LoRA."""

    layer: Layer
    weight: float
    content: bytes


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
    """Merge one layer. None if nothing is left of it: no LoRA has a weight there, or svd_conv_rank 0 leaves it out.

    name: the canonical name of the layer, part of what random masks depend on. values: all options of the mode.
    svd_rank None gives a FullLayer, and the exact sum as factors where the mode is one.
    dtype: of the computation. precision: of the truncation of dense deltas; all others are exact.
    empty: where the stack of deltas is put, see `Scratch`. memo: what other merges of these layers have found out, for
    this one to use and to add to. The bytes are the same with and without it.
    """
    # Sorted by content, so that neither rounding nor masks know in which order the LoRAs were given.
    active = sorted((share for share in shares if share.weight != 0), key=lambda share: (share.content, share.weight))
    if not active:
        return None
    # A 1×1 convolution is also stored as linear; the result is a convolution if any of them is.
    shape = max((share.layer.shape for share in active), key=lambda shape: len(shape.kernel))
    rank = _svd_rank(shape, values)
    if rank == 0:
        return None
    memo = memo if memo and device.type == "cpu" else Memo()  # a GPU's memory is for the model
    weights = [share.weight for share in active]
    contents = [Content(hashlib.sha256(share.content + name.encode()).digest(), memo) for share in active]
    factor = float(values["lambda"] or 0.0)
    merged: MergedLayer | FullLayer
    if mode.space == "factors":
        layers = [share.layer.to(device, dtype) for share in active]
        merged = MergedLayer(Layer(shape, *_factors(mode.method, layers, weights, contents, values)))
    elif mode.method.linear and rank is None:
        up, down, parts = lowrank.concat([share.layer.to(device) for share in active], weights)
        merged = MergedLayer(Layer(shape, *lowrank.balance(up.to(dtype), down.to(dtype), parts)))
    elif rank is None:
        layers = [share.layer.to(device, dtype) for share in active]
        delta = _delta(mode.method, layers, weights, contents, values, empty)
        merged = FullLayer(shape, delta.clone())  # the stack's memory is used again
    else:
        # Strengths of one ratio are the same merge but for a factor; to 12 digits, as 0.3 / 0.6 is not quite 0.1 / 0.2.
        size = max(map(abs, weights))
        weights = [float(f"{weight / size:.12g}") for weight in weights]
        digests = tuple(content.digest for content in contents)
        if mode.method.linear:
            layers = [share.layer.to(device) for share in active]
            truncated = _truncated_sum(layers, weights, digests, rank, memo)
        else:
            most = dense.rank_class(shape, rank)

            def truncate() -> Truncated:
                layers = [share.layer.to(device, dtype) for share in active]
                delta = _delta(mode.method, layers, weights, contents, values, empty)
                start = dense.row_space(layers, weights, most, digests[0])
                return dense.truncate_dense(delta, most, start, precision)

            options = (values[option] for option in mode.method.options)
            key = (mode.id, *digests, *weights, *options, dtype, precision, most)
            truncated = memo.once(key, truncate).first(rank)
        truncated = truncated.times(size)
        merged = MergedLayer(Layer(shape, truncated.up, truncated.down), truncated.kept, truncated.total)
    return merged if factor == 1 else merged.times(factor)


def _truncated_sum(
    layers: list[Layer], weights: list[float], digests: tuple[bytes, ...], rank: int, memo: Memo
) -> Truncated:
    """The best approximation of Σ wᵢ·ΔWᵢ. digests: one per layer, by which the memo knows them."""
    up, down, parts = lowrank.concat(layers, weights)
    factors = memo.once(("factors", *digests), lambda: Factors.of(up, down))
    turns = memo.once(("turns", *digests, *weights), lambda: factors.turns(parts))
    return factors.truncated(turns, rank)


def _delta(
    method: Method,
    layers: list[Layer],
    weights: list[float],
    contents: list[Content],
    values: Mapping[str, OptionValue],
    empty: Callable[..., Tensor],
) -> Tensor:
    """The method on the stacked deltas: (out, in·kh·kw), in the memory of the stack."""
    first = layers[0]
    stack = empty((len(layers), first.shape.out, first.shape.columns), dtype=first.up.dtype, device=first.up.device)
    for layer, out in zip(layers, stack, strict=True):
        layer.delta(out)
    return method(stack, _tensor(weights, stack), contents, values)


def _factors(
    method: Method,
    layers: list[Layer],
    weights: list[float],
    contents: list[Content],
    values: Mapping[str, OptionValue],
) -> tuple[Tensor, Tensor]:
    """The method on the stacked up factors and on the stacked down factors, ranks padded with zeros.

    Each factor is multiplied by sqrt(|weight|·scale), the sign goes to the down factor alone, as in PEFT.
    """
    rank = max(layer.rank for layer in layers)
    up = torch.stack([pad(layer.up, (0, rank - layer.rank)) for layer in layers])
    down = torch.stack([pad(layer.down, (0, 0, 0, rank - layer.rank)) for layer in layers])
    products = [weight * layer.scale for weight, layer in zip(weights, layers, strict=True)]
    sizes = [math.sqrt(abs(product)) for product in products]
    signed = [math.copysign(size, product) for size, product in zip(sizes, products, strict=True)]
    return lowrank.balance(
        method(up, _tensor(sizes, up), [Content(content.digest + b"up") for content in contents], values),
        method(down, _tensor(signed, down), [Content(content.digest + b"down") for content in contents], values),
    )


def memory_needed(
    mode: Mode,
    shape: LayerShape,
    ranks: Sequence[int],
    values: Mapping[str, OptionValue],
    dtype: torch.dtype,
    device: str = "cpu",
) -> int:
    """About how many bytes `merge_layer` takes for LoRAs of these ranks, on that kind of device."""
    rank = _svd_rank(shape, values)
    if rank == 0:
        return 0
    parts, whole = sum(ranks), shape.out * shape.columns
    factors = 8 * parts * (shape.out + shape.columns)  # in float64
    if mode.space != "delta" or (mode.method.linear and rank is None):
        return 3 * factors
    if mode.method.linear:  # multiplied out where the ranks are not small, else the SVD of a core
        return 3 * factors + (8 * 5 * whole if parts > shape.max_rank // 2 else 8 * 8 * parts**2)
    block = min(len(ranks) * whole, BLOCK if device == "cpu" else GPU_BLOCK)
    stack = dtype.itemsize * (len(ranks) * whole + 5 * block)
    if rank is None:
        return factors + stack + dtype.itemsize * whole
    return factors + stack + dense.memory_needed(shape, parts, dense.rank_class(shape, rank))


def merged_rank(mode: Mode, shape: LayerShape, ranks: Sequence[int], values: Mapping[str, OptionValue]) -> int:
    """The rank that `merge_layer` gives a layer, from the ranks of the LoRAs in it; 0 if it leaves the layer out."""
    if not ranks:
        return 0
    limit = _svd_rank(shape, values)
    if mode.space == "factors":
        return max(ranks)
    if mode.method.linear:
        return sum(ranks) if limit is None else min(limit, shape.max_rank, sum(ranks))
    return shape.max_rank if limit is None else min(limit, shape.max_rank)


def _svd_rank(shape: LayerShape, values: Mapping[str, OptionValue]) -> int | None:
    """The rank that the options ask for in such a layer; None if nothing is to be truncated."""
    rank, conv_rank = values.get("svd_rank"), values.get("svd_conv_rank")
    if conv_rank is not None and shape.is_spatial:
        rank = conv_rank
    return None if rank is None else int(rank)


def _tensor(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)
