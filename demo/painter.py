"""Pictures on one pipeline, drawn in turn with whoever else draws on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from demo.grid import sheet as draw_sheet
from demo.grids import SEED, Cell, Sheet
from demo.tiny.model import render
from lib_pm.files.library import Library
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.pipeline.apply import Stacked, stacked


class Turns:
    """A lock with two doors: who waits at the user's comes before all that wait at the other."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._taken = False
        self._users = 0

    @contextmanager
    def user(self) -> Iterator[None]:
        with self._condition:
            self._users += 1
            self._condition.wait_for(lambda: not self._taken)
            self._users -= 1
            self._taken = True
        yield from self._held()

    @contextmanager
    def background(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._taken and not self._users)
            self._taken = True
        yield from self._held()

    def _held(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._condition:
                self._taken = False
                self._condition.notify_all()


class Painter:
    """Draws in the background's turns. drawn: called with the number of pictures that were drawn at once."""

    def __init__(
        self, pipeline: Any, library: Library, turns: Turns | None = None, drawn: Callable[[int], None] = lambda _: None
    ) -> None:
        self.library = library
        self._pipeline = pipeline
        self._turns = turns or Turns()
        self._drawn = drawn

    def picture(self, prompt: str, *loras: Stacked, file: Path | None = None) -> Image.Image:
        """Return the picture of a prompt with the LoRAs stacked. file: of a LoRA that diffusers itself loads."""
        return self._draw([prompt], [SEED], loras, file)[0]

    def sheet(self, sheet: Sheet) -> Image.Image:
        """Return a whole sheet."""
        rows = {label: self._row(row) for label, row in sheet.rows.items()}
        return draw_sheet(sheet.title, rows, sheet.columns)

    def _row(self, row: Sequence[Cell]) -> list[Image.Image]:
        """Return the pictures of cells; neighbours of the same LoRAs are drawn at once, in less than half the time."""
        groups = (list(group) for _, group in groupby(row, lambda cell: (cell.loras, cell.mode, cell.options)))
        return [picture for group in groups for picture in self._alike(group)]

    def _alike(self, cells: Sequence[Cell]) -> list[Image.Image]:
        """Return the pictures of cells that differ in prompt and seed only: LoRAs merged, or stacked without a mode."""
        first = cells[0]
        uses = [LoraUse(self.library.find(name), strength, strength) for name, strength in first.loras]
        if uses and first.mode:
            loras = [Stacked(merge(make_recipe(uses, first.mode, first.options))[0])]
        else:
            loras = list(map(read, uses))
        loras = [lora for lora in loras if lora.tensors]  # strengths of 0 merge to nothing
        return self._draw([cell.prompt for cell in cells], [cell.seed for cell in cells], loras)

    def _draw(
        self, prompts: Sequence[str], seeds: Sequence[int], loras: Sequence[Stacked], file: Path | None = None
    ) -> list[Image.Image]:
        with self._turns.background():
            if file:
                self._pipeline.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
            try:
                with stacked(self._pipeline, loras):
                    pictures = render(self._pipeline, prompts, seeds)
            finally:
                if file:
                    self._pipeline.unload_lora_weights()
        self._drawn(len(pictures))
        return [Image.fromarray((pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8)) for pixels in pictures]


def read(use: LoraUse) -> Stacked:
    """Return the LoRA by itself, as the WebUI stacks it."""
    return Stacked(load_file(use.path), use.model, use.clip)
