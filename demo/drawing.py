"""Sheets drawn beside the page, kept from one start to the next."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
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
    """All sheets, and before them the LoRAs' own pictures, in a thread of their own.

    done, total: pictures. sheets: the files of those that are ready, by name. what: is being drawn, "" at the end.
    error: what stopped it, for the user.
    """

    def __init__(self, pipeline: Any, out: Path, loras: Path, turns: Turns) -> None:
        """loras: the folder that the LoRAs' pictures go to."""
        self.done, self.total = 0, WAYS + len(KINDS) + sum(len(list(cells(sheet))) for sheet in SHEETS.values())
        self.sheets: dict[str, Path] = {}
        self.what = "LoRAs"
        self.error = ""
        self._out, self._loras = out, loras
        self._painter = Painter(pipeline, Library(LORAS), turns, self._count)

    def start(self) -> None:
        threading.Thread(target=self.run, name="sheets", daemon=True).start()

    def run(self) -> None:
        """Draw what is not kept."""
        try:
            self._run(state())
        except Exception as error:  # noqa: BLE001 (nobody is above this: the log gets it, the page its message)
            _log.exception("The sheets could not be drawn")
            self.error = f"{self.what}: {type(error).__name__}: {error}"
        self.what = ""

    def _run(self, key: str) -> None:
        for name in NAMES:  # what is there is shown at once
            if kept(self._file(name), key):
                self.sheets[name] = self._file(name)
                self.done += self._pictures(name)
        for name in KINDS:
            self._thumb(name, key)
        for name in NAMES:
            if name not in self.sheets:
                self.what = name
                keep(self._overview() if name == OVERVIEW else self._painter.sheet(SHEETS[name]), self._file(name), key)
                self.sheets[name] = self._file(name)

    def _thumb(self, name: str, key: str) -> None:
        """The picture beside a LoRA's file, which its row in the tab shows."""
        use = LoraUse(self._painter.library.find(name))
        file = self._loras / f"{name}.png"
        if kept(file, key):
            self.done += 1
            return
        shape = name if name in NEW_SHAPES else "circle"
        keep(self._painter.picture(f"a red {shape} on a yellow background", read(use)), file, key)

    def _overview(self) -> Image.Image:
        images, _ = ways(self._painter, self._out / "merged.safetensors")
        text, good = compare(images)
        if not good:
            raise RuntimeError(f"a merge is not what it should be. {text}")
        return overview(images)

    def _file(self, name: str) -> Path:
        return self._out / f"{name}.png"

    def _pictures(self, name: str) -> int:
        return WAYS if name == OVERVIEW else len(list(cells(SHEETS[name])))

    def _count(self) -> None:
        self.done += 1
