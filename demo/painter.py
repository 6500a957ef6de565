"""Pictures on one pipeline, drawn in turn with whoever else draws on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Draws in the background's turns. drawn: called after each picture."""

    def __init__(
        self, pipeline: Any, library: Library, turns: Turns | None = None, drawn: Callable[[], None] = lambda: None
    ) -> None:
        self.library = library
        self._pipeline = pipeline
        self._turns = turns or Turns()
        self._drawn = drawn

    def picture(self, prompt: str, *loras: Stacked, seed: int = SEED, file: Path | None = None) -> Image.Image:
        """Return the picture of a prompt with the LoRAs stacked. file: of a LoRA that diffusers itself loads."""
        with self._turns.background():
            if file:
                self._pipeline.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
            try:
                with stacked(self._pipeline, loras):
                    pixels = render(self._pipeline, [prompt], [seed])[0]
            finally:
                if file:
                    self._pipeline.unload_lora_weights()
        self._drawn()
        return Image.fromarray((pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8))

    def cell(self, cell: Cell) -> Image.Image:
        """Return a cell's picture: its LoRAs merged, or stacked if it has no mode."""
        uses = [LoraUse(self.library.find(name), strength, strength) for name, strength in cell.loras]
        if not cell.mode:
            return self.picture(cell.prompt, *map(read, uses), seed=cell.seed)
        tensors = merge(make_recipe(uses, cell.mode, cell.options))[0] if uses else {}
        return self.picture(cell.prompt, *([Stacked(tensors)] if tensors else []), seed=cell.seed)

    def sheet(self, sheet: Sheet) -> Image.Image:
        """Return a whole sheet."""
        rows = {label: [self.cell(cell) for cell in row] for label, row in sheet.rows.items()}
        return draw_sheet(sheet.title, rows, sheet.columns)


def read(use: LoraUse) -> Stacked:
    """Return the LoRA by itself, as the WebUI stacks it."""
    return Stacked(load_file(use.path), use.model, use.clip)
