"""Installed extensions: their folders, and the order of scripts and callbacks that a metadata.ini asks for."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from modules import paths

extensions: list[Extension] = []


class CallbackOrder(NamedTuple):
    name: str
    before: list[str]
    after: list[str]


class ExtensionMetadata:
    def __init__(self, path: str, canonical_name: str):
        self.canonical_name = canonical_name.lower().strip()
        self.config = configparser.ConfigParser()
        self.config.read(os.path.join(path, "metadata.ini"))

    def list_callback_order_instructions(self) -> Iterator[CallbackOrder]:
        for section in self.config.sections():
            name = section.removeprefix("callbacks/")
            if name != section and name.startswith(self.canonical_name):
                yield CallbackOrder(name, *(self._listed(section, field) for field in ("Before", "After")))

    def script_order(self, filename: str) -> CallbackOrder:
        """What `[scripts]` asks for all scripts, and `[scripts/NAME.py]` for this one: extensions or their scripts."""
        sections = ("scripts", f"scripts/{filename}")
        before, after = (
            [name.lower() for section in sections for name in self._listed(section, field)]
            for field in ("Before", "After")
        )
        return CallbackOrder(f"{self.canonical_name}/{filename}", before, after)

    def _listed(self, section: str, field: str) -> list[str]:
        return re.findall(r"[^,\s]+", self.config.get(section, field, fallback=""))


class Extension:
    def __init__(self, name: str, path: str, is_builtin: bool = False):
        self.name, self.path, self.enabled, self.is_builtin = name, path, True, is_builtin
        self.metadata = ExtensionMetadata(path, name)
        self.canonical_name = self.metadata.canonical_name


def active() -> list[Extension]:
    return [extension for extension in extensions if extension.enabled]


def list_extensions() -> None:
    """Those that come with the host first, each folder by name."""
    extensions.clear()
    for folder, is_builtin in ((paths.extensions_builtin_dir, True), (paths.extensions_dir, False)):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if os.path.isdir(os.path.join(folder, name)):
                extensions.append(Extension(name, os.path.join(folder, name), is_builtin))
    extensions.extend(Extension(name, path) for name, path in sorted(paths.cloned_extensions.items()))


def find_extension(filename: str) -> Extension | None:
    owners = [extension for extension in extensions if filename.startswith(extension.path + os.sep)]
    return owners[0] if owners else None
