"""Merges kept in memory, so that a second image with the same recipe merges nothing.

One with a recipe that is like it, as in a plot over ranks or strengths, only computes what differs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.memo import Memo
from lib_pm.families.families import SD1, SD2, SDXL, Family
from lib_pm.files.base_model import IN_A_PROMPT
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.files.reading import reading
from lib_pm.files.stamps import Stamp
from lib_pm.merging.merge import merge_plan
from lib_pm.merging.plan import MergePlan, open_plan
from lib_pm.merging.progress import Progress, silent
from lib_pm.merging.recipe import Recipe
from lib_pm.merging.report import Report

# The families that a WebUI tells apart, by id.
FAMILIES = {family.id: family for family in (SD1, SD2, SDXL)}


@dataclass(frozen=True)
class Merged:
    """A merge in memory. key: its content key. tensors: those of its file. owners: layer name -> names of its LoRAs."""

    key: str
    tensors: Mapping[str, Tensor]
    owners: Mapping[str, tuple[str, ...]]
    family: Family
    report: Report

    @cached_property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class MergeCache:
    """Merges by content key, and what merges of the same LoRAs have in common; both together at most `limit` bytes.

    Of merges the least recently used are dropped when they hold more than half of that; a larger one is kept alone. All
    the room that they leave is for what they have in common, which `lib_pm.core.memo` lists.
    A file is taken for the same while its `Stamp` is; then it is not opened.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._merges: OrderedDict[str, Merged] = OrderedDict()
        self._memo = Memo()
        self._contents: dict[Stamp, str] = {}

    @property
    def bytes(self) -> int:
        """Return the bytes of the merges."""
        return sum(merged.bytes for merged in self._merges.values())

    @property
    def all_bytes(self) -> int:
        """Return the bytes of the merges and of what they have in common."""
        return self.bytes + self._memo.nbytes

    def merge(self, recipe: Recipe, *, device: str = "auto", progress: Progress = silent, model: str = "") -> Merged:
        """Return the merge of the recipe, from memory if it is there. Errors and cancelling leave the merges as
        they were.

        model: the id of the family that it has to be for, "" for any; else it is a MergeInputError.
        """
        stamps = [_stamp(use.path) for use in recipe.loras]
        known = [self._contents.get(stamp, "") for stamp in stamps]
        if all(known) and (merged := self._find(recipe.content_key(known))):
            _check_family(merged.family, model)
            return merged
        self._memo.next_round(self.limit - self.bytes)
        with open_plan(recipe, self._open, progress=progress, way_out=IN_A_PROMPT) as plan:
            _check_family(plan.family, model)
            contents = plan.contents(progress)
            stamps = [file.stamp for file in plan.files]  # of what was opened, which may have come after the question
            key = recipe.content_key(contents)
            merged = self._find(key)
            if merged is None:
                tensors, report = merge_plan(plan, device=device, progress=progress, memo=self._memo)
                merged = Merged(key, tensors, _owners(plan, report), plan.family, report)
                self._keep(merged)
        self._contents.update(zip(stamps, contents, strict=True))
        return merged

    def _open(self, path: Path) -> LoraFile:
        """Return the file that is there now, open. What was kept of it is used again if it is still the same."""
        stamp = _stamp(path)
        file = self._memo.once(stamp, lambda: open_lora(path))
        if file.stamp == stamp and file.reopen():
            return file
        file.close()
        return open_lora(path)

    def _find(self, key: str) -> Merged | None:
        merged = self._merges.get(key)
        if merged:
            self._merges.move_to_end(key)
        return merged

    def _keep(self, merged: Merged) -> None:
        if merged.bytes > self.limit:  # it would push out all others, and itself with the next one
            merged.report.notes.append(
                f"not cached: {merged.bytes / 2**20:.0f} MB exceeds the limit of {self.limit / 2**20:.0f} MB in the "
                "settings, so every image repeats the merge"
            )
            return
        self._merges[merged.key] = merged
        while len(self._merges) > 1 and self.bytes > self.limit // 2:
            self._merges.popitem(last=False)
        self._memo.shrink(self.limit - self.bytes)


def _check_family(family: Family, model: str) -> None:
    wanted = FAMILIES.get(model)
    if wanted and family.ids & FAMILIES.keys() and wanted.id not in family.ids:
        raise MergeInputError(f"The LoRAs are for {family.title}, but the loaded model is {wanted.title}.")


def _stamp(path: Path) -> Stamp:
    with reading(path):
        return Stamp.of(path)


def _owners(plan: MergePlan, report: Report) -> dict[str, tuple[str, ...]]:
    there = {layer.name for layer in report.layers}
    return {
        layer.name: tuple(plan.files[source.lora].name for source in layer.sources if source.weight)
        for layer in plan.layers
        if layer.name in there
    }
