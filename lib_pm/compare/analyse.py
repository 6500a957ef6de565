"""Say how LoRAs relate before they are merged: similar or opposite, where each acts, which rank they need."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from lib_pm.compare.findings import Analysis, LoraAnalysis, Pair, Relation, Spectrum
from lib_pm.compare.meaning import meaning
from lib_pm.core.errors import MergeInputError
from lib_pm.core.relations import Relations, memory_needed, relate, sign_conflict
from lib_pm.core.scratch import Scratch
from lib_pm.families.blocks import block_order
from lib_pm.families.families import Family, kind
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.merging.devices import Device
from lib_pm.merging.layers import dense_workers, read_source, run_layers
from lib_pm.merging.memory import Need
from lib_pm.merging.plan import Plan, PlannedLayer, open_plan
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import Recipe


def analyse(
    recipe: Recipe,
    open_file: Callable[[Path], LoraFile] = open_lora,
    *,
    device: str = "auto",
    progress: Progress = silent,
    workers: int | None = None,
) -> Analysis:
    """Return how the LoRAs of a recipe relate at their strengths and block weights; its mode makes no difference.

    One layer of all LoRAs is held at a time for each worker. open_file: see `open_plan`. A MergeInputError says which
    LoRAs do not belong together.
    """
    start = time.perf_counter()
    where = Device(device)
    with open_plan(recipe, open_file, progress=progress, way_out="Compare LoRAs for the same model.") as plan:
        scratch, totals = Scratch(), _Totals(len(plan.files))
        matrices = [layer for layer in plan.layers if not layer.shape.vector]

        def needed(planned: PlannedLayer) -> int:
            return memory_needed(planned.shape, plan.ranks(planned), where.type)

        def work(planned: PlannedLayer) -> Relations:
            sources = [source for source in planned.sources if source.weight]
            out = planned.shape.out
            layers = [read_source(plan.files[source.lora], source, out) for source in sources]
            weights = [source.weight for source in sources]
            try:
                return where.run(
                    planned.name,
                    needed(planned),
                    lambda to: relate([layer.to(to) for layer in layers], weights, scratch.empty),
                )
            except OverflowError as error:
                names = ", ".join(plan.files[source.lora].path.name for source in sources)
                raise MergeInputError(
                    f"Layer {planned.name} of {names} becomes too large for float32; use smaller strengths."
                ) from error

        chosen = dense_workers(where) if workers is None else workers
        for planned, relations in run_layers(matrices, work, progress, chosen, where.type, Need(needed)):
            totals.add(_block(plan.family, planned.name), planned, relations)
        return totals.analysis(plan, time.perf_counter() - start, (*plan.model.notes, *where.notes()))


def _block(family: Family, name: str) -> str:
    return family.block(name) or ("BASE" if kind(name) == "te" else "other")


@dataclass
class _Sums:
    """Sums over layers, (n, n): the entry [i, j] is over the layers that the LoRAs i and j both have.

    inner, sizes: as in Relations. own: the squared norm of LoRA i.
    """

    inner: Tensor
    sizes: Tensor
    own: Tensor
    layers: Tensor

    @classmethod
    def zeros(cls, count: int) -> _Sums:
        return cls(*torch.zeros(4, count, count, dtype=torch.float64))

    def add(self, other: _Sums) -> None:
        for mine, others in zip(vars(self).values(), vars(other).values(), strict=True):
            mine += others

    def relations(self) -> dict[tuple[int, int], Relation]:
        """Return how i and j relate, for i < j; None for what has no value, as one is zero in all common layers."""
        inner, sizes, own, layers = (  # as lists: one number of a tensor at a time is slow for hundreds of LoRAs
            tensor.tolist() for tensor in (self.inner, self.sizes, self.own, self.layers)
        )
        relations = {}
        for i, j in combinations(range(len(inner)), 2):
            norms = math.sqrt(own[i][j]) * math.sqrt(own[j][i])
            relations[i, j] = Relation(
                int(layers[i][j]),
                min(1.0, max(-1.0, inner[i][j] / norms)) if norms else None,
                sign_conflict(inner[i][j], sizes[i][j]) if norms and sizes[i][j] else None,
            )
        return relations


@dataclass
class _Totals:
    """What is added up while the layers come in."""

    count: int
    blocks: dict[str, _Sums] = field(default_factory=dict)
    energies: list[Tensor] = field(init=False)
    sum_energies: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def __post_init__(self) -> None:
        self.energies = [torch.zeros(0, dtype=torch.float64) for _ in range(self.count)]

    def add(self, block: str, planned: PlannedLayer, relations: Relations) -> None:
        loras = [source.lora for source in planned.sources if source.weight]
        own = relations.inner.diagonal().unsqueeze(1).expand_as(relations.inner)
        sums = self.blocks.setdefault(block, _Sums.zeros(self.count))
        here = torch.tensor(loras)
        for whole, layer in (
            (sums.inner, relations.inner),
            (sums.sizes, relations.sizes),
            (sums.own, own),
            (sums.layers, torch.ones_like(own)),
        ):
            whole[here.unsqueeze(1), here] += layer
        for lora, energies in zip(loras, relations.energies, strict=True):
            self.energies[lora] = _sum(self.energies[lora], energies)
        self.sum_energies = _sum(self.sum_energies, relations.sum_energies)

    def analysis(self, plan: Plan, seconds: float, notes: tuple[str, ...]) -> Analysis:
        names = _distinct([file.name for file in plan.files])
        order = block_order(plan.family)
        blocks = sorted(self.blocks, key=lambda block: (order.index(block) if block in order else len(order), block))
        whole = _Sums.zeros(self.count)
        for sums in self.blocks.values():
            whole.add(sums)
        loras = []
        for i, (name, file) in enumerate(zip(names, plan.files, strict=True)):
            total = float(whole.own[i, i])
            share = {block: float(self.blocks[block].own[i, i]) / total if total else 0.0 for block in blocks}
            used = int(whole.layers[i, i])
            loras.append(LoraAnalysis(name, len(file.layers), used, total**0.5, share, _spectrum(self.energies[i])))
        of_blocks = {block: self.blocks[block].relations() for block in blocks}
        pairs = []
        for (i, j), relation in whole.relations().items():
            by_block = {block: relations[i, j] for block, relations in of_blocks.items()}
            says = meaning(loras[i], loras[j], relation, by_block)
            pairs.append(Pair((names[i], names[j]), relation, by_block, says))
        norm = float(self.sum_energies.sum()) ** 0.5
        return Analysis(
            plan.family.title,
            sum(not layer.shape.vector for layer in plan.layers),
            tuple(blocks),
            tuple(loras),
            tuple(pairs),
            norm,
            _spectrum(self.sum_energies),
            notes,
            seconds,
        )


def _spectrum(energies: Tensor) -> Spectrum:
    """Return the spectrum of these energies: squared singular values at each rank, added up over layers."""
    total = float(energies.sum())
    return Spectrum(tuple((energies.cumsum(0) / total).tolist()) if total else ())


def _sum(one: Tensor, other: Tensor) -> Tensor:
    """Return their sum, the shorter one filled up with zeros."""
    longer, shorter = (one, other) if len(one) > len(other) else (other.clone(), one)
    longer[: len(shorter)] += shorter
    return longer


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, numbered where one comes again."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct
