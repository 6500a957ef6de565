"""Sheets drawn beside the page, kept from one start to the next."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from demo.check import WAYS, compare, overview, ways
from demo.grids import SHEETS, cells
from demo.painter import Painter, Turns, read
from demo.tiny.model import DATA
from demo.tiny.scenes import NEW_SHAPES
from demo.tiny.train_loras import KINDS
from demo.tiny.weights import LORAS
from lib_pm.files.library import Library
from lib_pm.merging.recipe import LoraUse

OVERVIEW = "overview"
NAMES = (OVERVIEW, *SHEETS)
_KEY = "drawn-from"  # in the pictures: what `state` said when they were drawn
_ROOT = Path(__file__).resolve().parents[1]
_log = logging.getLogger(__name__)


def state() -> str:
    """Return a hash of all that the pictures depend on: weights, LoRAs, this code and the libraries."""
    digest = hashlib.sha256(" ".join(version(name) for name in ("torch", "diffusers", "transformers", "peft")).encode())
    sources = (path for folder in ("lib_pm", "demo") for path in (_ROOT / folder).rglob("*.py"))
    for path in sorted([*sources, *DATA.rglob("*.safetensors")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def keep(image: Image.Image, path: Path, key: str) -> None:
    """Write a picture, whole or not at all, with its key in it."""
    info = PngImagePlugin.PngInfo()
    info.add_text(_KEY, key)
    part = path.with_suffix(".part")
    image.save(part, "PNG", pnginfo=info)
    os.replace(part, path)


def kept(path: Path, key: str) -> bool:
    """Return True if the picture is there and was drawn with this key."""
    try:
        with Image.open(path) as image:
            return image.info.get(_KEY) == key
    except OSError:
        return False


class Drawing:
    """The sheets, and before them the LoRAs' own pictures, drawn in a thread.

    done, total: pictures. sheets: files of those that are ready, by name. what: is being done, "" at the end.
    errors: of what could not be drawn, for the user.
    """

    def __init__(self, out: Path, loras: Path, turns: Turns) -> None:
        """loras: the folder that the LoRAs' pictures go to. What is kept from an earlier start is ready at once."""
        self._out, self._loras, self._turns = out, loras, turns
        self._key = state()
        self.sheets = {name: self._file(name) for name in NAMES if kept(self._file(name), self._key)}
        self.total = len(KINDS) + sum(map(_pictures, NAMES))
        self.done = sum(map(_pictures, self.sheets))
        self.what = "loading the model"
        self.errors: list[str] = []

    def start(self, pipeline: Any) -> None:
        threading.Thread(target=self.run, args=(pipeline,), name="sheets", daemon=True).start()

    def run(self, pipeline: Any) -> None:
        """Draw what is not kept. What fails is left out."""
        painter = Painter(pipeline, Library(LORAS), self._turns, self._count)
        self.thumbs(painter)
        for name in NAMES:
            if name not in self.sheets:
                self._try(name, _pictures(name), partial(self._sheet, painter, name))
        self.what = ""

    def thumbs(self, painter: Painter) -> None:
        """Draw the LoRAs' own pictures, which their rows in the tab show."""
        for name in KINDS:
            self._try(name, 1, partial(self._thumb, painter, name))

    def _try(self, name: str, pictures: int, draw: Callable[[], None]) -> None:
        self.what, before = name, self.done
        try:
            draw()
        except Exception as error:  # noqa: BLE001 (nobody is above this: the log gets it, the page its message)
            _log.exception("%s could not be drawn", name)
            self.errors.append(f"{name} could not be drawn: {type(error).__name__}: {error}")
        self.done = before + pictures

    def _thumb(self, painter: Painter, name: str) -> None:
        file = self._loras / f"{name}.png"
        if not kept(file, self._key):
            shape = name if name in NEW_SHAPES else "circle"
            use = LoraUse(painter.library.find(name))
            keep(painter.picture(f"a red {shape} on a yellow background", read(use)), file, self._key)

    def _sheet(self, painter: Painter, name: str) -> None:
        image = self._overview(painter) if name == OVERVIEW else painter.sheet(SHEETS[name])
        keep(image, self._file(name), self._key)
        self.sheets[name] = self._file(name)

    def _overview(self, painter: Painter) -> Image.Image:
        images, _ = ways(painter, self._out / "merged.safetensors")
        text, good = compare(images)
        if not good:
            raise RuntimeError(f"a merge is not what it should be. {text}")
        return overview(images)

    def _file(self, name: str) -> Path:
        return self._out / f"{name}.png"

    def _count(self, pictures: int) -> None:
        self.done += pictures


def _pictures(name: str) -> int:
    return WAYS if name == OVERVIEW else len(list(cells(SHEETS[name])))
