"""The layers of a job, one at a time and a few side by side, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lib_pm.core.assembly import assemble
from lib_pm.core.errors import MergeInputError
from lib_pm.core.formats.full import BIAS, WRITTEN_BIAS, WRITTEN_WEIGHT
from lib_pm.core.formats.lora import WRITTEN, Naming
from lib_pm.core.layers import AnyLayer, Layer, all_finite
from lib_pm.core.lowrank import balance
from lib_pm.core.memo import Memo
from lib_pm.core.merge_layer import FullLayer, MergedLayer, memory_needed, merge_layer
from lib_pm.core.registry import Mode
from lib_pm.core.scratch import Scratch
from lib_pm.core.shares import Share
from lib_pm.files.reader import LoraFile
from lib_pm.merging.devices import Device, torch_dtype
from lib_pm.merging.memory import NOTHING, Need
from lib_pm.merging.plan import MergePlan, PlannedLayer, Source
from lib_pm.merging.precision import full_precision
from lib_pm.merging.progress import Progress
from lib_pm.merging.threads import own_threads

Result = TypeVar("Result")
LARGEST = 1e17  # norm of a layer's ΔW; that of a trained one is some tens, its square in float32 at most 3e38
MAX_WORKERS = 4  # each holds one layer's deltas; more only crowd the memory bus


def default_workers(mode: Mode, device: Device) -> int:
    """Return how many workers a merge has unless it is told.

    Linear modes have one: their layers take a millisecond each, mostly Python's, so threads only wait. On CUDA there
    are two: one copies while the other computes.
    """
    return 1 if mode.method.linear and device.type != "cuda" else dense_workers(device)


def dense_workers(device: Device) -> int:
    """Return how many workers there are for layers whose deltas are multiplied out."""
    return 2 if device.type == "cuda" else min(os.cpu_count() or 1, MAX_WORKERS)


@dataclass(frozen=True)
class Finished:
    """One layer as it is written: tensors on the CPU in the file's dtype.

    rank: of a matrix that is written whole the largest that it can have, None for a bias or a norm.
    kept, total: squared norms.
    """

    planned: PlannedLayer
    tensors: dict[str, Tensor]
    rank: int | None
    alpha: float
    kept: float
    total: float

    @property
    def is_zero(self) -> bool:
        """Return whether the layer changes nothing: one of its factors is all zeros."""
        factors = [tensor for name, tensor in self.tensors.items() if not name.endswith(".alpha")]
        return not all(bool(tensor.any()) for tensor in factors)

    @property
    def full_bytes(self) -> int:
        """Return what it takes at full rank; 0 for factors."""
        return sum(tensor.nbytes for name, tensor in self.tensors.items() if name.endswith(WRITTEN_WEIGHT))


def run_layers(
    layers: Sequence[PlannedLayer],
    work: Callable[[PlannedLayer], Result],
    progress: Progress,
    workers: int,
    device: str = "cpu",
    need: Need = NOTHING,
) -> Iterator[tuple[PlannedLayer, Result]]:
    """Yield the results of `work` on every layer in the given order.

    At most twice as many layers as workers are held at a time.

    It runs on threads of its own, each for itself, and multiplies in full: bytes depend neither on how many there are
    nor on what the host has set, and nothing is set that a host would see. device: the kind that `work` computes on. On
    the CPU there are fewer workers where the memory is tight; a MergeInputError where it is full.
    Closing the iterator, or an exception from `progress` or `work`, cancels what has not begun and waits for the rest.
    """
    if workers < 1:
        raise MergeInputError(f"threads is {workers}; allowed: a whole number, 1 or more.")
    if device == "cpu":
        workers = need.workers(workers, layers)
    work = need.watched(work)
    waiting: deque[tuple[PlannedLayer, Future[Result]]] = deque()
    rest = iter(layers)
    done = 0
    with full_precision("cpu", device):
        pool = own_threads(workers)
        try:
            while True:
                while len(waiting) < 2 * workers and (coming := next(rest, None)) is not None:
                    waiting.append((coming, pool.submit(work, coming)))
                if not waiting:
                    return
                layer, future = waiting.popleft()
                result = future.result()
                done += 1
                progress(done, len(layers), layer.name)
                yield layer, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_layer(file: LoraFile, name: str) -> AnyLayer:
    """Return the layer of a file, to compute with. One that is too large for that is a MergeInputError."""
    layer = file.read(name)
    if not layer.most <= LARGEST:
        raise MergeInputError(
            f"{file.path.name}: layer {name} is too large to compute with: the norm of its change may be "
            f"{layer.most:.3g}; allowed: up to {LARGEST:.0e}, because float32 cannot hold squares beyond it."
        )
    return layer


def read_source(file: LoraFile, source: Source, out: int) -> AnyLayer:
    """Return what a LoRA has of a layer of the result, which has so many rows, put together from its own layers."""
    parts = [(read_layer(file, piece.name), piece.rows) for piece in source.pieces]
    first, rows = parts[0]
    return assemble(parts, out) if rows else first


def layer_merger(
    plan: MergePlan, device: Device, memo: Memo | None = None
) -> Callable[[PlannedLayer], Finished | None]:
    """Return the work of a merge: read a planned layer's sources, merge them, convert to the dtype of the file.

    memo: holds what other merges have read and found out, see `merge_layer`.
    """
    memo = Memo() if memo is None else memo
    recipe = plan.recipe
    dtype = device.dtype(recipe.dtype)
    contents = [bytes.fromhex(file.content) for file in plan.files]
    alpha = plan.alpha
    scratch = Scratch()

    def merge_on(where: torch.device, planned: PlannedLayer, shares: Sequence[Share]) -> MergedLayer | FullLayer | None:
        return merge_layer(
            recipe.mode,
            planned.name,
            shares,
            recipe.options,
            where,
            dtype,
            precision=recipe.precision,
            empty=scratch.empty,
            memo=memo,
        )

    def read(source: Source, out: int) -> AnyLayer:
        file = plan.files[source.lora]
        return memo.once((file.content, source.pieces), lambda: read_source(file, source, out))

    def work(planned: PlannedLayer) -> Finished | None:
        shares = [
            Share(read(source, planned.shape.out), source.weight, contents[source.lora])
            for source in planned.sources
            if source.weight
        ]
        needed = memory_of(plan, planned, device)
        merged = device.run(planned.name, needed, lambda where: merge_on(where, planned, shares))
        owners = [plan.files[source.lora].path.name for source in planned.sources if source.weight]
        if merged is None:
            return None
        if isinstance(merged, FullLayer):
            return finish_full(planned, merged, torch_dtype(recipe.save_dtype), owners)
        return finish(planned, merged, plan.naming, torch_dtype(recipe.save_dtype), alpha, owners)

    return work


def memory_of(plan: MergePlan, planned: PlannedLayer, device: Device) -> int:
    """Return about how many bytes it takes to merge a layer there."""
    recipe, ranks = plan.recipe, plan.ranks(planned)
    return memory_needed(recipe.mode, planned.shape, ranks, recipe.options, device.dtype(recipe.dtype), device.type)


def finish(
    planned: PlannedLayer, merged: MergedLayer, naming: Naming, dtype: torch.dtype, alpha: int, owners: Sequence[str]
) -> Finished:
    """Return a merged layer as tensors of a file. owners: names of the LoRAs in it, for the error if a value does
    not fit.

    alpha: that of all layers of the file; a layer of another rank has factors to make up for it. diffusers up to 0.42
    gives most layers the commonest alpha of the file, whatever they say themselves.
    """
    rank = merged.layer.rank
    alpha = alpha if "alpha" in WRITTEN[naming] else rank
    layer = merged.layer if alpha == rank else with_scale(merged.layer, alpha / rank)
    tensors = tensors_of(planned, layer, alpha, naming, dtype, owners)
    return Finished(planned, tensors, rank, alpha, merged.kept, merged.total)


def tensors_of(
    planned: PlannedLayer, layer: Layer, alpha: float, naming: Naming, dtype: torch.dtype, owners: Sequence[str]
) -> dict[str, Tensor]:
    """Return the factors of a layer, which are stored as they are, and the alpha if these names have one."""
    shape, ones = layer.shape, (1,) * len(layer.shape.kernel)
    factors = {
        "up": layer.up.reshape(shape.out, layer.rank, *ones),
        "down": layer.down.reshape(layer.rank, shape.inner, *shape.kernel),
    }
    tensors = {}
    for part, ending in WRITTEN[naming].items():
        tensors[planned.name + ending] = (
            alpha_tensor(alpha, dtype)
            if part == "alpha"
            else _stored(factors[part], f"{part} factor", planned, dtype, owners)
        )
    return tensors


def finish_full(planned: PlannedLayer, merged: FullLayer, dtype: torch.dtype, owners: Sequence[str]) -> Finished:
    """Return a layer that is no product of factors, in the WebUIs' format for a change of the weight itself."""
    shape = merged.shape
    delta = _stored(merged.delta.reshape(shape.sizes), "delta", planned, dtype, owners)
    return Finished(planned, {full_name(planned): delta}, None if shape.vector else shape.max_rank, 0, 0.0, 0.0)


