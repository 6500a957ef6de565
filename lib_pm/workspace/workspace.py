"""Where merges are made and saved: a folder of LoRAs, and what else the tab and the REST interface need.

Of a plain folder; a WebUI's has a kind of its own, with what the WebUI knows of its LoRAs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lib_pm.files.aliases import Aliases
from lib_pm.files.folders import walk
from lib_pm.files.library import Library, clear_name
from lib_pm.prompt.presets import load_presets
from lib_pm.workspace.job_queue import Queue, Turn
from lib_pm.workspace.saved_recipes import SavedRecipes


@dataclass(frozen=True)
class ListedLora:
    """A LoRA in a list. name: what is written into its tag. title: a second name, "" if none. thumb: a link, or ""."""

    name: str
    folder: str
    title: str = ""
    thumb: str = ""


class Workspace:
    """data: a folder of our own, for recipes. device: the one that is chosen at first."""

    def __init__(self, folder: Path, data: Path, device: str = "auto") -> None:
        self.folder = folder
        self.device = device
        self.recipes = SavedRecipes(data)
        self.queue = Queue()
        self._aliases = Aliases()

    @property
    def library(self) -> Library:
        """Return the library of LoRAs; new ones are written into its first folder only."""
        return Library(self.folder, aliases=self._aliases)

    def loras(self) -> list[ListedLora]:
        """Return all LoRAs by their shortest unambiguous names, sorted as people do."""
        names, titles = self.library.names(), self.titles()
        stems = Counter(path.stem for path in names)
        beside = cache(lambda folder: frozenset(os.listdir(folder)))
        loras = []
        for path, full in names.items():
            name = path.stem if stems[path.stem] == 1 else clear_name(full)
            picture = self.thumb(path, beside(path.parent))
            loras.append(ListedLora(name, full.rpartition("/")[0], titles.get(path, ""), picture))
        return sorted(loras, key=lambda lora: (lora.folder.casefold(), lora.name.casefold()))

    def titles(self) -> Mapping[Path, str]:
        """Return second names, where they are known without opening the files."""
        return {}

    def thumb(self, path: Path, beside: Collection[str]) -> str:
        """Return a link to a LoRA's picture, "" if there is none. beside: the names of all files in its folder."""
        return ""

    def find(self, name: str) -> Path:
        """Return the file of a LoRA's name, alias, or sub-folder and name. A MergeInputError suggests similar names."""
        return self.library.find(name)

    def name_of(self, path: Path) -> str:
        """Return the name to write into a tag for that file."""
        names = self.library.names()
        alone = sum(other.stem == path.stem for other in names) < 2
        return path.stem if alone or path not in names else clear_name(names[path])

    def folders(self) -> list[str]:
        """Return the sub-folders, first "" for the LoRA folder itself."""
        below = (folder.relative_to(self.folder).as_posix() for folder, _ in walk(self.folder))
        return sorted("" if folder == "." else folder for folder in below)

    def presets(self) -> Mapping[str, str]:
        return load_presets()

    def turn(self, device: str) -> Turn:
        """Return what a job enters while it works on that device, so that others can use it in turn."""
        return nullcontext()

    def announce(self, path: Path) -> None:
        """Make a LoRA known that was written there."""

    def public(self, text: str) -> str:
        """Return a message without the paths of the LoRA folders: its reader may not own the machine."""
        library = self.library
        for folder in (library.folder, *library.others):
            text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name)
        return text
