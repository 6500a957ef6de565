"""Pictures of a prompt on a diffusers pipeline, with its `<lora:…>` tags stacked or merged, as the WebUI makes them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from demo.painter import Turns
from demo.tiny.model import render
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import Choice
from lib_pm.merging.cache import MergeCache
from lib_pm.merging.recipe import recipe_from_request
from lib_pm.pipeline.apply import Stacked, stacked
from lib_pm.prompt.parse import LoraTag, parse_prompt, write_pm
from lib_pm.prompt.tag import split_text
from lib_pm.workspace.workspace import Workspace

_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Made:
    """pictures: (n, 3, height, width), 0..1. merged: the body of the `<pm:…>` tag, "" if nothing was merged."""

    pictures: NDArray[np.float32]
    merged: str
    notes: tuple[str, ...]


class Generator:
    """One at a time: the LoRAs are on the pipeline while it draws."""

    def __init__(self, pipeline: Future[Any], workspace: Workspace, turns: Turns) -> None:
        """pipeline: is waited for when pictures are asked for."""
        self._pipeline = pipeline
        self._workspace = workspace
        self._turns = turns
        self._cache = MergeCache(_CACHE_BYTES)

    def generate(self, text: str, panel: Choice | None, seeds: Sequence[int], *, steps: int, guidance: float) -> Made:
        """Return one picture for each seed. panel: the mode for a text that has no `<pm:…>` tag, None for no merge.

        MergeInputError for a LoRA, a mode or a value that is not there or not allowed.
        """
        request = parse_prompt(text)
        request = replace(request, choice=request.choice or panel)
        loras = [self._stacked(lora) for lora in (request.stacked if request.choice else request.loras)]
        merged, notes = "", [request.note()]
        if request.choice and request.merged:
            found = self._cache.merge(recipe_from_request(request, self._workspace.find, self._workspace.presets))
            merged = write_pm(request.choice).body
            notes += found.report.notes
            loras.append(Stacked(found.tensors))
        elif request.choice:
            notes.append("there is no <lora:…> in the prompt to merge")
        prompt = " ".join(" ".join(part for part in split_text(text) if isinstance(part, str)).split())
        pipeline = self._pipeline.result()
        with self._turns.user(), stacked(pipeline, loras):
            pictures = render(pipeline, [prompt] * len(seeds), seeds, steps=steps, guidance=guidance)
        return Made(pictures, merged, tuple(filter(None, notes)))

    def _stacked(self, tag: LoraTag) -> Stacked:
        if tag.lbw:
            raise MergeInputError(f"lbw={tag.lbw} of {tag.name} acts in a merge only; choose a mode for it.")
        return Stacked(load_file(self._workspace.find(tag.name)), tag.model, tag.clip)