def full_name(planned: PlannedLayer) -> str:
    """Return what the tensor of a layer is called that is written whole."""
    if planned.shape.vector and planned.name.endswith(BIAS):
        return planned.name.removesuffix(BIAS) + WRITTEN_BIAS
    return planned.name + WRITTEN_WEIGHT


def _stored(tensor: Tensor, what: str, planned: PlannedLayer, dtype: torch.dtype, owners: Sequence[str]) -> Tensor:
    stored = tensor.cpu().to(dtype).contiguous()
    if not all_finite(stored):
        raise MergeInputError(
            f"Layer {planned.name}, merged from {', '.join(owners)}, has a value of {float(tensor.abs().max()):.3g} in "
            f"its {what}, but {str(dtype).removeprefix('torch.')} ends at {torch.finfo(dtype).max:.3g}; "
            "use smaller strengths, or save as float32 or bfloat16."
        )
    return stored


def with_scale(layer: Layer, scale: float) -> Layer:
    """Return factors of a layer of scale 1 for a loader that will multiply by `scale`."""
    return Layer(layer.shape, *balance(layer.up / scale, layer.down))


def alpha_tensor(alpha: float, dtype: torch.dtype) -> Tensor:
    """Return alpha in the dtype of the file, or in float32 where that dtype cannot hold the number exactly."""
    stored = torch.tensor(float(alpha), dtype=dtype)
    return stored if float(stored) == alpha else torch.tensor(float(alpha))
